"""Events of the activity in the formats of other programs: JSON lines, syslog, OpenTelemetry logs, OCSF.

Each record has the event's number and the hash of its leaf in the Merkle tree, so that an exported copy can be compared
with a signed checkpoint, wherever it is kept and whatever was pruned since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

from server.event_formats import json_lines, ocsf, otlp, syslog
from server.event_formats.exported_event import ExportedEvent

__all__ = ["FORMATS", "ExportedEvent", "Format"]

Format = Literal["jsonl", "syslog", "otlp", "ocsf"]
FORMATS: Final[Mapping[str, Callable[[ExportedEvent], str]]] = {
    "jsonl": json_lines.write,
    "syslog": syslog.write,
    "otlp": otlp.write,
    "ocsf": ocsf.write,
}
