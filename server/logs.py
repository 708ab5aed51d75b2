"""Logging of a running process: one line per record on standard error, constant message, fields after it."""

from __future__ import annotations

import json
import logging
import sys
from typing import Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class _Fields(logging.Formatter):
    """Appends the `extra` fields, since messages are constant and the facts are in the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return f"{line} {json.dumps(fields, default=str, ensure_ascii=False)}" if fields else line


def configure(*, verbose: bool) -> None:
    """Log to standard error. Libraries are heard from warning on: at debug they would print bodies and headers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Fields("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("token_vault").setLevel(logging.DEBUG if verbose else logging.INFO)
    # a legacy client that breaks the protocol would have its whole message printed
    logging.getLogger("mcp").setLevel(logging.ERROR)
