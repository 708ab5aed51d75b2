"""What happens to a refresh token, its grant, its client, or its person while the token is being used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.seeded_grant import LIFETIMES, NOW, RESOURCE, SCOPES, seed
from vault import clients, grants, users
from vault.records import Grant, format_scope
from vault.storage.database import Database, Program
from vault.storage.event_chain import Batch
from vault.tokens import tokens
from vault.tokens.tokens import AcceptedRefresh, RefreshRequest, TokenReused


class InterruptedDatabase:
    """A database in which something else happens between what a refresh reads first and its write."""

    def __init__(self, real: Database, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._real = real
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def perform(self, program: Program[bool], *, events: Batch | None = None) -> bool:
        await self._meanwhile()
        return await self._real.perform(program, events=events)


@pytest.mark.requirement("S-078", "S-080")
@pytest.mark.parametrize("event", ["nothing", "used", "revoked", "client removed", "person stopped", "scopes added"])
async def test_a_refresh_depends_on_the_token_and_grant_at_its_write(database: Database, event: str) -> None:
    seeded, admitted = await seed(database), list[Grant]()
    async with database.transaction() as transaction:
        token = await tokens.issue_refresh_token(
            transaction, seeded.grant, scopes=SCOPES, resource=RESOURCE, now=NOW, lifetimes=LIFETIMES
        )
    request = RefreshRequest("agent-1")
    first: list[AcceptedRefresh] = []

    async def meanwhile() -> None:
        if event == "used":
            first.append(await tokens.rotate(database, token, request=request, now=NOW, lifetimes=LIFETIMES))
        async with database.transaction() as transaction:
            if event == "revoked":
                await grants.revoke_grant(transaction, seeded.grant.id, reason="test", now=NOW)
            elif event == "client removed":
                await clients.remove_client(transaction, "agent-1", now=NOW)
            elif event == "person stopped":
                await users.stop_agents(transaction, seeded.user.id, by="", at=NOW, now=NOW)
            elif event == "scopes added":
                scopes = {"scopes": format_scope(SCOPES | {"exchange"}), "id": seeded.grant.id}
                await transaction.execute("update grants set scopes = :scopes where id = :id", scopes)

    late: Any = InterruptedDatabase(database, meanwhile)
    rotating = tokens.rotate(late, token, request=request, now=NOW, lifetimes=LIFETIMES, admit=admitted.append)
    if event in {"revoked", "client removed", "person stopped"}:
        with pytest.raises(tokens.RefreshTokenRefused) as refused:
            await rotating
        assert not isinstance(refused.value, TokenReused)
        (row,) = await database.fetch("select consumed_at, successor_sealed from refresh_tokens")
        assert dict(row) == {"consumed_at": None, "successor_sealed": None}
    else:
        rotated = await rotating
        assert rotated.is_repeat is (event == "used")
        assert [one.refresh_token for one in first] in ([], [rotated.refresh_token])
        assert rotated.grant.scopes == (SCOPES | {"exchange"} if event == "scopes added" else SCOPES)
        assert len(await database.fetch("select 1 as one from refresh_tokens where consumed_at is null")) == 1
    assert len(admitted) == 1
