"""Access tokens that end before their grant: which ones end with them, and for how long that is remembered."""

from __future__ import annotations

import pytest

from tests.support.seeded_grant import NOW, RESOURCE, SCOPES, SeededGrant, allow, seed
from vault import grants, revoked_tokens
from vault.records import Grant
from vault.refusals import GrantEnded, TemporarilyUnavailable
from vault.revoked_tokens import MAX_DEPTH, MOST, is_deep, is_revoked, new_token_id
from vault.storage.database import Database, Transaction

KEPT = 60  # seconds past a token's expiry
LIFETIME = 3600


async def revoke(
    database: Database, grant: Grant, token_id: str, *, client_id: str = "agent-1", expires_at: int = NOW + LIFETIME
) -> bool:
    async with database.transaction() as transaction:
        event = await revoked_tokens.revoke_access_token(
            transaction, grant.id, client_id=client_id, token_id=token_id, expires_at=expires_at, now=NOW
        )
    assert event is None or event.details == {"grant": grant.id, "token": token_id.rpartition(".")[2]}
    return event is not None


async def is_over(database: Database, grant: Grant, token_id: str) -> bool:
    (row,) = await database.fetch("select revoked_tokens from grants where id = :id", {"id": grant.id})
    return is_revoked(row, token_id)


async def derive(database: Database, seeded: SeededGrant, derived_from: str, *, resource: str) -> Grant:
    async def hold(transaction: Transaction) -> bool:
        return True

    return await grants.derived_grant(
        database,
        user_id=seeded.user.id,
        client_id=seeded.client.id,
        derived_from=derived_from,
        scopes=SCOPES,
        resource=resource,
        hold=hold,
        now=NOW,
    )


async def test_a_token_and_what_was_made_of_it_end_and_no_other(database: Database) -> None:
    seeded = await seed(database)
    parent, other = new_token_id(""), new_token_id("")
    child = new_token_id(parent)
    assert child.startswith(f"{parent}.")
    assert await revoke(database, seeded.grant, child)
    assert not await revoke(database, seeded.grant, child)  # already over
    assert await is_over(database, seeded.grant, child)
    assert not await is_over(database, seeded.grant, parent)
    assert await revoke(database, seeded.grant, parent)
    assert await is_over(database, seeded.grant, new_token_id(parent))
    assert not await is_over(database, seeded.grant, other)
    assert not await is_over(database, seeded.grant, "")


async def test_only_the_tokens_client_ends_it_and_only_while_the_grant_lives(database: Database) -> None:
    seeded = await seed(database)
    assert not await revoke(database, seeded.grant, "t", client_id="agent-2")
    assert not await is_over(database, seeded.grant, "t")
    assert await revoke(database, seeded.grant, "t")
    async with database.transaction() as transaction:
        await grants.revoke_grant(transaction, seeded.grant.id, reason="test", now=NOW)
    assert not await revoke(database, seeded.grant, "another")


async def test_a_grant_made_of_another_knows_which_tokens_of_it_were_revoked(database: Database) -> None:
    seeded = await seed(database)
    assert await revoke(database, seeded.grant, "before")
    derived = await derive(database, seeded, seeded.grant.id, resource=f"{RESOURCE}/derived")
    further = await derive(database, seeded, derived.id, resource=f"{RESOURCE}/further")
    named = await derive(database, seeded, "company:one", resource=f"{RESOURCE}/named")
    assert await revoke(database, seeded.grant, "after")
    for token in ("before", "after"):
        assert await is_over(database, derived, f"{token}.made")
        assert await is_over(database, further, f"{token}.made")
        assert not await is_over(database, named, token)
    assert not await is_over(database, derived, "never")
    unlisted = await allow(database, seeded.user, seeded.client, resource=f"{RESOURCE}/unlisted")
    fresh = await derive(database, seeded, unlisted.id, resource=f"{RESOURCE}/fresh")
    assert not await is_over(database, fresh, "before")


async def test_no_grant_is_made_of_one_that_has_ended(database: Database) -> None:
    seeded = await seed(database)
    async with database.transaction() as transaction:
        await grants.revoke_grant(transaction, seeded.grant.id, reason="test", now=NOW)
    with pytest.raises(GrantEnded):
        await derive(database, seeded, seeded.grant.id, resource=f"{RESOURCE}/derived")
    assert await database.fetch("select id from grants where derived_from = :id", {"id": seeded.grant.id}) == []


async def test_a_full_list_takes_one_more_when_its_first_token_has_been_over_for_a_minute(database: Database) -> None:
    seeded = await seed(database)
    for number in range(MOST - 1):
        assert await revoke(database, seeded.grant, f"t{number}")
    assert await revoke(database, seeded.grant, "soon", expires_at=NOW - KEPT + 1)
    with pytest.raises(TemporarilyUnavailable) as refused:
        await revoke(database, seeded.grant, "more")
    assert refused.value.retry_after == 1
    assert not await is_over(database, seeded.grant, "more")
    async with database.transaction() as transaction:
        await transaction.execute(
            "update grants set revoked_tokens = replace(revoked_tokens, :soon, :over)",
            {"soon": f"{NOW - KEPT + 1}:soon", "over": f"{NOW - KEPT}:soon"},
        )
    assert await revoke(database, seeded.grant, "more")
    assert await is_over(database, seeded.grant, "more")
    assert await is_over(database, seeded.grant, "t0")
    assert not await is_over(database, seeded.grant, "soon")


def test_a_chain_of_tokens_has_an_end() -> None:
    token = ""
    for _ in range(MAX_DEPTH - 1):
        token = new_token_id(token)
        assert not is_deep(token)
    assert is_deep(new_token_id(token))
