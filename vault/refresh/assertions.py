"""Renew a connection that has no refresh token, with an ID token of the person that a service exchanges for access.

`renewed_by` names the connection to the identity provider, whose access token is the ID token. That connection is
refreshed like every other, under its own lease and journal. The service holds no single-use token: each renewal uses a
new assertion (draft-ietf-oauth-identity-assertion-authz-grant-03 §4.5), so a renewal whose answer was lost is simply
repeated. `vault.refresh.rotation` renews; `vault.refresh.company` opens such connections.
"""

from __future__ import annotations

import contextlib
from dataclasses import field
from typing import Final, Protocol

from vault.classes.immutable import immutable
from vault.connections import ACCESS_TOKEN
from vault.records import ConnectionState
from vault.refresh import attempts, leases, takeover
from vault.refresh.concurrency import UpstreamTokenRequest, Vault
from vault.refresh.leases import ConnectionFacts
from vault.refresh.refresh_request import BROKEN_PAUSE, needs_reauth, open_refresh_token, pause_for
from vault.refusals import ConnectionRequired, StorageUnavailable, TemporarilyUnavailable, VaultError
from vault.storage.database import Transaction
from vault.upstream import NotRenewed, NotSent, Refusal, Silent, TokenAnswer, UpstreamError, VouchedAccess

AGE: Final = 30  # seconds that an ID token must still live, enough for two requests
REFUSED_PAUSE: Final = 600  # seconds until an identity provider that rejected a refresh token is asked again
# It accepts no refresh token in place of an ID token, or not this one (RFC 8693 §2.2.2); other codes are about the
# target
_NO_SUBJECT: Final = frozenset(
    f"identity_{code}" for code in ("invalid_request", "invalid_grant", "invalid_token", "unsupported_token_type")
)


class Renew(Protocol):
    """`vault.refresh.rotation.refresh`."""

    async def __call__(self, vault: Vault, connection_id: str, *, if_generation: int) -> int: ...


@immutable
class AssertionGrant:
    """Access to a service, and the ID token to request it with."""

    access: VouchedAccess
    id_token: str = field(repr=False)


@immutable
class _RefusedAccess:
    """No access: the identity provider's answer instead of an assertion (`vault.upstream.VouchedAccess`)."""

    refused: Refusal

    async def refresh(self, id_token: str, scopes: frozenset[str] | None = None, *, item: str | None = None) -> Refusal:
        """The refusal."""
        return self.refused

    async def connect(self, id_token: str) -> TokenAnswer:
        """Raises UpstreamError."""
        raise UpstreamError(self.refused.code, self.refused.description)

    async def vouch(self, refresh_token: str, scopes: frozenset[str] | None) -> Refusal:
        """The refusal."""
        return self.refused


async def identity_of(vault: Vault, facts: ConnectionFacts) -> ConnectionFacts | None:
    """The live connection to the identity provider that renews this one; None: it ended, or must sign in again."""
    found = await leases.read(vault.database, facts.renewed_by or "")
    if found is None or found.user_id != facts.user_id or found.state is not ConnectionState.ACTIVE:
        return None
    return found


async def _read_again(vault: Vault, identity: ConnectionFacts) -> ConnectionFacts:
    return await leases.read(vault.database, identity.connection_id) or identity


async def obstacle(vault: Vault, facts: ConnectionFacts) -> VaultError | None:
    """The refusal that a renewal would get before anything is sent."""
    identity = await identity_of(vault, facts)
    if identity is None:
        return needs_reauth(facts)
    return None if _access(vault, facts, identity) is not None else _no_longer(facts)


async def prepare(
    vault: Vault, facts: ConnectionFacts, *, renew: Renew, scopes: frozenset[str] | None = None
) -> AssertionGrant:
    """What to renew with. Raises ConnectionRequired when the person must sign in again, TemporarilyUnavailable."""
    identity = await identity_of(vault, facts)
    if identity is None:
        raise needs_reauth(facts)
    access = _access(vault, facts, identity)
    if access is None:
        raise _no_longer(facts)
    try:
        return await asserted_access(vault, identity, access, provider=facts.provider, renew=renew, scopes=scopes)
    except ConnectionRequired as error:
        raise needs_reauth(facts) from error


async def asserted_access(
    vault: Vault,
    identity: ConnectionFacts,
    access: VouchedAccess,
    *,
    provider: str,
    renew: Renew,
    scopes: frozenset[str] | None = None,
) -> AssertionGrant:
    """Access with an ID token or, if the identity provider renews none, with an assertion for its refresh token.

    Raises ConnectionRequired and TemporarilyUnavailable.
    """
    token = await _id_token(vault, identity, renew=renew)
    if token:
        return AssertionGrant(access, token)
    return AssertionGrant(await _by_refresh_token(vault, identity, access, provider=provider, scopes=scopes), "")


