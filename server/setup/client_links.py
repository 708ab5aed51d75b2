"""Links that add this vault to a client with one click: Cursor and VS Code, which ask the person before they do.

cursor.com/docs/mcp/install-links; code.visualstudio.com/api/extension-guides/ai/mcp (`vscode:mcp/install?`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

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


def _compact(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
