"""Logging of a running process to standard error: a line per record, for people or as JSON for a log store.

Messages are constant and followed by fields, and each record contains the ID of its request.
"""

from __future__ import annotations

import json
import logging
import sys
import textwrap
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, TextIO

from server.runtime.printable import printable
from server.telemetry_settings import LogForm
from vault.spans import REQUEST_ID

_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_OURS: Final = "token_vault"


def _fields_of(record: logging.LogRecord) -> dict[str, object]:
    """The id of the request, and the record's `extra` fields."""
    identity = REQUEST_ID.get()
    named: dict[str, object] = {"request_id": identity} if identity else {}
    return named | {name: value for name, value in vars(record).items() if name not in _STANDARD}


class _Lines(logging.Formatter):
    """For people: the message, then its fields.

    Only a traceback has additional lines, all indented, so that external input can't imitate a record.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- the name that logging calls
        line, fields = super().formatMessage(record), _fields_of(record)
        return printable(f"{line} {json.dumps(fields, default=str, ensure_ascii=False)}" if fields else line)

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802
        return textwrap.indent(printable(super().formatException(ei), kept="\n"), "  ")

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return textwrap.indent(printable(super().formatStack(stack_info), kept="\n"), "  ")


class JsonRecords(logging.Formatter):
    """For a log store: one JSON object in ASCII per record. A field can't replace `time`, `level`, or `message`."""

    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, object] = _fields_of(record)
        content |= {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            content["stack"] = record.stack_info
        return json.dumps(content, default=str)


class _NoForeignDetails(logging.Filter):
    """Libraries log from warning on, whatever the level of their loggers: below it, drivers print each statement with
    its parameters, and HTTP libraries print bodies and headers."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.name.partition(".")[0] == _OURS


def is_json(form: LogForm, stream: TextIO) -> bool:
    """Whether records to this stream are JSON."""
    return form == "json" or (form == "auto" and not stream.isatty())


def configure(*, verbose: bool, form: LogForm = "console") -> None:
    """Log to standard error from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_NoForeignDetails())
    if is_json(form, sys.stderr):
        handler.setFormatter(JsonRecords())
    else:
        handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(_OURS).setLevel(logging.DEBUG if verbose else logging.INFO)
    # otherwise it prints the whole message of a legacy client that breaks the protocol
    logging.getLogger("mcp").setLevel(logging.ERROR)
    # what a remote server sends that isn't a message is in the answer; here it would be quoted in a traceback
    logging.getLogger("mcp.client").setLevel(logging.CRITICAL)
