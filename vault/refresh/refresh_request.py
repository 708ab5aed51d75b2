"""Use a refresh token once, and settle the result: stored, refused, not sent, or unknown.

The caller holds the lease and has written the intent (`vault.refresh.rotation`). An answer is stored before anyone
uses it, however long the storage takes, even if the lease has lapsed in the meantime: a late answer may hold the only
copy of the live token.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from dataclasses import field, replace
from typing import assert_never

from vault import connections, endings
from vault.audit.audit import append
from vault.classes.immutable import immutable
from vault.connections import idle_expiry
from vault.keys.key_ring import ConnectionKey
from vault.records import Event
from vault.refresh import attempts, leases
from vault.refresh.concurrency import UpstreamTokenRequest, Vault, growing_waits
from vault.refresh.journal import JOURNAL, JournalEntry, write_answer
from vault.refresh.leases import ConnectionFacts, Lease, SealedAnswer
from vault.refresh.rules import is_newer, may_give_up, pause_after
from vault.refresh.takeover import silent, unresolved_sends
from vault.refusals import AGAIN, CiphertextRejected, ConnectionRequired, StorageUnavailable, TemporarilyUnavailable
from vault.scopes import expand, is_within, missing_scopes
from vault.storage.database import Transaction
from vault.upstream import (
    CredentialKind,
    Downscope,
    NotSent,
    RefreshOutcome,
    Refusal,
    Rotation,
    RotationMode,
    Silent,
    TokenAnswer,
    TokenRenewal,
    UpstreamPolicy,
)

log = logging.getLogger("token_vault.rotation")

STORE_WAIT = (0.05, 5.0)  # seconds between attempts to store an answer
NARROWING_PAUSE = 600  # seconds without a new attempt after the provider refused to narrow to these scopes
SOON = 2  # seconds until a request that couldn't be sent is tried again
BROKEN_PAUSE = 60  # seconds without a new attempt after our registration or a narrowing was refused


def reconnect_text(provider: str, label: str, *, renewed_by: str | None, is_groups: bool = False) -> str:
    """The sentence that says why an account must be connected again, and who can do that."""
    if is_groups:  # the vault gives no group an account that an identity provider renews
        return (
            f"{provider} no longer accepts the connection of {label}. Ask the person who gave this account to the "
            "group to reconnect it and give it again."
        )
    if renewed_by is None:
        return f"{provider} no longer accepts the connection of {label}. Reconnect this account."
    return (
        f"The person's identity provider no longer vouches for {label} at {provider}, or {provider} no longer accepts "
        "that. Sign in to the vault again, or reconnect this account."
    )


def needs_reauth(facts: ConnectionFacts) -> ConnectionRequired:
    """The refusal for a connection that its person must reconnect."""
    return ConnectionRequired(
        reconnect_text(facts.provider, facts.label, renewed_by=facts.renewed_by),
        provider=facts.provider,
        reason="needs_reauth",
        scopes=facts.scopes,
        connection_id=facts.connection_id,
        detail=facts.reason or "",
    )


def event_of(facts: ConnectionFacts, kind: str, *, outcome: str = "failed", **details: object) -> Event:
    """An event about a connection; everything except plain success is an alarm."""
    return Event(
        kind,
        outcome=outcome,
        user_id=facts.user_id,
        connection_id=facts.connection_id,
        details={"provider": facts.provider, "account": facts.label, **details},
    )


def open_refresh_token(key: ConnectionKey, facts: ConnectionFacts) -> str:
    """The refresh token of the row that was read. Raises CiphertextRejected."""
    if facts.refresh_sealed is None:
        raise CiphertextRejected("This connection has no refresh token.")
    return key.open(
        facts.refresh_sealed,
        purpose=connections.REFRESH_TOKEN,
        provider=facts.provider,
        account=facts.account,
        generation=facts.generation,
    )


def refusal_of_unsent(facts: ConnectionFacts, outcome: NotSent) -> TemporarilyUnavailable:
    """The refusal of a request that was not sent, or that the provider's rate limit turned away."""
    return TemporarilyUnavailable(
        f"{facts.provider} is rate limiting."
        if outcome.is_limited
        else f"{facts.provider} can't be asked for a new token right now.",
        retry_after=outcome.retry_after or SOON,
        detail=outcome.reason,
    )


