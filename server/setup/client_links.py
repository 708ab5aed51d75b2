"""Links that add this vault to a client with one click: Cursor and VS Code, which ask the person before they do.

cursor.com/docs/mcp/install-links; code.visualstudio.com/api/extension-guides/ai/mcp (`vscode:mcp/install?`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from server.setup.client_kinds import CLIENTS, Machine

_CURSOR: Final = "cursor://anysphere.cursor-deeplink/mcp/install"


def install_link(client: str, name: str, entry: Mapping[str, object]) -> str | None:
    """The link for one client's entry; None for a client that has none."""
    match client:
        case "cursor":
            config = base64.b64encode(_compact(entry)).decode()
            return f"{_CURSOR}?name={quote(name, safe='')}&config={quote(config, safe='')}"
        case "vscode":
            return "vscode:mcp/install?" + quote(_compact({"name": name, **entry}), safe="")
        case _:
            return None


def web_links(url: str) -> dict[str, str]:
    """The links for a vault that serves MCP at this address, by the client's title: what a page of it can offer."""
    anywhere = Machine("", Path(), {})  # these entries are the same on every machine
    entries = {client: kind.remote("http", url, anywhere) for client, kind in CLIENTS.items()}
    links = {CLIENTS[client].title: install_link(client, "token-vault", entry) for client, entry in entries.items()}
    return {title: link for title, link in links.items() if link is not None}


def _compact(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
