"""Revocations in the Admin API: the state of ended grants at their providers, with signed receipts."""

from __future__ import annotations

from pydantic import Field

from server.administration import receipts
from server.administration.receipts import Ending
from server.api.operations import (
    AdminCall,
    ApiOutput,
    Instant,
    ListPage,
    PageQuery,
    instant,
    instant_of,
    operation,
    read_cursor,
    write_cursor,
)
from vault.upkeep import agent_receipts
from vault.upkeep.agent_receipts import AgentReceipt
from vault.upkeep.receipts import Receipt


class ReceiptRecord(ApiOutput):
    """A receipt: the result of one ended grant."""

    connection_id: str
    person_id: str
    provider: str
    result: str = Field(description="verified_dead, still_alive, unsupported, or unreachable")
    reason: str
    final: bool = Field(description="False: the vault tries again, and replaces the receipt")
    issued_at: Instant
    settled_at: Instant | None = Field(description="When someone noted that they ended it by hand")
    settled_by: str | None
    receipt: str = Field(description="Signed (JWS); /.well-known/receipt-keys.json has the keys")


class ReceiptsPage(ListPage[ReceiptRecord]):
    """Receipts, the newest first."""


class AgentReceiptsQuery(PageQuery):
    """Which receipts of ended agents, the newest first."""

    agent_id: str | None = Field(default=None, max_length=2048, description="Only those of this agent")
    outstanding: bool = Field(default=False, description="Only those whose agent may hold a token that still works")


class AgentReceiptRecord(ApiOutput):
    """A receipt: the result for one account that an ended agent could use, and that stayed connected."""

    id: str
    agent_id: str
    person_id: str
    connection_id: str
    provider: str
    result: str = Field(description="nothing_to_revoke: the provider knows one grant, which all agents share")
    reason: str = Field(description="shared_grant, token_released, token_without_end, or unknown_before_restore")
    token_expires_at: Instant | None = Field(description="When the provider's token that the agent has stops working")
    outstanding: bool = Field(
        description="The agent may have a token that still works; disconnecting the account ends it"
    )
    ended_at: Instant
    issued_at: Instant
    receipt: str = Field(description="Signed (JWS); /.well-known/receipt-keys.json has the keys")


class AgentReceiptsPage(ListPage[AgentReceiptRecord]):
    """Receipts of ended agents, the newest first."""


class OutstandingRecord(ApiOutput):
    """An ended grant that isn't known to be over at its provider."""

    connection_id: str
    person_id: str
    provider: str
    result: str = Field(description="waiting before the first attempt, held, or as in a receipt")
    reason: str
    next_at: Instant | None = Field(description="When the vault tries again; null if it doesn't")
    pages: dict[str, str] = Field(description="Where the person ends it, by the kind of account")


class OutstandingRevocations(ApiOutput):
    """Outstanding revocations."""

    items: list[OutstandingRecord]


class RetriedRecord(ApiOutput):
    """The result of another attempt."""

    outcome: str


@operation("GET", "/revocations", scope="admin:access")
async def list_outstanding(call: AdminCall) -> OutstandingRevocations:
    """List ended grants that aren't known to be over at their providers, at most 200 of each kind."""
    found = await receipts.list_open(call.deployment, limit=200)
    return OutstandingRevocations(items=[_outstanding_record(one) for one in found])


@operation("GET", "/receipts", scope="admin:access")
async def list_receipts(call: AdminCall, query: PageQuery) -> ReceiptsPage:
    """List receipts of ended grants, the newest first."""
    place = read_cursor(query.cursor, int, str)
    before = None if place is None else (int(place[0]), str(place[1]))
    found = await receipts.list_all(call.deployment, before=before, limit=query.limit)
    rest = None
    if len(found) == query.limit:
        rest = write_cursor(found[-1].issued_at, found[-1].connection_id)
    return ReceiptsPage(items=[_record(one) for one in found], next_cursor=rest)


@operation("GET", "/receipts/{connection_id}", scope="admin:access")
async def get_receipt(call: AdminCall) -> ReceiptRecord:
    """Show the receipt of an ended grant."""
    return _record(await receipts.get(call.deployment.database, call.param("connection_id")))


@operation("GET", "/agent-receipts", scope="admin:access")
async def list_agent_receipts(call: AdminCall, query: AgentReceiptsQuery) -> AgentReceiptsPage:
    """List receipts of ended agents, the newest first."""
    place = read_cursor(query.cursor, int, str)
    found = await receipts.list_of_agents(
        call.deployment,
        client_id=query.agent_id,
        only_open=query.outstanding,
        before=None if place is None else (int(place[0]), str(place[1])),
        limit=query.limit,
    )
    rest = write_cursor(found[-1].issued_at, found[-1].id) if len(found) == query.limit else None
    return AgentReceiptsPage(items=[_agent_record(call, one) for one in found], next_cursor=rest)


@operation("GET", "/agent-receipts/{receipt_id}", scope="admin:access")
async def get_agent_receipt(call: AdminCall) -> AgentReceiptRecord:
    """Show the receipt of an ended agent."""
    return _agent_record(call, await receipts.get_of_agent(call.deployment.database, call.param("receipt_id")))


@operation("POST", "/revocations/{connection_id}/attempts", scope="admin:access", status=201, refusals=["conflict"])
async def retry(call: AdminCall) -> RetriedRecord:
    """Retry a revocation now."""
    return RetriedRecord(outcome=await receipts.retry(call.actor, call.param("connection_id")))


@operation("PUT", "/revocations/{connection_id}/settled", scope="admin:access", refusals=["conflict"])
async def settle(call: AdminCall) -> ReceiptRecord:
    """Note that someone ended the grant on the provider's page."""
    await receipts.settle(call.actor, call.param("connection_id"))
    return _record(await receipts.get(call.deployment.database, call.param("connection_id")))


def _record(one: Receipt) -> ReceiptRecord:
    return ReceiptRecord(
        connection_id=one.connection_id,
        person_id=one.user_id,
        provider=one.provider,
        result=one.result,
        reason=one.reason,
        final=one.is_final,
        issued_at=instant_of(one.issued_at),
        settled_at=instant(one.settled_at),
        settled_by=one.settled_by,
        receipt=one.token,
    )


def _agent_record(call: AdminCall, one: AgentReceipt) -> AgentReceiptRecord:
    return AgentReceiptRecord(
        id=one.id,
        agent_id=one.client_id,
        person_id=one.user_id,
        connection_id=one.connection_id,
        provider=one.provider,
        result=agent_receipts.RESULT,
        reason=one.reason,
        token_expires_at=instant(one.expires_at),
        outstanding=one.is_outstanding(call.deployment.now()),
        ended_at=instant_of(one.ended_at),
        issued_at=instant_of(one.issued_at),
        receipt=one.token,
    )


def _outstanding_record(one: Ending) -> OutstandingRecord:
    return OutstandingRecord(
        connection_id=one.connection_id,
        person_id=one.user_id,
        provider=one.provider,
        result=one.result,
        reason=one.reason,
        next_at=instant(one.next_at),
        pages=dict(one.pages),
    )


OPERATIONS = (list_outstanding, list_receipts, get_receipt, list_agent_receipts, get_agent_receipt, retry, settle)
