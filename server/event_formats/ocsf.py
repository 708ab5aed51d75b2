"""Events in the Open Cybersecurity Schema Framework as JSON lines: Authentication or API Activity.

https://schema.ocsf.io/1.6.0. Sign-ins and their ends are class 3002, everything else is class 6003.
"""

from __future__ import annotations

import json
from typing import Final

from server.event_formats.exported_event import ExportedEvent
from server.runtime.version import VERSION

SCHEMA: Final = "1.6.0"
_AUTHENTICATION: Final = 3002
_API: Final = 6003
_SIGN_INS: Final = {"session.started": 1, "session.ended": 2, "session.ended_elsewhere": 2, "session.refused": 1}
_CREATES: Final = frozenset({"created", "opened", "registered", "issued", "given", "added", "released", "exchanged"})
_READS: Final = frozenset({"found", "looked_up"})
_UPDATES: Final = frozenset({"changed", "refreshed", "rotated", "renewed", "used", "consumed", "linked"})
_DELETES: Final = frozenset({"removed", "revoked", "closed", "ended", "pruned", "key_destroyed", "cut_off"})
_VERBS: Final = ((1, _CREATES), (2, _READS), (3, _UPDATES), (4, _DELETES))
_STATUS: Final = {"ok": (1, "Success"), "refused": (2, "Failure"), "failed": (2, "Failure")}
_SEVERITY: Final = {"ok": (1, "Informational"), "refused": (2, "Low"), "failed": (3, "Medium")}


def write(exported: ExportedEvent) -> str:
    """One event."""
    event = exported.event
    status, status_text = _STATUS.get(event.outcome, (99, "Other"))
    severity, severity_text = _SEVERITY.get(event.outcome, (1, "Informational"))
    row: dict[str, object] = {
        "time": event.at * 1000,
        "metadata": {
            "version": SCHEMA,
            "product": {"name": "Token Vault", "vendor_name": "Token Vault", "version": VERSION},
            "uid": str(event.sequence),
            "sequence": event.sequence,
            "log_name": "activity",
            "event_code": event.kind,
        },
        "severity_id": severity,
        "severity": severity_text,
        "status_id": status,
        "status": status_text,
        "status_detail": str(event.details.get("code", event.outcome)),
        "message": f"{event.kind} {event.outcome}",
        "unmapped": {"details": dict(event.details), "leaf_hash": exported.hash, "connection_id": event.connection_id},
    }
    row |= _authentication(exported) if event.kind in _SIGN_INS else _api(exported)
    return json.dumps(row, separators=(",", ":"))


def _authentication(exported: ExportedEvent) -> dict[str, object]:
    activity = _SIGN_INS[exported.event.kind]
    return {
        "category_uid": 3,
        "class_uid": _AUTHENTICATION,
        "activity_id": activity,
        "type_uid": _AUTHENTICATION * 100 + activity,
        "user": _user(exported),
        "service": {"name": "Token Vault"},
    }


def _api(exported: ExportedEvent) -> dict[str, object]:
    event = exported.event
    verb = event.kind.rpartition(".")[2]
    activity = next((number for number, verbs in _VERBS if verb in verbs), 99)
    actor: dict[str, object] = {"user": _user(exported)} if event.user_id is not None else {"app_name": "Token Vault"}
    if event.client_id is not None:
        actor |= {"app_name": exported.agent, "app_uid": event.client_id}
    operation = str(event.details.get("tool") or event.details.get("purpose") or event.kind)
    service = event.details.get("provider")
    api: dict[str, object] = {"operation": operation}
    if isinstance(service, str) and service:
        api["service"] = {"name": service}
    if isinstance(request := event.details.get("request_id"), str):
        api["request"] = {"uid": request}
    return {
        "category_uid": 6,
        "class_uid": _API,
        "activity_id": activity,
        "type_uid": _API * 100 + activity,
        "actor": actor,
        "api": api,
        "src_endpoint": {"hostname": exported.host or "localhost", "svc_name": "token-vault"},
    }


def _user(exported: ExportedEvent) -> dict[str, object]:
    event = exported.event
    return {"uid": event.user_id, "name": exported.user} if event.user_id is not None else {"name": "unknown"}
