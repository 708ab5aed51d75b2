"""Events as syslog messages (RFC 5424), one per line: the message contains the details as JSON."""

from __future__ import annotations

import json
from typing import Final

from server.event_formats.exported_event import ExportedEvent
from server.event_texts import when

_AUDIT: Final = 13  # the facility "log audit" (RFC 5424 §6.2.1)
_SEVERITY: Final = {"ok": 6, "refused": 4, "failed": 3}
_ID: Final = "tokenVault@32473"  # the number that RFC 5612 reserves for examples, since the vault has none of its own


def write(exported: ExportedEvent) -> str:
    """One message without its framing."""
    event = exported.event
    priority = _AUDIT * 8 + _SEVERITY.get(event.outcome, 5)
    facts = {
        "sequence": str(event.sequence),
        "outcome": event.outcome,
        "user": exported.user,
        "userId": event.user_id,
        "agent": exported.agent,
        "clientId": event.client_id,
        "connectionId": event.connection_id,
        "leafHash": exported.hash,
    }
    shown = " ".join(f'{name}="{_escape(value)}"' for name, value in facts.items() if value is not None)
    details = json.dumps(dict(event.details), separators=(",", ":"))
    host = exported.host[:255] or "-"
    return f"<{priority}>1 {when(event.at)} {host} token-vault - {event.kind[:32]} [{_ID} {shown}] {details}"


def _escape(value: str) -> str:
    """A parameter's value (RFC 5424 §6.3.3); line breaks would end the message."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
    return "".join(letter if letter >= " " and letter != "\x7f" else " " for letter in escaped)
