"""Our registrations at providers that an administrator entered in the browser: client ID, sealed secret, inputs. Those
in the settings file aren't here; `server.live_providers` combines both. The salt of a secret's key stays in the key
store until the secret is replaced or removed; copies of the row in older backups then no longer open.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import field
from typing import Final

from vault.classes.immutable import immutable
from vault.envelope import Context, open_sealed, seal
from vault.keys.key_ring import KeyRing, SaltedKey
from vault.mcp.servers import McpServer
from vault.records import DAY, TENANT
from vault.storage.database import Reader, Row, Transaction, binary_or_none, integer, integer_or_none, text

_KEY: Final = "provider-registrations"
_WEEK: Final = 7 * DAY  # seconds
_READ: Final = """
    select provider, revision, client_id, sealed, inputs, is_testing, changed_at, changed_by, secret_ends_at,
        sealed_renewal
    from provider_registrations where tenant = :tenant
"""
_INSERT: Final = """
    insert into provider_registrations
        (tenant, provider, revision, client_id, sealed, inputs, is_testing, changed_at, changed_by, secret_ends_at,
        sealed_renewal)
    values (:tenant, :provider, :revision, :client_id, :sealed, :inputs, :is_testing, :now, :by, :secret_ends_at,
        :sealed_renewal)
    on conflict (tenant, provider) do nothing returning revision
"""
_UPDATE: Final = """
    update provider_registrations set revision = :revision, client_id = :client_id, sealed = :sealed, inputs = :inputs,
        is_testing = :is_testing, changed_at = :now, changed_by = :by, secret_ends_at = :secret_ends_at,
        sealed_renewal = :sealed_renewal, renewing_at = null
    where tenant = :tenant and provider = :provider and revision = :known returning revision
"""
_DELETE: Final = """
    delete from provider_registrations where tenant = :tenant and provider = :provider and revision = :known
    returning revision
"""


_CLAIM: Final = """
    update provider_registrations set renewing_at = :now
    where tenant = :tenant and provider = :provider and revision = :known
        and coalesce(renewing_at, 0) <= :before
    returning revision
