"""Ends of access in bulk in the Admin API; `server.administration.bulk_ends` makes the change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import Field

from server.administration import bulk_ends
from server.administration.bulk_ends import Reach
from server.api.operations import AdminCall, ApiOutput, Strict, operation
from server.api.problems import ApiRefused
from vault.upkeep.panics import Kind

Whose = Literal["person", "agent", "provider", "everyone"]
_KINDS: Final[Mapping[Whose, Kind]] = {"person": "user", "agent": "client", "provider": "provider", "everyone": "all"}


class PanicQuery(Strict):
    """Whose access."""

    of: Whose
    id: str = Field(default="", max_length=2048, description="Of the person or agent; a provider's name")


class NewPanic(PanicQuery):
    """Whose access to end."""


class GrantCounts(ApiOutput):
    """Ended grants, by what is known about their end at the provider."""

    waiting: int
    verified_dead: int
    settled: int = Field(description="Ended by hand")
    unverified: int = Field(description="Revoked according to the provider, which can't be asked")
    retried: int
    by_hand: int = Field(description="To end on the provider's page")
    still_alive: int
    held: int = Field(description="Kept, because the account is connected elsewhere")


class PanicRecord(ApiOutput):
    """What is connected, and what ended."""

    accounts: dict[str, int] = Field(description="Accounts that are connected, by provider")
    grants: GrantCounts
    over: bool = Field(description="Nothing is left to do for ended grants")


@operation("GET", "/panics", scope="admin:access", refusals=["not_found"])
async def show_panic(call: AdminCall, query: PanicQuery) -> PanicRecord:
    """Show what ending all access would end, and what is known about what it ended."""
    return _record(await bulk_ends.look(call.actor, *_subject(query)))


@operation("POST", "/panics", scope="admin:access", refusals=["not_found"])
async def end_all_access(call: AdminCall, body: NewPanic) -> PanicRecord:
    """End all access of a person, an agent, or everyone, or all accounts at a provider, and revoke it there.

    Repeat the call to see the progress: the vault continues by itself. Only an owner can end everyone's access, which
    includes the caller's.
    """
    return _record(await bulk_ends.end(call.actor, *_subject(body)))


def _subject(whose: PanicQuery) -> tuple[Kind, str]:
    if (whose.of == "everyone") is bool(whose.id):
        raise ApiRefused("invalid_request", "Give an id, unless this is about everyone.")
    return _KINDS[whose.of], whose.id


def _record(found: Reach) -> PanicRecord:
    counts = found.ended
    return PanicRecord(
        accounts=dict(found.accounts),
        grants=GrantCounts(
            waiting=counts.waiting,
            verified_dead=counts.verified_dead,
            settled=counts.settled,
            unverified=counts.unverified,
            retried=counts.retried,
            by_hand=counts.by_hand,
            still_alive=counts.still_alive,
            held=counts.held,
        ),
        over=counts.is_over,
    )


OPERATIONS = (show_panic, end_all_access)
