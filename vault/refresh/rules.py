"""The rules of spending a rotating refresh token, without storage or clock: who may send, and what an answer changes.

`vault.refresh.rotation` decides with these functions, and the exhaustive model in the tests explores every interleaving
with the same functions. There are twelve rules, each with a counterexample that requires it:

1. A token that ends when it is used is taken over on proof that its sender is gone, never because a lease expired.
2. Intents are a set of owners: a second claim must not erase the first one's unresolved send.
3. An intent counts for its own generation until its owner reports; an answer that isn't newer changes nothing.
4. A late answer is kept, even if another process holds the lease by then.
5. A retry within a provider's grace starts only while more than two request deadlines of it are left, and a provider
   that asks to wait gets at most a quarter of that time. A send with a time in the future was written by another clock:
   nothing is known about the grace then.
6. A claim that is older than one request deadline is void: what was true at the decision may no longer be true.
7. An owner that is gone loses only its own lease; the live lease of a live owner stays.
8. No two attempts share a fence: undoing a commit of unknown outcome touches its own attempt only.
9. Only the attempt in an intent can change it, even if another process holds the lease by then.
10. A missing sign of life doesn't prove that an owner ended; only a lock that it held and no longer holds does.
11. Silence never ends a connection. Its token is tried again after a pause that grows with the silence: where reuse
    revokes, a try after the old access token has ended can lose nothing more.
12. Where reuse revokes, no try follows a request that the provider may still be processing: the try would be answered
    first, and the request would then be the reuse.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum, auto

from vault.classes.immutable import immutable
from vault.records import DAY, HOUR
from vault.upstream import SEND_DEADLINE, RotationMode, UpstreamPolicy

LEASE = 60  # seconds; longer than a claim's life and a send together
PAUSE = (60, DAY)  # minimum and maximum seconds between tries of a token whose sends stay unanswered
ASKED = HOUR  # maximum seconds that a provider, or a gateway in front of it, can make an account wait
HANDLING = 30  # seconds after an unanswered request during which the provider may still process it
CLOCKS = 2  # seconds that clocks of one deployment may differ; a send further in the future says nothing about its age


@immutable
class UnresolvedSends:
    """One owner's sends of the current refresh token that have no reported result."""

    owner: str
    sent_at: int  # time of the first one
    sends: int = 1
    is_settled: bool = False  # no answer can come: the provider was silent, or the owner is gone


class SendDecision(Enum):
    """What to do about a refresh token whose use may be in progress."""

    SEND = auto()
    WAIT = auto()  # there is a pause, or an answer may still come, or the old access token is worth more than a try


def seconds_of_grace(policy: UpstreamPolicy, unresolved: Collection[UnresolvedSends], *, now: int) -> int:
    """How long the provider certainly reissues what it may have answered to these sends, to a retry that starts then; 0
    if it doesn't, or if that is unknown.
    """
    first_sent_at = min(one.sent_at for one in unresolved)
    if policy.rotation is not RotationMode.GRACE or first_sent_at > now + CLOCKS:
        return 0
    return max(0, first_sent_at + policy.grace - 2 * SEND_DEADLINE - now)


def may_send(
    policy: UpstreamPolicy,
    unresolved: Collection[UnresolvedSends],
    *,
    now: int,
    access_expires_at: int | None,
    retry_at: int | None = None,
) -> SendDecision:
    """Whether to send the current refresh token although these sends of it have an unknown result.

    `access_expires_at` is `now` for a token that its API refused. `retry_at` is the end of the row's pause; a pause
    that no rule here would set was written by another clock, and is ignored.
    """
    if not unresolved or policy.rotation is RotationMode.NONE:
        return SendDecision.SEND
    if retry_at is not None and now < retry_at <= now + PAUSE[1] + CLOCKS:
        return SendDecision.WAIT
    if seconds_of_grace(policy, unresolved, now=now):
        return SendDecision.SEND
    if not all(one.is_settled for one in unresolved):
        return SendDecision.WAIT
    if policy.rotation is RotationMode.STRICT:
        return SendDecision.SEND
    # Where reuse ends the grant, use the current access token until it expires: it is all that can be lost.
    has_run_out = access_expires_at is None or access_expires_at <= now
    return SendDecision.SEND if has_run_out else SendDecision.WAIT


def pause_after(
    policy: UpstreamPolicy,
    unresolved: Collection[UnresolvedSends],
    *,
    now: int,
    is_over: bool,
    asked: int,
) -> int:
    """Seconds until the next try of a token whose newest send, one of these, got no answer.

    `is_over`: an answer came, even if only an error, so the provider is done with the request. `asked`: the seconds
    that it asks to wait. Within a grace it gets at most a quarter of the time in which a retry may start: a later one
    can end the grant.

    The first try follows at once if it does no harm. Later ones wait a quarter of the silence so far: the vault soon
    notices a provider that is back, and doesn't pester one that isn't.
    """
    if not unresolved or policy.rotation is RotationMode.NONE:
        return 0
    is_first = sum(one.sends for one in unresolved) <= 1
    silent_since, asked = min(one.sent_at for one in unresolved), min(asked, ASKED)
    if left := seconds_of_grace(policy, unresolved, now=now):
        base = 0 if is_first else SEND_DEADLINE
        return max(base, min(asked, left // 4) if base < left else asked)
    least, most = PAUSE
    if is_first:
        return min(max(0 if is_over or policy.rotation is RotationMode.STRICT else HANDLING, asked), most)
    return min(max(least, (now - silent_since) // 4, asked), most)


def may_claim(*, lease_until: int | None, now: int, holder_is_gone: bool) -> bool:
    """Whether a lease may be taken over; `holder_is_gone` refers to the owner of this exact lease."""
    return lease_until is None or lease_until <= now or holder_is_gone


def is_claim_void(waited: float) -> bool:
    """Whether a claim that was decided this many seconds ago must not be sent."""
    return waited > SEND_DEADLINE


def is_newer(*, spent_generation: int, row_generation: int, holds_lease: bool) -> bool:
    """Whether an answer replaces the row.

    It does while the row still has the token that was used for the answer, and also when an earlier claim's late answer
    was stored under our lease: the provider issued ours after that one.
    """
    return spent_generation >= row_generation or holds_lease


def may_give_up(others: Collection[UnresolvedSends]) -> bool:
    """Whether a refusal by the provider ends the connection. It doesn't while another process may hold a newer
    token."""
    return all(one.is_settled for one in others)
