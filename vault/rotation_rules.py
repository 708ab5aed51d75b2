"""The rules of spending a rotating refresh token, without storage or clock: who may send, and what an answer changes.

`vault.rotation` decides with these functions, and the exhaustive model in the tests explores every interleaving with
the same ones. Seven rules, each forced by a counter-example:

1. A token that dies when it is used is taken over on proof that its sender is gone, never on an expired lease.
2. Intents are a set of owners: a second claim must not erase the first one's unresolved send.
3. An intent counts for its own generation until its owner reports; an answer that is not newer changes nothing.
4. A late answer is kept, whoever holds the lease by then.
5. A retry inside a provider's grace starts only while more than two request deadlines of it are left. A send that
   seems to lie in the future was written by another clock: nothing is known of the grace then.
6. A claim that slept longer than one request deadline is void: what was true when it was decided may not be now.
7. That an owner is gone ends its own lease only, never the live lease of a live owner.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto

from vault.upstream import Rotation, UpstreamPolicy

SEND_DEADLINE = 10  # seconds that one request may take; promised by UpstreamOAuth.refresh
LEASE = 60  # seconds; longer than a claim's life and a send together
MAX_SENDS = 3  # of one refresh token
CLOCKS = 2  # seconds that clocks of one deployment differ; a send further in the future says nothing of its age


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Sends of the current refresh token by one owner that nobody has reported the end of."""

    owner: str
    sent_at: int  # of the first of them
    sends: int = 1
    is_settled: bool = False  # nobody can bring the answer any more: it was silence, or the owner is gone


class Decision(Enum):
    """What to do about a refresh token whose use may be under way."""

    SEND = auto()
    WAIT = auto()  # somebody may bring the answer, or the old access token is worth more than a try
    STOP = auto()  # tried often enough: only the person can mend it


def may_send(
    policy: UpstreamPolicy, unresolved: Collection[Unresolved], *, now: int, access_expires_at: int | None
) -> Decision:
    """Whether the current refresh token may be sent although these sends of it have no known end."""
    if not unresolved or policy.rotation is Rotation.NONE:
        return Decision.SEND
    if sum(one.sends for one in unresolved) >= MAX_SENDS:
        return Decision.STOP
    first_sent_at = min(one.sent_at for one in unresolved)
    left = first_sent_at + policy.grace - 2 * SEND_DEADLINE - now
    if policy.rotation is Rotation.GRACE and left > 0 and first_sent_at <= now + CLOCKS:
        return Decision.SEND
    if not all(one.is_settled for one in unresolved):
        return Decision.WAIT
    if policy.rotation is Rotation.STRICT:
        return Decision.SEND
    # Where re-use kills what is left, only the running access token is at stake: use it up first.
    has_run_out = access_expires_at is None or access_expires_at <= now
    return Decision.SEND if has_run_out else Decision.WAIT


def may_claim(*, lease_until: int | None, now: int, holder_is_gone: bool) -> bool:
    """Whether a lease may be taken over; `holder_is_gone` is about the owner of this very lease."""
    return lease_until is None or lease_until <= now or holder_is_gone


def is_claim_void(waited: float) -> bool:
    """Whether a claim that was decided this many seconds ago must not be sent any more."""
    return waited > SEND_DEADLINE


def is_newer(*, spent_generation: int, row_generation: int, holds_lease: bool) -> bool:
    """Whether an answer replaces the row.

    It does while the row still has what it spent; and also when an earlier claim's late answer came in under our
    lease: the provider issued ours after that one.
    """
    return spent_generation >= row_generation or holds_lease


def may_give_up(others: Collection[Unresolved]) -> bool:
    """Whether a refusal by the provider ends the connection: not while somebody may hold a newer token."""
    return all(one.is_settled for one in others)
