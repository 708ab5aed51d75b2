"""Download everything that the vault stores about the person, as JSON without any secret, streamed as it is read."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime
from typing import Final

from starlette.responses import Response, StreamingResponse

from server.http import pages
from server.portal.requests import OwnVisit
from vault import (
    clients,
    company_permissions,
    connections,
    delegations,
    directory,
    grants,
    groups,
    tool_choices,
    users,
)
from vault.approvals import access_requests, approvals, standing_approvals
from vault.audit import audit
from vault.notices import channels
from vault.records import Connection, Event
from vault.sign_in import passkeys, sessions
from vault.upkeep import receipts

_EVENTS_AT_ONCE: Final = 500


async def download(visit: OwnVisit) -> Response:
    """Send everything stored about the person as JSON.

    It is read, or ended, before the answer begins: a slow reader gets nothing newer after the session has ended. The
    activity can be long, so it is never held in memory as a whole.
    """
    newest = await audit.list_events(visit.deployment.database, user_id=visit.user.id, limit=1, newest_first=True)
    parts = _write_parts(visit, await _records(visit), end=newest[0].sequence + 1 if newest else 0)
    response = pages.secure(StreamingResponse(parts, media_type="application/json"))
    response.headers["content-disposition"] = 'attachment; filename="token-vault-account.json"'
    return response


async def _write_parts(visit: OwnVisit, records: Mapping[str, object], *, end: int) -> AsyncGenerator[str]:
    """The records and the activity before the event `end`."""
    yield "{"
    for name, content in records.items():
        yield f"{json.dumps(name)}: {json.dumps(content, ensure_ascii=False)},\n"
    yield '"activity": ['
    reader, user_id = visit.deployment.database, visit.user.id
    after, comma = 0, ""
    while events := await audit.list_events(reader, user_id=user_id, after=after, before=end, limit=_EVENTS_AT_ONCE):
        for one in events:
            yield comma + json.dumps(_event(one), ensure_ascii=False)
            comma = ",\n"
        after = events[-1].sequence
    yield "]}\n"


async def _said_by_directory(visit: OwnVisit) -> Mapping[str, object] | None:
    """The company directory's data about the person, or None if no directory manages them."""
    found = await directory.get_person(visit.deployment.database, visit.user.id)
    if found is None:
        return None
    return {"userName": found.user_name, "externalId": found.external_id, **found.attributes}


