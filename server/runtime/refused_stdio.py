"""Answer an MCP client on standard input if the program can't start: an error with the reason for each request.

If the program ended immediately, its person would only see a closed connection. Uses only the standard library, since
this must not fail, too.
"""

from __future__ import annotations

import json
import sys
from typing import Final

_INTERNAL_ERROR: Final = -32603  # JSON-RPC 2.0 §5.1
_LONGEST: Final = 2**20  # bytes of a line


def answer_refused(why: str) -> None:
    """Answer every request with an error until the client closes standard input. A person at a terminal is not kept."""
    if sys.stdin is None or sys.stdin.isatty():
        return
    while line := sys.stdin.buffer.readline(_LONGEST):
        request = _request_of(line)
        if request is None:
            continue
        error = {"code": _INTERNAL_ERROR, "message": why}
        answer = json.dumps({"jsonrpc": "2.0", "id": request, "error": error})
        try:
            sys.stdout.write(answer + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            return


def _request_of(line: bytes) -> int | str | None:
    """The id of the request; None for anything that wants no answer."""
    try:
        message: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or "method" not in message:
        return None
    found: object = message.get("id")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] -- JSON
    return found if isinstance(found, int | str) and not isinstance(found, bool) else None