"""
_CLAIMED: Final = 900  # seconds during which no one else renews it


@immutable
class ClientRenewal:
    """How a dynamically registered client is renewed (RFC 7592): at `url`, with `token`; both may be empty."""

    ends_at: int | None  # expiry of its secret
    url: str = ""
    token: str = field(default="", repr=False)


@immutable
class EnteredRegistration:
    """What an administrator enters. `client_secret` is None for a public client.

    `server`: for a provider that is someone else's MCP server, that server. `imported`: the accepted content of an
    imported API (`vault.mcp.imported_apis`), which has no registration. `renewal`: for a client that the vault
    registered itself.
    """

    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    is_testing: bool = False
    server: McpServer | None = None
    imported: str | None = field(default=None, repr=False)
    renewal: ClientRenewal | None = None


@immutable
class StoredRegistration:
    """A row; `revision` changes with each change, `changed_by` is a user's ID."""

    provider: str
    revision: str
    client_id: str
    inputs: Mapping[str, str]
    is_testing: bool
    changed_at: int
    changed_by: str
    sealed: bytes | None = field(repr=False)
    secret_ends_at: int | None = None
    sealed_renewal: bytes | None = field(default=None, repr=False)

    @property
    def renew_at(self) -> int | None:
        """When an expiring secret is renewed: after two thirds of its life, or a week before its end."""
        if self.secret_ends_at is None:
            return None
        life = self.secret_ends_at - self.changed_at
        return max(self.changed_at + life * 2 // 3, self.secret_ends_at - _WEEK)

    def is_ending(self, now: int) -> bool:
        """Whether its secret is about to expire and a quarter of the time for its renewal has passed."""
        if self.secret_ends_at is None or self.renew_at is None:
            return False
        return now >= self.renew_at + (self.secret_ends_at - self.renew_at) // 4

    @property
    def key_name(self) -> str:
        """The name under which the salt of its key is kept."""
        return f"provider:{self.provider}:{self.revision}"

    def without_secret(self) -> EnteredRegistration:
        """The entered values, with a placeholder for a secret; for checks that only need to know whether there is
        one."""
        return EnteredRegistration(
            self.client_id, None if self.sealed is None else "-", self.inputs, is_testing=self.is_testing
        )

    @property
    def context(self) -> Context:
        """The context that its secret is bound to."""
        return Context(
            "provider_registration",
            TENANT,
            provider=self.provider,
            account=self.client_id,
            record_id=self.revision,
        )

    @property
    def renewal_context(self) -> Context:
        """The context that its renewal token is bound to."""
        return Context(
            "client_renewal",
            TENANT,
            provider=self.provider,
            account=self.client_id,
            record_id=self.revision,
        )


async def list_registrations(reader: Reader) -> tuple[StoredRegistration, ...]:
    """All registrations, by the provider's name."""
    return tuple(_registration_of(row) for row in await reader.fetch(f"{_READ} order by provider", {"tenant": TENANT}))


async def list_ending(reader: Reader, *, now: int) -> tuple[StoredRegistration, ...]:
    """Registrations with expiring secrets that weren't renewed in time."""
    return tuple(one for one in await list_registrations(reader) if one.is_ending(now))


async def get_registration(reader: Reader, provider: str) -> StoredRegistration | None:
    """The registration at this provider."""
    row = await reader.fetch_one(f"{_READ} and provider = :provider", {"tenant": TENANT, "provider": provider})
    return None if row is None else _registration_of(row)


async def open_registration(reader: Reader, ring: KeyRing, stored: StoredRegistration) -> EnteredRegistration:
    """The registration with its secret. Raises CiphertextRejected when its key was destroyed, as after restoring an
    older backup."""
    secret = None
    if stored.sealed is not None:
        key = await ring.salted_key(reader, stored.key_name, purpose=_KEY)
        secret = open_sealed(stored.sealed, key=key.key, context=stored.context).decode()
    return EnteredRegistration(stored.client_id, secret, stored.inputs, stored.is_testing)


async def open_renewal(reader: Reader, ring: KeyRing, stored: StoredRegistration) -> ClientRenewal:
    """How it is renewed. Raises CiphertextRejected as `open_registration` does."""
    if stored.sealed_renewal is None:
        return ClientRenewal(stored.secret_ends_at)
    key = await ring.salted_key(reader, stored.key_name, purpose=_KEY)
    opened = open_sealed(stored.sealed_renewal, key=key.key, context=stored.renewal_context)
    url, _, token = opened.decode().partition(" ")
    return ClientRenewal(stored.secret_ends_at, url, token)


async def claim_renewal(transaction: Transaction, stored: StoredRegistration, *, now: int) -> bool:
    """Claim the renewal; False if someone else is renewing it or changed it."""
    which = {"tenant": TENANT, "provider": stored.provider, "known": stored.revision}
    return await transaction.fetch_one(_CLAIM, {**which, "now": now, "before": now - _CLAIMED}) is not None


async def save_registration(
    transaction: Transaction,
    ring: KeyRing,
    entered: EnteredRegistration,
    *,
    provider: str,
    by: str,
    now: int,
    known: StoredRegistration | None = None,
) -> StoredRegistration | None:
    """Store it in place of the `known` one, and destroy the key of the old secret.

    None if someone else changed it first: then leave the transaction with a refusal.
    """
    fresh = StoredRegistration(
        provider,
        secrets.token_urlsafe(16),
        entered.client_id,
        dict(entered.inputs),
        entered.is_testing,
        now,
        by,
        None,
    )
    sealed = sealed_renewal = None
    renewal = entered.renewal
    if entered.client_secret is not None or (renewal is not None and renewal.url):
        key: SaltedKey = await ring.create_salted_key(transaction, fresh.key_name, purpose=_KEY, now=now)
        if entered.client_secret is not None:
            sealed = seal(entered.client_secret.encode(), key=key.key, key_id=key.id, context=fresh.context)
        if renewal is not None and renewal.url:
            place = f"{renewal.url} {renewal.token}".encode()
            sealed_renewal = seal(place, key=key.key, key_id=key.id, context=fresh.renewal_context)
    values = {
        "tenant": TENANT,
        "provider": provider,
        "revision": fresh.revision,
        "client_id": fresh.client_id,
        "sealed": sealed,
        "inputs": json.dumps(fresh.inputs, sort_keys=True, separators=(",", ":")),
        "is_testing": int(fresh.is_testing),
        "now": now,
        "by": by,
        "secret_ends_at": None if renewal is None else renewal.ends_at,
        "sealed_renewal": sealed_renewal,
    }
    if known is None:
        return None if await transaction.fetch_one(_INSERT, values) is None else fresh
    if await transaction.fetch_one(_UPDATE, values | {"known": known.revision}) is None:
        return None
    await ring.destroy_connection_key(transaction, known.key_name)
    return fresh


async def remove_registration(transaction: Transaction, ring: KeyRing, known: StoredRegistration) -> bool:
    """Delete it and destroy its secret's key. False if someone else changed it first."""
    which = {"tenant": TENANT, "provider": known.provider, "known": known.revision}
    if await transaction.fetch_one(_DELETE, which) is None:
        return False
    await ring.destroy_connection_key(transaction, known.key_name)
    return True


def _registration_of(row: Row) -> StoredRegistration:
    found: object = json.loads(text(row, "inputs"))
    inputs = {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- written above
    return StoredRegistration(
        provider=text(row, "provider"),
        revision=text(row, "revision"),
        client_id=text(row, "client_id"),
        inputs=inputs,
        is_testing=bool(integer(row, "is_testing")),
        changed_at=integer(row, "changed_at"),
        changed_by=text(row, "changed_by"),
        sealed=binary_or_none(row, "sealed"),
        secret_ends_at=integer_or_none(row, "secret_ends_at"),
        sealed_renewal=binary_or_none(row, "sealed_renewal"),
    )