async def _records(visit: OwnVisit) -> Mapping[str, object]:
    """Everything except the activity, by its name in the file."""
    database, user, now = visit.deployment.database, visit.user, visit.deployment.now()
    owned = await connections.list_connections(database, user.id, include_ended=True)
    emails = await users.list_emails(database, user.id)
    idle = visit.deployment.settings.sign_in.session_idle_lifetime
    return {
        "exported_at": _when(now),
        "user": {
            "id": user.id,
            "name": user.name,
            "is_admin": user.is_admin,
            "role": user.role.value,
            "created_at": _when(user.created_at),
        },
        "identities": [
            {"issuer": one.issuer, "subject": one.subject, "email": emails.get(one)}
            for one in await users.list_identities(database, user.id)
        ],
        "groups": [
            {"name": one.group.name, "by": list(one.sources), "until": _when(one.expires_at)}
            for one in await groups.of_person(database, user.id, now=now)
        ],
        "manages_groups": await _managed_groups(visit),
        "directory": await _said_by_directory(visit),
        "passkeys": [
            {"name": one.name, "created_at": _when(one.created_at), "used_at": _when(one.used_at)}
            for one in await passkeys.list_passkeys(database, user.id)
        ],
        "browsers": [
            {"browser": one.device, "network": one.network, "method": one.method, "used_at": _when(one.seen_at)}
            for one in await sessions.list_sessions(database, user.id, now=now, idle_lifetime=idle)
        ],
        "notifications": await _notifications(visit),
        "accounts": [_account(one, now=now) for one in owned],
        "agents": [
            {"id": one.id, "name": one.name, "kind": one.kind.value}
            for one in await clients.list_own(database, user.id, now=now)
        ],
        "sign_ins_of_agents": [
            {"agent": one.client_id, "scopes": sorted(one.scopes), "created_at": _when(one.created_at)}
            for one in await grants.list_grants(database, user.id)
        ],
        "tool_sets": [
            {"agent": client_id, "tool_set": name}
            for (_, client_id), name in (await tool_choices.of_users(database, frozenset({user.id}))).items()
        ],
        "permissions": [
            {
                "agent": one.client_id,
                "account": one.connection_id,
                "scopes": sorted(one.scopes),
                "ask": sorted(one.ask),
                "expires_at": _when(one.expires_at),
                "revoked_at": _when(one.revoked_at),
            }
            for one in await delegations.list_for_user(database, user.id)
        ],
        "permissions_by_companies": [
            {
                "company": one.company,
                "agent": one.client_id,
                "scopes": sorted(one.scopes),
                "accounts": {name: sorted(some) for name, some in one.accounts.items()},
                "renewed_at": _when(one.renewed_at),
                "expires_at": _when(one.expires_at),
                "ended_at": _when(one.ended_at),
            }
            for one in await company_permissions.list_for_user(database, user.id)
        ],
        "open_questions": [
            {
                "agent": one.client_id,
                "account": one.connection_id,
                "tool": one.tool,
                "arguments": dict(one.arguments),
                "scopes": sorted(one.scopes),
                "created_at": _when(one.created_at),
                "expires_at": _when(one.expires_at),
            }
            for one in await approvals.list_pending(database, visit.deployment.keys, user.id, now=now)
        ],
        "standing_approvals": [
            {
                "agent": one.client_id,
                "account": one.connection_id,
                "tool": one.tool,
                "target": dict(one.target),
                "calls_per_day": one.per_day,
                "created_at": _when(one.created_at),
                "expires_at": _when(one.expires_at),
            }
            for one in await standing_approvals.list_live(database, visit.deployment.keys, user.id, now=now)
        ],
        "revocations": [
            {
                "account": one.connection_id,
                "provider": one.provider,
                "result": one.result,
                "reason": one.reason,
                "issued_at": _when(one.issued_at),
                "settled_at": _when(one.settled_at),
            }
            for one in (await receipts.list_of_user(database, user.id, since=0)).values()
        ],
        "access_requests": [
            {
                "kind": one.access.kind.value,
                "agent": one.access.client_id or None,
                "target": one.access.target,
                "scopes": sorted(one.access.scopes),
                "reason": one.access.reason,
                "status": one.status(now),
                "created_at": _when(one.created_at),
                "expires_at": _when(one.expires_at),
                "answer": one.answer,
            }
            for one in await access_requests.list_of_person(database, user.id)
        ],
    }


async def _managed_groups(visit: OwnVisit) -> list[str]:
    """The names of the groups whose access requests the person answers."""
    database = visit.deployment.database
    managed = [
        await groups.get_group(database, one) for one in await access_requests.managed_by(database, visit.user.id)
    ]
    return sorted(one.name for one in managed if one is not None)


async def _notifications(visit: OwnVisit) -> Mapping[str, object]:
    """The person's notification channels, with addresses as pages show them: the rest of a URL may be a password."""
    database, keys = visit.deployment.database, visit.deployment.keys
    settings = await channels.get_settings(database, visit.user.id)
    return {
        "kinds": dict(settings.kinds),
        "language": settings.language,
        "zone": settings.zone,
        "quiet_minutes": settings.quiet,
        "digest_minute": settings.digest_at,
        "channels": [
            {"kind": one.kind, "address": one.label, "created_at": _when(one.created_at)}
            for one in await channels.list_channels(database, keys, visit.user.id)
        ],
    }


def _account(one: Connection, *, now: int) -> Mapping[str, object]:
    return {
        "id": one.id,
        "provider": one.provider,
        "account": one.label,
        "name": one.nickname,
        "scopes": sorted(one.scopes),
        "status": one.status(now),
        "created_at": _when(one.created_at),
    }


def _event(one: Event) -> Mapping[str, object]:
    return {
        "at": _when(one.at),
        "kind": one.kind,
        "outcome": one.outcome,
        "agent": one.client_id,
        "account": one.connection_id,
        "details": dict(one.details),
    }


def _when(at: int | None) -> str | None:
    """ISO 8601, UTC."""
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
