"""Standing approvals on the person's pages: the offer next to a question, the list, ending one, and undoing the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from server.connecting import standing_offers
from server.connecting.standing_offers import StandingTerms
from server.http import pages
from server.http.page_texts import text
from server.portal import texts
from server.portal.access import access, access_changes
from server.portal.approvals.asked_call import target_words
from server.portal.forms import Form, PageRefused
from server.portal.requests import OwnVisit
from vault import clients, tickets
from vault.approvals import standing_approvals
from vault.approvals.standing_approvals import MOST_PER_DAY, StandingApproval
from vault.records import DAY, TicketPurpose

CHOICES: Final = (1, 7, 30, 90)  # days, today included, counted in UTC
SUGGESTED_AFTER: Final = 3  # similar approvals


@dataclass(frozen=True, slots=True)
class StandingRow:
    """One standing approval on a page."""

    held: StandingApproval
    agent: str
    title: str
    provider: str
    target: str
    used: int

    @property
    def path(self) -> str:
        return f"/approvals/standing/{self.held.id}/end"


async def rows(visit: OwnVisit, *, client_id: str | None = None) -> list[StandingRow]:
    """The person's standing approvals, or those of one agent."""
    deployment, now = visit.deployment, visit.deployment.now()
    found = await standing_approvals.list_live(deployment.database, deployment.keys, visit.user.id, now=now)
    made: list[StandingRow] = []
    for one in found:
        if client_id is not None and one.client_id != client_id:
            continue
        client = await clients.get_client(deployment.database, one.client_id)
        spec, provider = deployment.tool(one.tool), deployment.catalog.get(one.provider)
        made.append(
            StandingRow(
                one,
                agent=one.client_id if client is None else client.name or client.id,
                title=texts.tool_title(spec, one.tool),
                provider=one.provider if provider is None else provider.title,
                target=target_words(one.target, one.names),
                used=one.used_today(now),
            )
        )
    return made


def read_terms(form: Form, *, now: int) -> StandingTerms:
    """The form's terms: calls per day, and the number of days. Raises PageRefused."""
    per_day, days = form.one("per_day"), form.one("days")
    if not (per_day.isascii() and per_day.isdigit() and 0 < int(per_day[:5]) <= MOST_PER_DAY):
        raise PageRefused("per_day")
    if days not in {str(one) for one in CHOICES}:
        raise PageRefused("end_day")
    return StandingTerms(int(per_day), (now // DAY + int(days)) * DAY)


async def end(visit: OwnVisit) -> Response:
    """End a standing approval; the page that follows can undo that."""
    deployment, user = visit.deployment, visit.user
    standing_id = str(visit.visit.request.path_params["standing"])
    now = deployment.now()
    async with deployment.transaction() as transaction:
        ended = await standing_offers.revoke(transaction, deployment, standing_id, user=user)
        if ended is None:
            raise PageRefused("standing_over", kind="gone")
        client = await clients.get_client(transaction, ended.client_id)
        agent = ended.client_id if client is None else client.name or client.id
        spec = deployment.tool(ended.tool)
        message = text("standing.ended", agent=agent, title=texts.tool_title(spec, ended.tool))
        await access_changes.forget_ways_back(transaction, user, now=now)
        handle = await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.UNDO,
            payload={"message": text("saved.saved", what=message), "rows": [], "standing": ended.id, "at": now},
            lifetime=access_changes.UNDO_LIFETIME,
            now=now,
            user_id=user.id,
        )
    back = access.agent_path(ended.client_id) if visit.form.one("back") == "agent" else "/approvals"
    return pages.go(f"{back}?saved={handle}")


async def undo(visit: OwnVisit) -> Response:
    """Undo the end of a standing approval; works once, for a limited time."""
    deployment, user, now = visit.deployment, visit.user, visit.deployment.now()
    handle = visit.form.one("saved")
    found = await tickets.peek(deployment.database, deployment.keys, handle, purpose=TicketPurpose.UNDO, now=now)
    if found is None or found.user_id != user.id or "standing" not in found.payload:
        raise PageRefused("undo_over", kind="gone")
    standing_id, at = str(found.payload["standing"]), found.payload["at"]
    revoked_at = at if isinstance(at, int) else 0
    async with deployment.transaction() as transaction:
        await tickets.consume(transaction, deployment.keys, handle, purpose=TicketPurpose.UNDO, now=now)
        if not await standing_offers.give_back(transaction, deployment, standing_id, user=user, revoked_at=revoked_at):
            raise PageRefused("undo_over", kind="gone")
    return pages.go("/approvals")


def choices_of(days: Sequence[int] = CHOICES) -> list[tuple[int, str]]:
    """The durations that a person can choose."""
    return [(one, text("standing.today") if one == 1 else text("standing.for_days", number=one)) for one in days]
