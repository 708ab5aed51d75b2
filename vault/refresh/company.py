"""Open a connection without a page, for a person whose identity provider vouches for them at the service.

Uses the connection to the identity provider that signing in created. The result is a connection like every other:
no agent may use it yet, and the person can end it, after which it comes back only when they ask for it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from vault import connections
from vault.audit import audit
from vault.audit.audit import append
from vault.classes.immutable import immutable
from vault.records import TENANT, Connection, ConnectionState, Event
from vault.refresh import assertions, consents, leases, rotation
from vault.refresh.concurrency import UpstreamTokenRequest, Vault
from vault.refresh.consents import Consent
from vault.refusals import (
    CiphertextRejected,
    ConnectionRequired,
    PersonEnded,
    TemporarilyUnavailable,
    TransitionRefused,
)
from vault.storage.database import Reader
from vault.upstream import IdentityAssertions, UpstreamError

log = logging.getLogger("token_vault.company")

PAUSE: Final = 60  # seconds until a service is tried again after a refusal
SHORT_PAUSE: Final = 5  # the same when the service or the identity provider didn't answer
_REMEMBERED: Final = 1000  # refusals
_LOOKED_AT: Final = 500  # events
_UNREACHED: Final = "temporarily_unavailable"


@immutable
class CompanyAnswer:
    """The connection; or a sentence that says why there is none, empty if no one vouches for this person there.

    `is_final`: the person can't connect an account themselves, either.
    """

    connection: Connection | None
    refusal: str = ""
    is_final: bool = False


async def connect(vault: Vault, user_id: str, provider: str, *, is_asked: bool = False) -> CompanyAnswer:
    """The person's connection at this provider, opened if their identity provider vouches for them there.

    `is_asked`: the person asks, so an earlier end or refusal doesn't count. Callers in one process share the attempt.
    """
    found = vault.assertions
    if found is None or found.scopes_at(provider) is None:
        return CompanyAnswer(None)
    mine = await connections.list_connections(vault.database, user_id)
    identities = [one for one in mine if one.provider in found.identities and one.state is ConnectionState.ACTIVE]
    if not identities or (not is_asked and await _was_disconnected(vault.database, user_id, provider=provider)):
        return CompanyAnswer(None)
    request = UpstreamTokenRequest(f"company:{user_id}:{provider}", 0)
    return await vault.tasks.take_turn(
        request.connection_id,
        lambda: _connect(vault, found, identities, provider=provider, request=request, is_asked=is_asked),
    )


async def connect_all(vault: Vault, user_id: str) -> None:
    """Connect the person everywhere their identity provider may vouch for them."""
    for provider in () if vault.assertions is None else tuple(vault.assertions.services):
        await connect(vault, user_id, provider)


async def heal(vault: Vault, user_id: str, refusal: ConnectionRequired) -> bool:
    """Open the connection that an exchange lacks; False if no one vouches for the person there.

    Raises ConnectionRequired with the reason when that was refused.
    """
    if refusal.reason not in {"missing", "needs_reauth"}:
        return False
    answer = await connect(vault, user_id, refusal.provider)
    if answer.is_final:
        raise refusal.with_description(answer.refusal) from refusal
    if answer.refusal:
        way = "Connect an account yourself" if refusal.reason == "missing" else "Reconnect this account"
        told = " ".join((answer.refusal, f"{way}, then try again."))
        raise refusal.with_description(told) from refusal
    return answer.connection is not None


@immutable
class CompanyFinding:
    """Why a company's connection is missing, for operators."""

    refusal: str
    fix: str


async def explain(vault: Vault, user_id: str, provider: str) -> CompanyFinding | None:
    """Why the person's company has not connected this provider; None where companies connect nothing."""
    found = vault.assertions
    if found is None or found.scopes_at(provider) is None:
        return None
    mine = await connections.list_connections(vault.database, user_id)
    if not any(one.provider in found.identities and one.state is ConnectionState.ACTIVE for one in mine):
        titles = ", ".join(sorted(found.identities.values()))
        return CompanyFinding(
            f"Their identity provider can connect {provider} once they sign in.", f"let them sign in with {titles}"
        )
    if await _was_disconnected(vault.database, user_id, provider=provider):
        return CompanyFinding("They disconnected their account there.", "they can connect it on a page")
    for event in await audit.list_events(vault.database, user_id=user_id, newest_first=True, limit=_LOOKED_AT):
        if event.kind == "connection.unvouched" and event.details.get("provider") == provider:
            reason = str(event.details.get("reason"))
            return CompanyFinding(
                refusal_text(provider, reason), f"allow it at the identity provider, or set {provider} up to accept it"
            )
    return CompanyFinding(f"Their company connects {provider} at the next call.", "let the agent call")


