"""A private internet: in a separate network, slack.com and googleapis.com are the simulator over https.

Names and addresses exist only in this process's network and mounts (`tests.support.private`). The addresses are public,
so the vault's guards still apply. Programs get the run's certificate authority from SSL_CERT_FILE.
"""

from __future__ import annotations

import fcntl
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from providers.simulator.app import build_app
from providers.simulator.local_server import Simulator
from providers.simulator.state.sandbox import Sandbox
from tests.support.network.tls import Authority, make_authority

VAULT = "vault.example.com"
_PROVIDERS = "11.0.0.1"
_VAULT = "11.0.0.2"
_FACES = {
    "slack.com": "/slack",
    "accounts.google.com": "/google",
    "oauth2.googleapis.com": "/google",
    "openidconnect.googleapis.com": "/google",
    "www.googleapis.com": "/google",
}
# As named by Claude Code 2.1.197; its document wasn't seen, so this is what RFC 8252 allows such a client.
AGENT = "https://claude.ai/oauth/claude-code-client-metadata"
_AGENT_HOST = "claude.ai"
_DOCUMENT = {
    "client_id": AGENT,
    "client_name": "Claude Code",
    "redirect_uris": ["http://localhost/callback", "http://127.0.0.1/callback"],
    "grant_types": ["authorization_code", "refresh_token"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "none",
}
_MOVED = {"/google/v1/userinfo": "/google/oauth2/v3/userinfo"}
_SIOCSIFFLAGS, _SIOCSIFADDR, _UP = 0x8914, 0x8916, 0x41


def settle(folder: Path) -> None:
    """Bring the network up and set the host names. Use it only inside our own namespaces."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _UP))
        address = socket.inet_aton("11.0.0.0")  # with its class A mask: all of 11.0.0.0/8 is this machine
        fcntl.ioctl(control, _SIOCSIFADDR, struct.pack("16sH2x4s8x", b"lo:1", socket.AF_INET, address))
    names = [f"{_PROVIDERS} {' '.join(_FACES)} {_AGENT_HOST}", f"{_VAULT} {VAULT}", "127.0.0.1 localhost"]
    hosts = folder / "hosts"
    hosts.write_text("\n".join(names) + "\n", encoding="utf-8")
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)


@dataclass
class Internet:
    """What is reachable in this network."""

    simulator: Simulator
    authority: Authority
    clock: float = 0.0  # seconds by which the providers' clocks are off

    @property
    def trust(self) -> ssl.SSLContext:
        """A TLS context for the person's browser."""
        return self.authority.client()

    def vault_socket(self) -> socket.socket:
        """The socket on which the vault's proxy listens."""
        return _listen_at(_VAULT, 443)


def _listen_at(address: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((address, port))
    listening.listen(128)
    return listening


@asynccontextmanager
async def internet(folder: Path) -> AsyncGenerator[Internet]:
    """Run Slack and Google, as strict as the real ones, until the block ends."""
    sandbox = Sandbox()
    sandbox.url = "https://accounts.google.com"
    there = Internet(Simulator(sandbox), make_authority(folder, *_FACES, _AGENT_HOST, VAULT))
    there.simulator.control("rules", face="slack", http_for_public_apps_only=True)
    config = uvicorn.Config(
        _front_with_live_addresses(build_app(sandbox), there),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        date_header=False,
        ssl_certfile=there.authority.certificate,
        ssl_keyfile=there.authority.key,
        timeout_graceful_shutdown=2,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    listening = _listen_at(_PROVIDERS, 443)
    await server.startup(sockets=[listening])
    try:
        yield there
    finally:
        sandbox.faults.closing.set()
        await server.shutdown(sockets=[listening])


def _front_with_live_addresses(app: ASGIApp, there: Internet) -> ASGIApp:
    """The live services' URLs, in front of the simulator's."""

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        host = dict(scope["headers"]).get(b"host", b"").decode().partition(":")[0]
        if host == _AGENT_HOST:
            await JSONResponse(_DOCUMENT)(scope, receive, send)
            return
        face, path = _FACES[host], str(scope["path"])
        if not path.startswith(f"{face}/"):
            path = face + path
        path = _MOVED.get(path, path)
        headers = [(b"host", b"localhost"), *((k, v) for k, v in scope["headers"] if k != b"host")]
        await app({**scope, "path": path, "raw_path": path.encode(), "headers": headers}, receive, add_date(send))

    def add_date(send: Send) -> Send:
        async def send_with_date(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = formatdate(time.time() + there.clock, usegmt=True).encode()
                message = {**message, "headers": [*message.get("headers", []), (b"date", date)]}
            await send(message)

        return send_with_date

    return front