def pause_for(
    vault: Vault, facts: ConnectionFacts, *, request: UpstreamTokenRequest, refused: TemporarilyUnavailable
) -> None:
    """Repeat this refusal for its duration instead of requesting the token again."""
    until = vault.database.now() + refused.retry_after
    vault.tasks.pause(request, until=until, generation=facts.generation, why=refused.description)


class NarrowingRefused(TemporarilyUnavailable):
    """The provider issues no token for only these scopes; the full one stays valid."""


def proves(answer: TokenAnswer, asked: frozenset[str], *, policy: UpstreamPolicy) -> bool:
    """Whether an answer states that its token has exactly the requested scopes; an answer without scopes proves
    nothing."""
    if answer.scopes is None or not is_within(answer.scopes, asked, policy=policy):
        return False
    return not missing_scopes(asked, answer.scopes | policy.always_granted, policy.covers)


def refuse_narrowing(vault: Vault, request: UpstreamTokenRequest) -> None:
    """Don't ask for this narrow token again soon."""
    vault.tasks.refuse_narrowing(request, until=vault.database.now() + NARROWING_PAUSE)


async def without_narrow(
    vault: Vault,
    facts: ConnectionFacts,
    *,
    request: UpstreamTokenRequest,
    reason: str = "",
    answered: frozenset[str] | None = None,
) -> NarrowingRefused:
    """The refusal for a token that the provider doesn't narrow; recorded, so that it isn't requested again soon.

    `reason` is the provider's own code; otherwise `answered` has the scopes of its answer, if it named any.
    """
    asked = sorted(request.scopes or ())
    refuse_narrowing(vault, request)
    if reason:
        event = event_of(facts, "narrowing.failed", asked=asked, reason=reason)
    else:
        said = None if answered is None else sorted(answered)
        event = event_of(facts, "narrowing.failed", asked=asked, answered=said)
    await vault.activity.record(event)
    log.warning("provider doesn't narrow", extra={"provider": facts.provider, "scopes": asked})
    return NarrowingRefused(f"{facts.provider} issues no token with only these scopes.", retry_after=NARROWING_PAUSE)


def is_about_us(code: str) -> bool:
    """Whether a refusal is about our registration: invalid_client, unauthorized_client, bad_client_secret ..."""
    return "client" in code


