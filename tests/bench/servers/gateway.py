"""ContextForge (PyPI `mcp-contextforge-gateway`) with one tool over REST and its stored token; prints an access token.

`PYTHON -m tests.bench.servers.gateway PORT UPSTREAM FOLDER`, with the Python of the environment of `make sdk-peers`.
It uses SQLite, one worker, no Redis, and JSON answers without sessions. Everything else is the default, except for the
limit of calls and for local addresses, which it refuses by default.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import threading
import time
import urllib.request
from pathlib import Path

from tests.bench.servers.upstream import serve

PORT, UPSTREAM, FOLDER = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
PERSON = "person@bench.example"


def configure() -> None:
    """Set the settings that it reads on import."""
    FOLDER.mkdir()
    os.chdir(FOLDER)
    passwords = ("PLATFORM_ADMIN_PASSWORD", "DEFAULT_USER_PASSWORD", "BASIC_AUTH_PASSWORD")
    os.environ |= {name: f"{secrets.token_urlsafe(24)}aA1!" for name in passwords}
    os.environ |= {name: secrets.token_urlsafe(32) for name in ("JWT_SECRET_KEY", "AUTH_ENCRYPTION_SECRET")}
    os.environ |= {
        "DATABASE_URL": f"sqlite:///{FOLDER}/gateway.sqlite3",
        "CACHE_TYPE": "memory",
        "PLATFORM_ADMIN_EMAIL": PERSON,
        "JSON_RESPONSE_ENABLED": "true",
        "USE_STATEFUL_SESSIONS": "false",
        "SSRF_ALLOW_LOCALHOST": "true",
        "SSRF_ALLOW_PRIVATE_NETWORKS": "true",
        "TOOL_RATE_LIMIT": "100000000",
        "RATE_LIMITING_ENABLED": "false",
        "LOG_LEVEL": "ERROR",
    }


def add_tool(token: str) -> None:
    """Register the tool, waiting up to 60 s until the server answers."""
    strings = {name: {"type": "string"} for name in ("channel", "text")}
    tool = {
        "name": "slack_post",
        "url": f"http://127.0.0.1:{UPSTREAM}/api/chat.postMessage",
        "integration_type": "REST",
        "request_type": "POST",
        "visibility": "public",
        "auth_type": "bearer",
        "auth_token": "hard-coded",
        "input_schema": {"type": "object", "properties": strings, "required": list(strings)},
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/tools",
        data=json.dumps({"tool": tool}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    for _ in range(300):
        try:
            with urllib.request.urlopen(request, timeout=30):
                return
        except ConnectionRefusedError:
            pass
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
        time.sleep(0.2)
    raise SystemExit("it did not start within 60 s")


def main() -> None:
    """Serve, and print the token once the tool can be called."""
    configure()
    from mcpgateway.main import app
    from mcpgateway.utils.create_jwt_token import create_jwt_token

    facts = {"email": PERSON, "full_name": "Person", "is_admin": True, "auth_provider": "local"}
    token = asyncio.run(create_jwt_token({"sub": PERSON}, expires_in_minutes=600, user_data=facts))

    def prepare() -> None:
        add_tool(token)
        print(token, flush=True)

    threading.Thread(target=prepare, daemon=True).start()
    serve(app, PORT)


if __name__ == "__main__":
    main()