async def _connect(
    vault: Vault,
    found: IdentityAssertions,
    identities: Sequence[Connection],
    *,
    provider: str,
    request: UpstreamTokenRequest,
    is_asked: bool,
) -> CompanyAnswer:
    """Ask each identity provider in turn, unless a connection works already or one of them just refused."""
    first, *_ = identities
    user_id, now = first.user_id, vault.database.now()
    for known in await connections.find(vault.database, user_id, provider=provider):
        if known.state is ConnectionState.ACTIVE:
            return CompanyAnswer(known)
    if not is_asked and vault.tasks.seconds_paused(request, now=now):
        return CompanyAnswer(None, vault.tasks.unvouched.get((user_id, provider), ""))
    refusal = ""
    for identity in identities:
        try:
            connection = await _open(vault, found, identity, provider=provider)
        except PersonEnded as error:  # no event and no pause: the company didn't refuse
            return CompanyAnswer(None, error.description, is_final=True)
        except UpstreamError as error:
            refusal = await _refuse(vault, identity, provider=provider, request=request, error=error)
        else:
            if connection is not None:
                vault.tasks.unvouched.pop((user_id, provider), None)
                return CompanyAnswer(connection)
    return CompanyAnswer(None, refusal)


async def _was_disconnected(reader: Reader, user_id: str, *, provider: str) -> bool:
    """Whether the person disconnected an account there, however it was opened, and hasn't opened another since.

    A live account that an identity assertion opened isn't checked: it is the one that works again.
    """
    row = await reader.fetch_one(
        "select ended.id from connections ended where ended.tenant = :tenant and ended.user_id = :user_id"
        " and ended.provider = :provider and ended.reason = :reason and ended.ended_at + 0 is not null"
        " and not exists (select 1 from connections live where live.tenant = :tenant and live.user_id = :user_id"
        " and live.provider = :provider and live.ended_at is null"
        " and (live.renewed_by is not null or live.created_at >= ended.ended_at)) limit 1",
        {"tenant": TENANT, "user_id": user_id, "provider": provider, "reason": connections.DISCONNECTED},
    )
    return row is not None


async def _open(vault: Vault, found: IdentityAssertions, identity: Connection, *, provider: str) -> Connection | None:
    """Get an ID token, exchange it for an assertion and that for access, and store the access.

    Raises UpstreamError and PersonEnded.
    """
    facts = await leases.read(vault.database, identity.id)
    access = found.access(provider, identity=identity.provider, subject=identity.account)
    if facts is None or access is None:
        return None
    try:
        asserted = await assertions.asserted_access(vault, facts, access, provider=provider, renew=rotation.refresh)
        answer = await asserted.access.connect(asserted.id_token)
        consent = Consent(identity.user_id, provider, found.scopes_at(provider) or frozenset(), renewed_by=identity.id)
        at_ms = consents.milliseconds(vault)
        stored = await consents.store(vault, consent, answer, at_ms=at_ms)
    except (ConnectionRequired, CiphertextRejected) as error:
        raise UpstreamError("identity_sign_in", "the sign-in there has ended") from error
    except PersonEnded:
        raise
    except TransitionRefused as error:
        raise UpstreamError("account_unknown", error.description) from error
    except TemporarilyUnavailable as error:
        raise UpstreamError(_UNREACHED, error.description) from error
    return None if stored is None else stored.connection


async def _refuse(
    vault: Vault, identity: Connection, *, provider: str, request: UpstreamTokenRequest, error: UpstreamError
) -> str:
    """Record why there is no connection, and don't ask again for a while; returns the sentence for the agent."""
    now, is_short = vault.database.now(), error.code == _UNREACHED
    vault.tasks.pause(request, until=now + (SHORT_PAUSE if is_short else PAUSE), generation=0)
    sentence = refusal_text(provider, error.code)
    refused = vault.tasks.unvouched
    while len(refused) >= _REMEMBERED:
        del refused[next(iter(refused))]
    refused[identity.user_id, provider] = sentence
    details: dict[str, object] = {"provider": provider, "identity": identity.provider, "reason": error.code}
    event = Event("connection.unvouched", outcome="refused", user_id=identity.user_id, details=details)
    async with vault.database.transaction() as transaction:
        await append(transaction, event, now=now)
    log.info("no connection by assertion", extra={"provider": provider, "code": error.code})
    return sentence


def refusal_text(provider: str, code: str) -> str:
    """Why an identity assertion made no connection, and who can change that."""
    if code == _UNREACHED:
        return f"The person's company could not connect {provider}: it or the identity provider didn't answer."
    if code in {"identity_sign_in", connections.UNVOUCHED}:
        return f"The person's company can connect {provider} after they sign in to the vault again."
    if code.startswith("identity_"):
        reason = code.removeprefix("identity_")
        return f"The person's identity provider doesn't vouch for them at {provider} ({reason}): ask its admin."
    return f"{provider} didn't accept what the person's identity provider says about them ({code}): ask an admin."
