"""The vault as a whole in the Admin API: its processes, checks, keys, and settings."""

from __future__ import annotations

import os

from server.administration import signing_keys
from server.administration.effective_settings import effective_settings
from server.administration.overview import find_troubles
from server.api.models import (
    KeysRecord,
    MasterKeyRecord,
    PersonRecord,
    ReplicaRecord,
    RotatedKey,
    SettingRecord,
    SigningKeyRecord,
    VaultHealth,
)
from server.api.operations import AdminCall, ApiOutput, instant, instant_of, operation
from server.api.people import person_record
from server.api.providers import finding_record
from server.doctor.findings import Verdict
from server.runtime.version import VERSION
from vault.keys import inventory
from vault.keys.inventory import MasterKey
from vault.keys.signing import PUBLISH_AHEAD
from vault.upkeep import key_rotation, replicas
from vault.upkeep.replicas import Replica


class CurrentSettings(ApiOutput):
    """Settings in effect."""

    items: list[SettingRecord]


class CallerRecord(ApiOutput):
    """The caller."""

    person: PersonRecord
    client_id: str
    scopes: list[str]


@operation("GET", "/me", scope="admin:read")
async def get_caller(call: AdminCall) -> CallerRecord:
    """Show the caller and the token's scopes."""
    return CallerRecord(person=person_record(call.user), client_id=call.client.id, scopes=sorted(call.principal.scopes))


@operation("GET", "/health", scope="admin:read")
async def get_health(call: AdminCall) -> VaultHealth:
    """Show which processes serve this vault, what fails in them, and the quick checks of `doctor`."""
    deployment = call.deployment
    found = await find_troubles(deployment)
    seen = await replicas.list_replicas(deployment.database)
    return VaultHealth(
        good=all(one.verdict is not Verdict.PROBLEM for one in found),
        version=VERSION,
        vault=deployment.vault_id,
        replicas=[_replica(call, one) for one in seen],
        findings=[finding_record(one) for one in found],
    )


def _replica(call: AdminCall, one: Replica) -> ReplicaRecord:
    return ReplicaRecord(
        id=one.id,
        host=one.host,
        role=one.role,
        version=one.version,
        started_at=instant_of(one.started_at),
        seen_at=instant_of(one.seen_at),
        late=call.deployment.now() - one.seen_at > replicas.LATE,
        this=one.id == call.deployment.vault.owner,
        failing=dict(one.failing),
        providers=dict(one.providers),
    )


@operation("GET", "/keys", scope="admin:read")
async def list_keys(call: AdminCall) -> KeysRecord:
    """List the master keys and the keys that tokens are signed with. Never a key itself."""
    deployment, now = call.deployment, call.deployment.now()
    found = await inventory.list_keys(deployment.database, now=now)
    await deployment.keys.signing.reload(deployment.database)
    current = deployment.keys.signing.current(now).kid
    return KeysRecord(
        source=deployment.settings.keys.source,
        masters=[await _master(call, one) for one in found.masters],
        signing=[
            SigningKeyRecord(
                kid=one.kid,
                state="current" if one.kid == current else "next" if one.active_at > now else "retiring",
                signs_from=instant_of(one.active_at),
                retires_at=instant(one.retired_at),
            )
            for one in deployment.keys.signing.list_published(now)
        ],
    )


async def _master(call: AdminCall, one: MasterKey) -> MasterKeyRecord:
    without = await key_rotation.list_without(call.deployment.database, one.id, now=call.deployment.now())
    return MasterKeyRecord(
        id=one.id,
        state=one.state,
        source=one.described,
        people=one.people,
        uses=one.uses,
        created_at=instant_of(one.created_at),
        active_at=instant(one.active_at),
        retired_at=instant(one.retired_at),
        missing_on=[] if one.state == "retired" else [each.host for each in without],
    )


@operation("POST", "/keys/signing", scope="admin:keys", status=201)
async def rotate_signing_key(call: AdminCall) -> RotatedKey:
    """Create a signing key. It is published now and used in one hour; the old one stays until its tokens expire."""
    kid = await signing_keys.rotate(call.actor)
    return RotatedKey(kid=kid, signs_from=instant_of(call.deployment.now() + PUBLISH_AHEAD))


@operation("GET", "/settings", scope="admin:read")
async def list_settings(call: AdminCall) -> CurrentSettings:
    """List the settings in effect, and where each comes from. Secrets are masked."""
    sections = effective_settings(call.deployment.settings, os.environ)
    return CurrentSettings(
        items=[
            SettingRecord(name=one.name, value=one.value, origin=one.origin, variable=one.variable)
            for _, rows in sections
            for one in rows
        ]
    )


OPERATIONS = (get_caller, get_health, list_keys, rotate_signing_key, list_settings)
