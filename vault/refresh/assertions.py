"""What renews a connection that has no refresh token: an ID token of the person, for which a service gives access.

The connection names that of the identity provider (`renewed_by`), whose access token is the ID token. It is refreshed
like every other, under its own lease and journal. Nothing is spent at the service: each renewal uses a new assertion
(draft-ietf-oauth-identity-assertion-authz-grant-03 §4.5), so a renewal whose answer was lost is just repeated.
`vault.refresh.rotation` renews; `vault.refresh.company` opens such connections.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from vault.connections import ACCESS_TOKEN
from vault.records import ConnectionState
from vault.refresh import leases
from vault.refresh.concurrency import Vault
from vault.refresh.leases import ConnectionFacts
from vault.refresh.spending import needs_reauth
from vault.refusals import ConnectionRequired, TemporarilyUnavailable, VaultError
from vault.upstream import VouchedAccess

AGE: Final = 30  # seconds that an ID token must still live: for two requests


class Renew(Protocol):
    """`vault.refresh.rotation.refresh`."""

    async def __call__(self, vault: Vault, connection_id: str, *, if_generation: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Asserted:
    """Access to a service, and the ID token to ask with."""

    access: VouchedAccess
    id_token: str = field(repr=False)


async def identity_of(vault: Vault, facts: ConnectionFacts) -> ConnectionFacts | None:
    """The living connection to the identity provider that renews this one; None: it ended, or must sign in again."""
    found = await leases.read(vault.database, facts.renewed_by or "")
    is_theirs = found is not None and found.user_id == facts.user_id and not found.is_ended
    return found if found is not None and is_theirs and found.state is ConnectionState.ACTIVE else None


async def obstacle(vault: Vault, facts: ConnectionFacts) -> VaultError | None:
    """What a renewal would be refused with before anything is sent."""
    identity = await identity_of(vault, facts)
    if identity is None:
        return needs_reauth(facts)
    return None if _access(vault, facts, identity) is not None else _no_longer(facts)


async def prepare(vault: Vault, facts: ConnectionFacts, *, renew: Renew) -> Asserted:
    """What to renew with. Raises ConnectionRequired when the person must sign in again, TemporarilyUnavailable."""
    identity = await identity_of(vault, facts)
    if identity is None:
        raise needs_reauth(facts)
    access = _access(vault, facts, identity)
    if access is None:
        raise _no_longer(facts)
    try:
        return Asserted(access, await id_token(vault, identity, renew=renew))
    except ConnectionRequired as error:
        raise needs_reauth(facts) from error


async def id_token(vault: Vault, identity: ConnectionFacts, *, renew: Renew) -> str:
    """An ID token that lives long enough to be exchanged. Raises ConnectionRequired and TemporarilyUnavailable."""
    if identity.access_sealed is None or (identity.access_expires_at or 0) <= vault.database.now() + AGE:
        await renew(vault, identity.connection_id, if_generation=identity.access_generation)
        identity = await leases.read(vault.database, identity.connection_id) or identity
    if identity.is_ended or identity.state is not ConnectionState.ACTIVE or identity.access_sealed is None:
        raise needs_reauth(identity)
    key = identity.key(vault.keys)
    token = key.open(
        identity.access_sealed,
        purpose=ACCESS_TOKEN,
        provider=identity.provider,
        account=identity.account,
        generation=identity.access_generation,
    )
    if not token:  # it renewed without one (OpenID Connect Core §12.2 allows that)
        raise needs_reauth(identity)
    return token


def _access(vault: Vault, facts: ConnectionFacts, identity: ConnectionFacts) -> VouchedAccess | None:
    if vault.assertions is None:
        return None
    return vault.assertions.access(facts.provider, identity=identity.provider, subject=identity.account)


def _no_longer(facts: ConnectionFacts) -> TemporarilyUnavailable:
    return TemporarilyUnavailable(
        f"This vault's settings no longer have identity assertions for {facts.provider}. Ask an admin to set them up, "
        "or connect the account yourself.",
        retry_after=60,
    )
