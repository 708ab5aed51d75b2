"""Bulk revocation in the Admin API; `server.administration.bulk_ends` makes the change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import Field

from server.administration import bulk_ends
from server.administration.bulk_ends import BulkState
from server.api.operations import AdminCall, ApiOutput, Strict, operation
from server.api.problems import ApiRefused, FieldProblem
from server.oauth.rules import ADMIN_ACCESS, ADMIN_WRITE
from vault.upkeep.panics import Kind

Whose = Literal["person", "agent", "provider", "everyone"]
_KINDS: Final[Mapping[Whose, Kind]] = {"person": "user", "agent": "client", "provider": "provider", "everyone": "all"}
# The scope that ending needs in addition, because it also ends sessions or removes an agent
_MORE: Final[Mapping[Whose, str]] = {"person": "admin:people", "agent": "admin:agents", "everyone": "admin:people"}


class PanicQuery(Strict):
    """The person, agent, or provider whose access ends."""

    of: Whose
    id: str = Field(default="", max_length=2048, description="Of the person or agent; a provider's name")


class NewPanic(PanicQuery):
    """Whose access to end."""

    confirm: str = Field(default="", max_length=200, description="For everyone: `vault` from `GET /health`")


class GrantCounts(ApiOutput):
    """Ended grants, by what is known about their end at the provider."""

    waiting: int = Field(description="Not attempted yet")
    verified_dead: int = Field(description="The provider no longer accepts the tokens")
    settled: int = Field(description="Ended by hand")
    unverified: int = Field(description="The provider confirmed the revocation; the vault can't verify it")
    retried: int = Field(description="The attempt failed; the vault will try again")
    by_hand: int = Field(description="To end on the provider's page")
    still_alive: int = Field(description="The provider still accepts a token")
    held: int = Field(description="Not revoked, because that would end another connection of the account")


class PanicRecord(ApiOutput):
    """What is connected, and what ended."""

    accounts: dict[str, int] = Field(description="Accounts that are connected, by provider")
    grants: GrantCounts
    complete: bool = Field(description="Access was ended, no account is connected, and nothing is left to do")


@operation("GET", "/panics", scope="admin:access", refusals=["not_found"])
async def show_panic(call: AdminCall, query: PanicQuery) -> PanicRecord:
    """Show what ending all access would end, and what is known about what it ended."""
    return _record(await bulk_ends.preview(call.actor, *_subject(query)))


@operation("POST", "/panics", scope="admin:access", refusals=["not_found"])
async def end_all_access(call: AdminCall, body: NewPanic) -> PanicRecord:
    """End all access of a person, an agent, or everyone, or all accounts at a provider, and revoke it there.

    The vault continues by itself: call `GET /panics` to see the progress. If a request was interrupted, the same
    request continues it, then ends what began since. In addition to `admin:access`, a person or everyone needs
    `admin:people` and an agent `admin:agents`; `admin:write` includes both. Only an owner can end an owner's access or
    everyone's. For everyone, the caller's own token and service account end too.
    """
    kind, subject = _subject(body)
    _check_scope(call, body.of)
    if body.of == "everyone" and body.confirm != call.deployment.vault_id:
        problem = FieldProblem(pointer="/confirm", message="isn't the ID of this vault")
        raise ApiRefused("invalid_request", "Set `confirm` to `vault` from `GET /health`.", errors=[problem])
    return _record(await bulk_ends.start(call.actor, kind, subject))


def _subject(whose: PanicQuery) -> tuple[Kind, str]:
    if (whose.of == "everyone") is bool(whose.id):
        raise ApiRefused("invalid_request", "Set `id`, except for everyone.")
    return _KINDS[whose.of], whose.id


def _check_scope(call: AdminCall, of: Whose) -> None:
    more = _MORE.get(of)
    if more is not None and not call.principal.scopes & {more, ADMIN_WRITE}:
        needed = f"{ADMIN_ACCESS} {more}"
        raise ApiRefused(
            "insufficient_scope",
            f"This needs a token with the scopes {needed}.",
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{needed}"'},
        )


def _record(found: BulkState) -> PanicRecord:
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
        complete=found.is_complete,
    )


OPERATIONS = (show_panic, end_all_access)
