"""What it means when a used refresh token comes back: an honest repeat, or two holders that contradict each other.
Pure.

OAuth 2.1 §4.3.1 and RFC 9700 §4.14.2 make a public client's refresh token single-use, so that a theft is noticed: two
holders cannot both use it. Real clients run as several processes that share one token, and they lose answers. Ending
their family would sign out a person who did nothing wrong. A repeat is therefore answered with the newest token of the
family, which both holders then share and must keep sharing, unless the two uses contradict each other:

1. **Late.** The token was used at least one grace period ago, and its successor has been used since. While the
   successor is unused, the answer that contained it was lost, and its predecessor may be repeated for as long as it
   lives.
2. **Elsewhere.** The token, or one after it, was used on one network and is repeated on another, the family wasn't
   known on both before, and this has happened to two tokens in the last 30 days. Those two are answered, because a
   laptop that changes networks does the same. IPv4 and IPv6 can't be compared, so they don't contradict each other.
3. **Bound.** One process holds a token that is bound to a DPoP key (RFC 9449 §5), so its repeat is answered only for 30
   s, while the successor is unused.

A contradiction ends the whole family. A client that authenticates proves more than a network does, so its network isn't
checked (RFC 9700 §2.2.2). Every answered repeat is an event. A thief on the client's own network (which includes
another program on the same machine) stays only while both keep using each token within the other's grace; on any other
network, only until they meet over a third token; and never beyond the end of the family.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from vault.classes.immutable import immutable
from vault.records import DAY, RefreshToken

Family = Mapping[int, RefreshToken]  # by generation

PROMPT: Final = 30  # seconds: a client that got no answer asks again at once
MOVES: Final = 2  # number of tokens whose repeat from another network is answered ...
MOVES_WINDOW: Final = 30 * DAY  # ... within this many seconds


class RepeatVerdict(StrEnum):
    """What happens to a repeat. All but the first two end the family."""

    SAME = "same"
    MOVED = "moved"  # answered, on another network
    LATE = "late"
    ELSEWHERE = "elsewhere"
    BOUND = "bound"

    @property
    def is_answered(self) -> bool:
        return self in {RepeatVerdict.SAME, RepeatVerdict.MOVED}


@immutable
class TokenRepeat:
    """A used token that its client presents again. Networks are names that are only compared; None is unknown."""

    spent_at: int
    now: int
    is_successor_used: bool
    spent_on: frozenset[str]  # the token and those after it
    repeated_on: str | None
    known: frozenset[str]  # networks on which the family was used before this token was
    moves: int  # tokens whose repeat from another network was answered in the window
    is_authenticated: bool  # with a secret or key of the client
    is_bound: bool


def judge(repeat: TokenRepeat, *, grace: int) -> RepeatVerdict:
    """Whether the repeat is answered and, if not, why. `grace` is in seconds; 0: a token works only once."""
    age = repeat.now - repeat.spent_at
    if repeat.is_bound:
        is_prompt = not repeat.is_successor_used and age < min(PROMPT, grace)
        return RepeatVerdict.SAME if is_prompt else RepeatVerdict.BOUND
    if grace == 0 or (repeat.is_successor_used and age >= grace):
        return RepeatVerdict.LATE
    if repeat.is_authenticated or _fits(repeat):
        return RepeatVerdict.SAME
    return RepeatVerdict.MOVED if repeat.moves < MOVES else RepeatVerdict.ELSEWHERE


def judge_use(
    spent: RefreshToken, family: Family, *, network: str | None, is_authenticated: bool, now: int, grace: int
) -> RepeatVerdict:
    """The verdict on a used token of this family that comes back from a network."""
    after = family.get(spent.generation + 1)
    moved = [one for one in family.values() if one.moved_at is not None and now < one.moved_at + MOVES_WINDOW]
    # Of two networks that met, one may be a thief's: a thief must not make a network known by using stolen tokens.
    sure = min([spent.generation, *(one.generation for one in moved)])
    repeat = TokenRepeat(
        spent_at=now if spent.consumed_at is None else spent.consumed_at,
        now=now,
        is_successor_used=after is None or after.consumed_at is not None,
        spent_on=frozenset(one.issued_to for n, one in family.items() if n > spent.generation and one.issued_to),
        repeated_on=network,
        known=frozenset(one.issued_to for n, one in family.items() if n <= sure and one.issued_to),
        moves=len(moved),
        is_authenticated=is_authenticated,
        is_bound=spent.key_thumbprint is not None,
    )
    return judge(repeat, grace=grace)


def _fits(repeat: TokenRepeat) -> bool:
    here = repeat.repeated_on
    return here is None or all(
        there == here or (":" in there) != (":" in here) or {there, here} <= repeat.known for there in repeat.spent_on
    )
