"""Events as JSON lines, with everything that a proof needs: `leaf` is the data that was hashed."""

from __future__ import annotations

import json
from base64 import b64encode

from server.event_formats.exported_event import ExportedEvent
from server.event_texts import event_fields


def write(exported: ExportedEvent) -> str:
    """One line."""
    row = event_fields(exported.event, names=exported.names)
    row |= {"user_id": exported.event.user_id, "client_id": exported.event.client_id}
    row |= {"leaf_hash": exported.hash, "leaf": b64encode(exported.leaf).decode()}
    return json.dumps(row, separators=(",", ":"))
