"""Events as OpenTelemetry logs in JSON lines, which `/v1/logs` accepts and the collector's file receiver reads.

https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding; numbers of 64 bits are text there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from server.event_formats.exported_event import ExportedEvent
from server.runtime.version import VERSION

_SEVERITY: Final = {"ok": (9, "INFO"), "refused": (13, "WARN"), "failed": (17, "ERROR")}
_SECOND: Final = 1_000_000_000  # nanoseconds


def write(exported: ExportedEvent) -> str:
    """One request of the log service with one record."""
    event = exported.event
    number, text = _SEVERITY.get(event.outcome, (9, "INFO"))
    facts: dict[str, object] = {
        "token_vault.sequence": event.sequence,
        "token_vault.outcome": event.outcome,
        "token_vault.leaf_hash": exported.hash,
        "token_vault.connection_id": event.connection_id,
        "user.id": event.user_id,
        "user.name": exported.user,
        "token_vault.client_id": event.client_id,
        "token_vault.agent": exported.agent,
    }
    facts |= {f"token_vault.details.{name}": value for name, value in event.details.items()}
    record = {
        "timeUnixNano": str(event.at * _SECOND),
        "observedTimeUnixNano": str(event.at * _SECOND),
        "severityNumber": number,
        "severityText": text,
        "eventName": event.kind,
        "body": {"stringValue": f"{event.kind} {event.outcome}"},
        "attributes": _attributes(facts),
    }
    resource = {"service.name": "token-vault", "service.version": VERSION, "host.name": exported.host}
    scope = {"name": "token-vault.activity", "version": VERSION}
    logs = {"resource": {"attributes": _attributes(resource)}, "scopeLogs": [{"scope": scope, "logRecords": [record]}]}
    return json.dumps({"resourceLogs": [logs]}, separators=(",", ":"))


def _attributes(facts: Mapping[str, object]) -> list[dict[str, object]]:
    return [{"key": name, "value": _value(value)} for name, value in facts.items() if value is not None]


def _value(value: object) -> dict[str, object]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list():
            items: list[object] = value  # pyright: ignore[reportUnknownVariableType] -- details are plain JSON
            return {"arrayValue": {"values": [_value(one) for one in items]}}
        case _:
            return {"stringValue": str(value)}