async def _by_refresh_token(
    vault: Vault, identity: ConnectionFacts, access: VouchedAccess, *, provider: str, scopes: frozenset[str] | None
) -> VouchedAccess:
    """draft-ietf-oauth-identity-assertion-authz-grant-04 §4.3: for a refresh token, where the ID token has ended."""
    identity = await _read_again(vault, identity)
    request = UpstreamTokenRequest(f"subject:{identity.connection_id}:{provider}", 0, scopes=scopes)
    if vault.tasks.seconds_paused(request, now=vault.database.now(), generation=identity.generation):
        raise needs_reauth(identity)
    outcome = await vault.tasks.take_turn(
        identity.connection_id, lambda: _show_refresh_token(vault, identity, access, scopes)
    )
    text = "The person's identity provider can't be asked right now."
    match outcome:
        case Refusal(code=code) if code in _NO_SUBJECT:
            until = vault.database.now() + REFUSED_PAUSE
            vault.tasks.pause(request, until=until, generation=identity.generation)
            raise needs_reauth(identity)
        case Refusal():
            return _RefusedAccess(outcome)
        case NotSent(retry_after=int(seconds)):
            if outcome.is_limited:
                text = "The person's identity provider is rate limiting."
            refused = TemporarilyUnavailable(text, retry_after=seconds)
            pause_for(vault, identity, request=_any_use(identity), refused=refused)
            raise refused
        case None | NotSent() | Silent():
            raise TemporarilyUnavailable(text)
        case _:
            return outcome


def _any_use(identity: ConnectionFacts) -> UpstreamTokenRequest:
    """What a rate limit of the identity provider pauses: the use of its refresh token in place of an ID token, at every
    service."""
    return UpstreamTokenRequest(f"subject:{identity.connection_id}", 0)


async def _show_refresh_token(
    vault: Vault, identity: ConnectionFacts, access: VouchedAccess, scopes: frozenset[str] | None
) -> VouchedAccess | NotRenewed | None:
    """Under the lease: if each refresh token works once, a concurrent refresh would make it look stolen.

    None: it is being refreshed, or no one knows whether it was.
    """
    limited, now = _any_use(identity), vault.database.now()
    if waiting := vault.tasks.seconds_paused(limited, now=now, generation=identity.generation):
        raise TemporarilyUnavailable(vault.tasks.why_paused(limited), retry_after=waiting)
    await attempts.pay(vault, identity.connection_id)
    facts, now = await leases.read(vault.database, identity.connection_id), vault.database.now()
    if facts is None or facts.state is not ConnectionState.ACTIVE or facts.refresh_sealed is None:
        raise needs_reauth(identity)
    if facts.sent_at is not None or not await takeover.is_free(vault, facts, now=now):
        return None
    refresh_token = open_refresh_token(facts.key(vault.keys), facts)
    await vault.database.hold_liveness(vault.owner)
    lease = leases.Lease.attempt(facts, owner=vault.owner)

    async def release(transaction: Transaction) -> None:
        await leases.release(transaction, lease)

    try:
        async with vault.database.transaction() as transaction:
            if not await leases.hold(transaction, facts, lease, now=now):
                return None
        return await access.vouch(refresh_token, scopes)
    finally:
        with contextlib.suppress(StorageUnavailable, TemporarilyUnavailable):  # it is owed then
            await attempts.write(vault, identity.connection_id, release)


async def _id_token(vault: Vault, identity: ConnectionFacts, *, renew: Renew) -> str:
    """An ID token that lives long enough to be exchanged, empty if the identity provider renews none.

    OpenID Connect Core §12.2 allows that. Raises ConnectionRequired and TemporarilyUnavailable.
    """
    if identity.access_sealed is None or (identity.access_expires_at or 0) <= vault.database.now() + AGE:
        await renew(vault, identity.connection_id, if_generation=identity.access_generation)
        identity = await _read_again(vault, identity)
    if identity.state is not ConnectionState.ACTIVE or identity.access_sealed is None:
        raise needs_reauth(identity)
    key = identity.key(vault.keys)
    return key.open(
        identity.access_sealed,
        purpose=ACCESS_TOKEN,
        provider=identity.provider,
        account=identity.account,
        generation=identity.access_generation,
    )


def _access(vault: Vault, facts: ConnectionFacts, identity: ConnectionFacts) -> VouchedAccess | None:
    if vault.assertions is None:
        return None
    return vault.assertions.access(facts.provider, identity=identity.provider, subject=identity.account)


def _no_longer(facts: ConnectionFacts) -> TemporarilyUnavailable:
    return TemporarilyUnavailable(
        f"This vault's settings no longer have identity assertions for {facts.provider}. Ask an admin to set them up, "
        "or connect the account yourself.",
        retry_after=BROKEN_PAUSE,
    )
