"""Revocations: ended grants that aren't revoked at the provider yet, with the provider's page and another attempt.

Also ended agents that may have a provider's token that still works.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from starlette.responses import Response

from server.administration import receipts
from server.administration.receipts import Ending
from server.http.page_texts import section, text
from server.portal.administration.room import ROOT, AdminVisit
from vault import users
from vault.endings import HELD
from vault.upkeep.agent_receipts import AgentReceipt
from vault.upkeep.receipts import get_receipt

PAGE: Final = f"{ROOT}/revocations"
SHOWN: Final = 100


async def show(visit: AdminVisit) -> Response:
    """The outstanding revocations, at most 100 of each kind."""
    deployment = visit.deployment
    found = await receipts.list_open(deployment, limit=SHOWN)
    of_agents = await receipts.list_of_agents(deployment, only_open=True, limit=SHOWN)
    names = await _names(visit, {one.user_id for one in (*found, *of_agents)})
    numbers = Counter(one.result for one in found)
    context: dict[str, object] = {
        "rows": [_row(visit, one, names) for one in found],
        "numbers": [(word, numbers[word]) for word in section("receipt_result") if word in numbers],
        "is_cut": len(found) >= SHOWN,
        "agents": [_agent_row(visit, one, names) for one in of_agents],
        "agents_cut": len(of_agents) >= SHOWN,
        "path": PAGE,
    }
    return await visit.page("revocations.html", context)


async def _names(visit: AdminVisit, user_ids: Iterable[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for user_id in user_ids:
        person = await users.get_user(visit.deployment.database, user_id)
        if person is not None:
            names[user_id] = person.name
    return names


def _title(visit: AdminVisit, name: str) -> str:
    provider = visit.deployment.catalog.get(name)
    return name if provider is None else provider.title


def _agent_row(visit: AdminVisit, one: AgentReceipt, names: dict[str, str]) -> dict[str, object]:
    return {
        "id": one.id,
        "agent": one.client_name or one.client_id,
        "title": _title(visit, one.provider),
        "person": names.get(one.user_id, ""),
        "ended_at": one.ended_at,
        "expires_at": one.expires_at,
        "receipt": f"{PAGE}/agents/{one.id}/receipt",
    }


def _row(visit: AdminVisit, one: Ending, names: dict[str, str]) -> dict[str, object]:
    receipt = one.receipt
    return {
        "id": one.connection_id,
        "title": _title(visit, one.provider),
        "person": names.get(one.user_id, ""),
        "result": one.result,
        "badge": section("receipt_result")[one.result],
        "words": section("receipt_reason").get(one.reason, one.reason),
        "issued_at": None if receipt is None else receipt.issued_at,
        "next_at": one.next_at,
        "pages": one.pages,
        "retry": f"{PAGE}/{one.connection_id}/retry" if one.next_at is not None else "",
        "settle": f"{PAGE}/{one.connection_id}/settle" if receipt is not None and receipt.is_final else "",
        "receipt": "" if receipt is None else f"{PAGE}/{one.connection_id}/receipt",
    }


async def retry(visit: AdminVisit) -> Response:
    """Ask the provider again now."""
    outcome = await receipts.retry(visit.actor, visit.param("id"))
    receipt = await get_receipt(visit.deployment.database, visit.param("id"))
    result = HELD if outcome == HELD else "waiting" if receipt is None else receipt.result
    return await visit.go(PAGE, said=text("admin_revocations.retried", result=section("receipt_result")[result]))


async def settle(visit: AdminVisit) -> Response:
    """Note that someone ended the grant on the provider's page."""
    await receipts.settle(visit.actor, visit.param("id"))
    return await visit.go(PAGE, said=text("admin_revocations.settled"))


async def download(visit: AdminVisit) -> Response:
    """The signed receipt, in the form that `receipts verify` reads."""
    found = await receipts.get(visit.deployment.database, visit.param("id"))
    return _file(found.connection_id, found.token)


async def download_of_agent(visit: AdminVisit) -> Response:
    """The signed receipt of an ended agent."""
    found = await receipts.get_of_agent(visit.deployment.database, visit.param("id"))
    return _file(found.id, found.token)


def _file(name: str, token: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="receipt-{name}.jwt"'}
    return Response(token, media_type="application/jwt", headers=headers)
