"""Logging of a running process: one line per record on standard error, constant message, fields after it."""

from __future__ import annotations

import json
import logging
import sys
import textwrap
from types import TracebackType
from typing import Final

from server.runtime.printable import printable

_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class _Fields(logging.Formatter):
    """Appends the `extra` fields: messages are constant, and the facts are in the fields.

    Only a traceback has lines of its own, all of them indented: what a stranger sends cannot pass for a record.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- the name that logging calls
        line = super().formatMessage(record)
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return printable(f"{line} {json.dumps(fields, default=str, ensure_ascii=False)}" if fields else line)

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802
        return textwrap.indent(printable(super().formatException(ei), kept="\n"), "  ")

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return textwrap.indent(printable(super().formatStack(stack_info), kept="\n"), "  ")


def configure(*, verbose: bool) -> None:
    """Log to standard error. Libraries log from warning on: at debug they would print bodies and headers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Fields("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("token_vault").setLevel(logging.DEBUG if verbose else logging.INFO)
    # otherwise it prints the whole message of a legacy client that breaks the protocol
    logging.getLogger("mcp").setLevel(logging.ERROR)
    # what a remote server sends that is no message is told in the answer; here it would be quoted in a traceback
    logging.getLogger("mcp.client").setLevel(logging.CRITICAL)
