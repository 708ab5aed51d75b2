"""Everyone's activity, for administrators, with the filters, files, and live rows of people's own activity pages.

Also a proof of each event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from starlette.responses import Response

from server.http import pages
from server.http.page_texts import text
from server.portal.activity import PAGE_SIZE, ActivityFilters, Feed, export_of, news, place_in, read_filters
from server.portal.administration.room import ROOT, AdminVisit
from server.portal.forms import PageRefused
from vault import clients, users
from vault.records import Client, User

PAGE: Final = f"{ROOT}/activity"
_CHOICES: Final = 10  # agents to choose from, if several match
_FIELD_LIMIT: Final = 200  # characters


@dataclass(frozen=True, slots=True)
class _Search:
    """The search in the address. `problem`: why nothing is found; `choices`: agents that it may mean."""

    feed: Feed
    filters: ActivityFilters
    person: User | None = None
    agent: Client | None = None
    problem: str = ""
    choices: tuple[Client, ...] = ()


async def _read(visit: AdminVisit) -> _Search:
    deployment, named = visit.deployment, visit.query("person").strip()[:_FIELD_LIMIT]
    filters, account = read_filters(visit.query), visit.query("account").strip()[:_FIELD_LIMIT]
    filters = ActivityFilters(
        {"person": named, **filters.fields, "account": account},
        replace(filters.filter, connection_id="", account=account),
    )
    asked = _Search(Feed(deployment, PAGE, None, names_people=True), filters)
    if named:
        reader = deployment.database
        person = await users.find_user(reader, named) or await users.get_user(reader, named)
        if person is None:
            nobody = replace(asked.feed, user_id=named)  # finds nothing, instead of everyone's activity
            return replace(asked, feed=nobody, problem=text("admin_activity.no_person", named=named))
        asked = replace(asked, person=person, feed=replace(asked.feed, user_id=person.id))
    return await _with_agent(visit, asked)


async def _with_agent(visit: AdminVisit, asked: _Search) -> _Search:
    """The search with the named agent, by its ID or by a name that only one has."""
    named = asked.filters.fields["agent"].strip()
    if not named:
        return asked
    reader = visit.deployment.database
    found = await clients.get_client(reader, named)
    if found is None:
        near, _ = await clients.find_page(reader, named=named, limit=_CHOICES)
        exact = tuple(one for one in near if one.name.casefold() == named.casefold()) or near
        if len(exact) != 1:
            problem = text("admin_activity.several_agents" if exact else "admin_activity.no_agent", named=named)
            return replace(asked, problem=problem, choices=exact)
        (found,) = exact
    filters = ActivityFilters(asked.filters.fields, replace(asked.filters.filter, client_id=found.id))
    return replace(asked, filters=filters, agent=found)


async def show(visit: AdminVisit) -> Response:
    """One page of everyone's activity, also by `person`."""
    asked, before = await _read(visit), place_in(visit.query("before"))
    found = await asked.feed.find(asked.filters, limit=PAGE_SIZE, before=before)
    context: dict[str, object] = asked.feed.page(asked.filters, found, before=before) | {
        "rows": await asked.feed.tell(found.events),
        "person": asked.person,
        "agent": asked.agent,
        "problem": asked.problem,
        "choices": [(one, f"{PAGE}?{asked.filters.query(agent=one.id)}") for one in asked.choices],
        "tools": sorted(one.name for one in visit.deployment.tools),
    }
    return await visit.page("activity.html", context)


async def show_new(visit: AdminVisit) -> Response:
    """The events since `after`, as rows for the open page."""
    asked = await _read(visit)
    return visit.own.page("activity_new.html", await news(asked.feed, asked.filters, visit.own))


async def export(visit: AdminVisit) -> Response:
    """All events that match the filters, with people's names, as CSV or JSON lines."""
    asked = await _read(visit)
    return export_of(asked.feed, asked.filters, kind=visit.query("format"))


async def download_proof(visit: AdminVisit) -> Response:
    """The proof of an event, in the form that `activity prove` writes. No checkpoint is signed for it."""
    from server.checkpoints.event_proofs import ProofRefused, prove_event  # imported here: few need it

    sequence = place_in(visit.param("sequence"))
    if not sequence:
        raise PageRefused("no_proof", text("no_proof.no_event"), kind="not_found")
    try:
        proof = await prove_event(visit.deployment, sequence)
    except ProofRefused as refused:
        raise PageRefused(
            "no_proof", text(f"no_proof.{refused.code}", **refused.values), kind=refused.kind
        ) from refused
    headers = {"Content-Disposition": f'attachment; filename="{sequence}.tlog-proof"'}
    return pages.secure(Response(proof.text, media_type="text/plain", headers=headers))
