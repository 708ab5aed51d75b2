"""The names of local clients: agents on this machine that start the program over stdio."""

from __future__ import annotations

import re
from typing import Final

RULE: Final = "Use letters, digits, spaces, '.', '_' and '-' in --client, at most 64 characters."
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


def is_local_name(name: str) -> bool:
    """Whether the name is valid."""
    return _NAME.fullmatch(name) is not None


def local_client_id(name: str) -> str:
    """The id of the local client of that name."""
    return "local-" + re.sub(r"[^a-z0-9._-]", "-", name.lower())