@immutable
class Spender:
    """One refresh token or ID token, opened and about to be sent for one request."""

    vault: Vault
    upstream: TokenRenewal
    policy: UpstreamPolicy
    facts: ConnectionFacts
    request: UpstreamTokenRequest
    key: ConnectionKey = field(repr=False)
    refresh_token: str = field(repr=False)  # empty for a connection that identity assertions renew
    id_token: str = field(repr=False, default="")  # for such a connection: the source of the assertion

    async def spend(self, lease: Lease) -> int | None:
        """Send, settle, and return the generation of the new token; None: read the row again."""
        token, scopes, item = self.refresh_token or self.id_token, self.request.scopes, self.request.item
        outcome = await self.upstream.refresh(token, scopes, item=item)
        if isinstance(outcome, Silent) and self.policy.rotation is RotationMode.NONE and not self._sends_password:
            outcome = await self.upstream.refresh(token, scopes, item=item)
        self._note(outcome)
        match outcome:
            case Rotation():
                return await self._keep(lease, outcome.answer)
            case Refusal(ends_grant=True):
                return await self._give_up(lease, outcome)
            case Refusal(code="invalid_scope") if self.request.scopes is not None:
                raise await self._do_without(lease, outcome)
            case Refusal():
                raise await self._blame_ourselves(lease, outcome)
            case NotSent():
                refused = (
                    self._without_secret(outcome) if outcome.lacks_secret else refusal_of_unsent(self.facts, outcome)
                )
                if outcome.retry_after is not None:
                    self._pause(refused)
                await self._unsend(lease)
                raise refused
            case Silent():
                raise await self._mark_unanswered(lease, outcome)
            case _:
                assert_never(outcome)

    def _without_secret(self, outcome: NotSent) -> TemporarilyUnavailable:
        """The refusal where a secret that is kept elsewhere can't be read there, or is refused."""
        return TemporarilyUnavailable(
            f"This vault can't read its client secret of {self.facts.provider}. Ask an admin to run token-vault doctor."
            if self.policy.credential is CredentialKind.OAUTH
            else f"The secret of this {self.facts.provider} account is kept elsewhere, and can't be read "
            "there or is refused. Have its person or an admin check it.",
            retry_after=outcome.retry_after or SOON,
            detail=outcome.reason,
        )

    @property
    def _sends_password(self) -> bool:
        """Whether each attempt may be a sign-in, so that the service counts failed ones."""
        return self.policy.credential is CredentialKind.SESSION

    def _note(self, outcome: RefreshOutcome) -> None:
        """Update the provider's breaker; a provider that rate limits counts as working."""
        breakers, provider, now = self.vault.tasks.breakers, self.facts.provider, self.vault.database.now()
        match outcome:
            case Rotation() | Refusal(ends_grant=True):
                breakers.note_answer(provider, now=now)
            case Refusal() if is_about_us(outcome.code):
                breakers.note_refusal_of_us(
                    provider, self.facts.connection_id, generation=self.facts.generation, now=now
                )
            case Silent() | NotSent(retry_after=None):
                if breakers.note_silence(provider, self.facts.connection_id, now=now):
                    log.warning("provider is silent", extra={"provider": provider})
            case _:
                pass

    async def _unsend(self, lease: Lease, *, event: Event | None = None) -> None:
        undoing = attempts.undo_claim(self.vault, lease, event=event)
        await attempts.write(self.vault, lease.connection_id, undoing)

    def _pause(self, refused: TemporarilyUnavailable) -> None:
        """Repeat this refusal for its duration instead of asking again. Call it before storing anything, which can
        fail."""
        pause_for(self.vault, self.facts, request=self.request, refused=refused)

    async def _give_up(self, lease: Lease, refused: Refusal) -> None:
        """The grant is dead at the provider, unless a newer token was stored in the meantime; then read the row
        again."""
        others = [one for one in await unresolved_sends(self.vault, self.facts) if one.owner != lease.owner]
        is_final, ended = may_give_up(others), False

        async def ending(transaction: Transaction) -> None:
            nonlocal ended
            ended = is_final and await leases.end(transaction, self.facts, fence=lease.fence, reason=refused.code)
            await leases.resolve(transaction, lease)
            if ended:
                event = event_of(self.facts, "connection.needs_reauth", reason=refused.code)
                await append(transaction, event, now=self.vault.database.now())

        await attempts.write(self.vault, lease.connection_id, ending)
        if ended:
            log.warning("connection must be reconnected", extra={"connection": self.facts.connection_id})
            raise needs_reauth(replace(self.facts, reason=refused.code))
        if not is_final:
            raise TemporarilyUnavailable(f"Another process may have a newer token of {self.facts.provider}.")

    async def _blame_ourselves(self, lease: Lease, refused: Refusal) -> TemporarilyUnavailable:
        """Our registration or request is wrong: the provider didn't examine the token, which stays unchanged."""
        log.error("provider refused our request", extra={"provider": self.facts.provider, "code": refused.code})
        fix = (
            "Ask an admin to check its registration under Administration, Providers, or with token-vault providers "
            f"setup {self.facts.provider}"
            if is_about_us(refused.code)
            else "Ask an admin to check the log"
        )
        rejected = TemporarilyUnavailable(
            f"{self.facts.provider} rejected this server's request ({refused.code}). {fix}",
            retry_after=BROKEN_PAUSE,
        )
        self._pause(rejected)
        kind = "connection.refresh_refused" if self.request.scopes is None else "narrowing.failed"
        await self._unsend(lease, event=event_of(self.facts, kind, reason=refused.code))
        return rejected

    async def _do_without(self, lease: Lease, refused: Refusal) -> NarrowingRefused:
        """The provider issues no narrow token (RFC 6749 §5.2); the refresh token wasn't used and stays unchanged."""
        refuse_narrowing(self.vault, self.request)
        await self._unsend(lease)
        return await without_narrow(self.vault, self.facts, request=self.request, reason=refused.code)

    async def _mark_unanswered(self, lease: Lease, outcome: Silent) -> TemporarilyUnavailable:
        """It is unknown whether the token was used. The intent stays, unless using it twice is harmless."""
        is_free, wait = self.policy.rotation is RotationMode.NONE, AGAIN
        event = event_of(self.facts, "connection.refresh_unanswered", reason=outcome.reason)

        async def ending(transaction: Transaction) -> None:
            nonlocal wait
            now = self.vault.database.now()
            if is_free:
                is_news = await leases.resolve(transaction, lease)
            elif is_news := await leases.settle(transaction, lease, now=now):
                sends = await leases.list_unresolved(transaction, self.facts)
                asked = outcome.retry_after or 0
                if pause := pause_after(self.policy, sends, now=now, is_over=outcome.is_over, asked=asked):
                    await leases.pause(transaction, self.facts, until=now + pause)
                    wait = max(pause, AGAIN)
            if is_news:
                await append(transaction, event, now=now)

        unanswered = TemporarilyUnavailable(
            f"{self.facts.provider} didn't answer. The account stays connected.",
            retry_after=BROKEN_PAUSE if self._sends_password else AGAIN,
            detail=outcome.reason,
        )
        if is_free and self._sends_password:
            self._pause(unanswered)
        await attempts.write(self.vault, lease.connection_id, ending)
        return unanswered if is_free else silent(self.facts, wait=wait, detail=outcome.reason)

    # Storing an answer

    async def _keep(self, lease: Lease, answer: TokenAnswer) -> int | None:
        """Make the answer durable on this host first, then commit it."""
        at, facts = self.vault.database.now(), self.facts
        sealed = self.key.seal(
            write_answer(self.refresh_token, self.request.scopes, answer),
            purpose=JOURNAL,
            provider=facts.provider,
            account=facts.account,
            generation=lease.generation,
        )
        try:
            await self.vault.journal.append(
                JournalEntry(
                    facts.connection_id, lease.generation, lease.owner, fence=lease.fence, at=at, sealed=sealed
                )
            )
        except StorageUnavailable as error:
            log.error(  # noqa: TRY400  the trace would add nothing
                "answer not journalled", extra={"connection": facts.connection_id, "detail": error.detail}
            )
        return await self.commit(lease, answer, at=at)

    async def commit(self, lease: Lease, answer: TokenAnswer, *, at: int, is_kept: bool = False) -> int | None:
        """Store an answer that arrived `at`, however long it takes; its generation, or None when the row is newer.

        `is_kept`: a journal has it and offers it again, so if the storage fails, this raises instead of waiting.
        Waiting would keep a vault from starting while the storage refuses one answer.
        """
        waits = growing_waits(*STORE_WAIT)
        while True:
            try:
                async with self.vault.database.transaction() as transaction:
                    generation = await self._store(transaction, lease, answer, now=at)
                break
            except (StorageUnavailable, TemporarilyUnavailable):
                if is_kept:
                    raise
                # We hold the only copy of a live token: giving up would lose the connection.
                log.error("answer not stored yet", extra={"connection": self.facts.connection_id})  # noqa: TRY400
            await asyncio.sleep(next(waits))
        if generation is not None:
            await self._tell(answer, generation=generation)
        return generation

    async def _store(self, transaction: Transaction, lease: Lease, answer: TokenAnswer, *, now: int) -> int | None:
        """Store over the row that was read, or over any row that still holds the used token; the new generation.

        None: the row already holds something newer.
        """
        facts = self.facts
        for _ in range(5):
            target = replace(lease, generation=facts.generation)
            following = max(facts.generation, lease.generation) + 1
            sealed = self._seal(answer, facts=facts, generation=following, now=now)
            if await leases.store(transaction, target, sealed, following=following, now=now):
                await self._end_earlier(transaction, answer, now=now)
                return following
            current = await leases.read(transaction, facts.connection_id)
            if current is None or current.is_ended:
                is_newest = current is None or lease.generation >= current.generation
                await leases.outdate(transaction, lease)
                await self._end_earlier(transaction, answer, now=now)
                await self._end_late(transaction, lease, answer, is_newest=is_newest, now=now)
                return None
            facts = current
            holds = (current.lease_owner, current.fence) == (lease.owner, lease.fence)
            newer = is_newer(spent_generation=lease.generation, row_generation=current.generation, holds_lease=holds)
            if not newer and not self._is_still_held(facts):
                break
        await leases.resolve(transaction, lease)
        await self._renew_aside(transaction, lease, answer, now=now, is_over=False)
        return None

    async def _renew_aside(
        self, transaction: Transaction, lease: Lease, answer: TokenAnswer, *, now: int, is_over: bool
    ) -> bool:
        """The person connected this account again in the meantime: this answer now has the old grant's tokens, which
        must be ended. `is_over`: the newer grant has ended, too."""
        if answer.refresh_token is None:
            return False
        return await endings.renew_aside(
            transaction,
            self.vault.keys,
            self._aside(answer, generation=lease.generation),
            former=self.facts.connection_id,
            policy=self.policy,
            now=now,
            is_over=is_over,
        )

    def _aside(self, answer: TokenAnswer, *, generation: int) -> endings.Aside:
        facts = self.facts
        return endings.Aside(
            facts.user_id,
            facts.provider,
            facts.account,
            facts.label,
            scopes=facts.scopes,
            refresh_token=answer.refresh_token,
            access_token=answer.access_token,
            generation=generation,
        )

    async def _end_earlier(self, transaction: Transaction, answer: TokenAnswer, *, now: int) -> None:
        """End the used token, now that its successor is stored: an answer was lost, so it may still be alive."""
        if answer.leaves_earlier:
            grant = replace(self._aside(answer, generation=0), refresh_token=self.refresh_token, access_token=None)
            await endings.set_aside(transaction, self.vault.keys, grant, policy=self.policy, now=now, is_over=True)

    def _is_still_held(self, facts: ConnectionFacts) -> bool:
        """Whether the row still holds the token that we used: the new consent returned no refresh token."""
        try:
            return hmac.compare_digest(open_refresh_token(self.key, facts).encode(), self.refresh_token.encode())
        except CiphertextRejected:
            return False

    async def _end_late(
        self, transaction: Transaction, lease: Lease, answer: TokenAnswer, *, is_newest: bool, now: int
    ) -> None:
        """The person disconnected while the answer was on its way: end these tokens instead of the used ones. If the
        revocation is over, only we know them: they become a separate grant to be ended, held while the account is
        connected again. `is_newest` False: the person connected again before disconnecting.
        """
        facts = self.facts
        pending = await endings.find_pending(
            transaction, self.key, facts.connection_id, provider=facts.provider, account=facts.account
        )
        is_ours = pending is None or is_newest or pending[0] == self.refresh_token
        if is_ours and pending is not None:
            sealed = endings.seal_revocation(
                self.key,
                refresh_token=answer.refresh_token or self.refresh_token or None,
                access_token=answer.access_token,
                provider=facts.provider,
                account=facts.account,
            )
            if await endings.replace_pending(transaction, facts.connection_id, sealed=sealed, now=now):
                return
        if not await self._renew_aside(transaction, lease, answer, now=now, is_over=True) and is_ours:
            grant = self._aside(answer, generation=lease.generation)
            await endings.set_aside(transaction, self.vault.keys, grant, policy=self.policy, now=now, is_over=True)

    def _seal(self, answer: TokenAnswer, *, facts: ConnectionFacts, generation: int, now: int) -> SealedAnswer:
        scopes, narrowed = self.request.scopes, self.request.scope_key

        def seal(token: str, purpose: str) -> bytes:
            return self.key.seal(
                token, purpose=purpose, provider=facts.provider, account=facts.account, generation=generation
            )

        purpose = connections.ACCESS_TOKEN if scopes is None else connections.narrowed_token(narrowed)
        lifetime = self.policy.access_lifetime if answer.expires_in is None else answer.expires_in
        kept = answer.refresh_token or self.refresh_token
        return SealedAnswer(
            refresh_sealed=seal(kept, connections.REFRESH_TOKEN) if facts.renewed_by is None else None,
            access_sealed=seal(answer.access_token, purpose) if self._is_usable(answer) else None,
            expires_at=now + lifetime,
            scopes=facts.scopes | self._gained_scopes(answer),
            scope_key=None if scopes is None else narrowed,
            idle_expires_at=idle_expiry(self.policy, now=now),
            may_have_narrowed=self.policy.downscope is not Downscope.NONE,
            ends_narrowed=self.policy.refresh_ends_access_token and scopes is None,
        )

    # The scopes of an answer

    def _is_usable(self, answer: TokenAnswer) -> bool:
        """Whether a narrowed answer proves that it is narrow; an answer without scopes proves nothing."""
        return self.request.scopes is None or proves(answer, self.request.scopes, policy=self.policy)

    def _gained_scopes(self, answer: TokenAnswer) -> frozenset[str]:
        """Scopes that the account gained. They are recorded, because otherwise a full token would pass for a narrow
        one."""
        if self.request.scopes is not None or answer.scopes is None:
            return frozenset()
        return answer.scopes - expand(self.facts.scopes, self.policy.covers) - self.policy.always_granted

    def _lost_scopes(self, answer: TokenAnswer) -> frozenset[str]:
        if answer.scopes is None:
            return frozenset()
        expected = self.facts.scopes if self.request.scopes is None else self.request.scopes
        return missing_scopes(expected, answer.scopes | self.policy.always_granted, self.policy.covers)

    async def _tell(self, answer: TokenAnswer, *, generation: int) -> None:
        """Record what was stored, once it is durable; refuses an unusable narrowing."""
        record = self.vault.activity.record
        if not self._is_usable(answer):
            refuse_narrowing(self.vault, self.request)
        kind = {} if self.request.scopes is None else {"narrowed_to": sorted(self.request.scopes)}
        event = event_of(self.facts, "connection.refreshed", outcome="ok", generation=generation, **kind)
        await record(event)
        if gained := self._gained_scopes(answer):
            await record(event_of(self.facts, "connection.scopes_grew", outcome="ok", gained=sorted(gained)))
        if not self._is_usable(answer):
            raise await without_narrow(self.vault, self.facts, request=self.request, answered=answer.scopes)
        if lost := self._lost_scopes(answer):
            log.warning("fewer scopes than granted", extra={"connection": self.facts.connection_id})
            await record(event_of(self.facts, "connection.scopes_shrunk", lost=sorted(lost)))
