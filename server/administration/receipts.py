"""Receipts of ended grants: reading and verifying them, retrying revocations, and noting grants ended by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from providers.outbound.json_values import is_array, is_object
from server.administration.actor import Actor, ChangeRefused
from server.deployment import Deployment
from server.signatures.jose import TokenMalformed, check_header, public_key, unverified_header, verified_claims
from vault.audit import audit
from vault.storage.database import Reader
from vault.upkeep import agent_receipts, receipts, revocations
from vault.upkeep.agent_receipts import AgentReceipt
from vault.upkeep.receipts import Receipt
from vault.upkeep.revocations import Revocation

_ALGORITHM = "RS256"


class ReceiptRefused(Exception):
    """Not a receipt, or not signed with one of these keys. The message is one line."""


@dataclass(frozen=True, slots=True)
class Ending:
    """An ended grant: its receipt (None before the first attempt) and the time of the next attempt."""

    connection_id: str
    user_id: str
    provider: str
    receipt: Receipt | None
    next_at: int | None
    pages: Mapping[str, str]  # where the person can end it themselves, by kind of account
    is_held: bool = False  # not revoked, because that could also end a live connection of the same account

    @property
    def result(self) -> str:
        """The receipt's result, `waiting` before the first attempt, or `held`."""
        if self.receipt is not None and (not self.is_held or self.receipt.result == receipts.ReceiptResult.STILL_ALIVE):
            return self.receipt.result
        return revocations.HELD if self.is_held else "waiting"

    @property
    def reason(self) -> str:
        """The receipt's reason, `held`, or empty without a receipt."""
        if self.is_held:
            return revocations.HELD
        return "" if self.receipt is None else self.receipt.reason


def verify(token: str, jwks: Mapping[str, object]) -> dict[str, object]:
    """The claims of a receipt, verified with one of these public keys (RFC 7515 §5.2). Raises ReceiptRefused."""
    try:
        header = unverified_header(token)
        typ = agent_receipts.TYPE if header.get("typ") == agent_receipts.TYPE else receipts.TYPE
        check_header(header, algorithms=(_ALGORITHM,), allowed=("alg", "kid", "typ"), typ=typ)
        jwk = _key_with_id(jwks, header.get("kid"))
        return verified_claims(token, public_key(jwk, algorithm=_ALGORITHM), algorithm=_ALGORITHM)
    except TokenMalformed as error:
        raise ReceiptRefused(f"not a valid receipt: {error}") from error


def _key_with_id(jwks: Mapping[str, object], kid: object) -> object:
    known = jwks.get("keys")
    for jwk in known if is_array(known) else ():
        if is_object(jwk) and kid is not None and jwk.get("kid") == kid:
            return jwk
    raise ReceiptRefused("none of these keys signed it: its key ID is missing from the key set")


async def list_open(deployment: Deployment, *, limit: int) -> tuple[Ending, ...]:
    """Grants that need someone's action or another attempt; at most `limit` of each sort."""
    waiting = await revocations.list_waiting(deployment.database, limit=limit, now=deployment.now())
    held = await revocations.list_held(deployment.database, limit=limit)
    left = await receipts.list_page(deployment.database, only_open=True, limit=limit)
    found = {one.connection_id: _ending(deployment, one) for one in left}
    for one in (*waiting, *held):
        known = found.get(one.connection_id) or await _of_revocation(deployment, one)
        found[one.connection_id] = replace(known, next_at=one.next_at, is_held=one.next_at is None)
    return tuple(found.values())


async def list_all(deployment: Deployment, *, before: tuple[int, str] | None, limit: int) -> tuple[Receipt, ...]:
    """All receipts, newest first."""
    return await receipts.list_page(deployment.database, only_open=False, before=before, limit=limit)


async def get(reader: Reader, connection_id: str) -> Receipt:
    """The receipt of a grant. Raises ChangeRefused."""
    found = await receipts.get_receipt(reader, connection_id)
    if found is None:
        raise ChangeRefused("no_receipt", "No receipt has this ID.", kind="not_found")
    return found


async def list_of_agents(
    deployment: Deployment,
    *,
    client_id: str | None = None,
    only_open: bool = False,
    before: tuple[int, str] | None = None,
    limit: int,
) -> tuple[AgentReceipt, ...]:
    """Receipts of all ended agents or of one, by account; newest first."""
    open_at = deployment.now() if only_open else None
    return await agent_receipts.list_receipts(
        deployment.database, client_id=client_id, open_at=open_at, before=before, limit=limit
    )


async def get_of_agent(reader: Reader, receipt_id: str) -> AgentReceipt:
    """An agent's receipt. Raises ChangeRefused."""
    found = await agent_receipts.get_receipt(reader, receipt_id)
    if found is None:
        raise ChangeRefused("no_receipt", "No receipt has this ID.", kind="not_found")
    return found


async def retry(actor: Actor, connection_id: str) -> str:
    """Try the next attempt now and return its outcome. Raises ChangeRefused if there is nothing to try."""
    async with actor.change():
        pass
    outcome = await revocations.retry(actor.deployment.vault, connection_id)
    if outcome is None:
        raise await _not_retried(actor.deployment.database, connection_id)
    return outcome


async def _not_retried(reader: Reader, connection_id: str) -> ChangeRefused:
    pending = await revocations.find_revocation(reader, connection_id)
    if pending is not None and pending.done_at is None:
        words = (
            "This account is connected again, and revoking this grant could end that connection, too. "
            "Disconnect it first."
        )
        return ChangeRefused("grant_held", words, kind="conflict")
    words = (
        "This grant isn't tried again: its tokens are destroyed. If it's outstanding, end it on the provider's page."
    )
    return ChangeRefused("nothing_to_retry", words, kind="conflict")


async def settle(actor: Actor, connection_id: str) -> None:
    """Note that someone ended the grant on the provider's page. Raises ChangeRefused."""
    deployment, now = actor.deployment, actor.deployment.now()
    receipt = await get(deployment.database, connection_id)
    by = actor.method if actor.user is None else actor.user.name
    async with actor.change() as transaction:
        if not await receipts.settle(transaction, connection_id, by=by, now=now):
            raise ChangeRefused(
                "nothing_to_settle", "There is nothing left to end by hand for this grant.", kind="conflict"
            )
        event = actor.event("connection.ended_by_hand", user_id=receipt.user_id, provider=receipt.provider)
        await audit.append(transaction, event, now=now)


async def _of_revocation(deployment: Deployment, one: Revocation) -> Ending:
    receipt = await receipts.get_receipt(deployment.database, one.connection_id)
    return Ending(one.connection_id, one.user_id, one.provider, receipt, one.next_at, _pages(deployment, one.provider))


def _ending(deployment: Deployment, one: Receipt) -> Ending:
    return Ending(one.connection_id, one.user_id, one.provider, one, None, _pages(deployment, one.provider))


def _pages(deployment: Deployment, provider: str) -> Mapping[str, str]:
    known = deployment.catalog.get(provider)
    return {} if known is None else known.removal_pages
