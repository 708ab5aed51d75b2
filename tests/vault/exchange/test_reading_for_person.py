"""An exchange for the person's own page needs no permission of an agent, so it reads one account, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from tests.conftest import Store
from tests.support.rooms.vault_room import READ, WRITE, Room, google, open_room
from tests.support.seeded_grant import seed
from vault.approvals.approvals import ToolCall
from vault.exchange.exchange import ExchangeRequest, exchange
from vault.records import Connection
from vault.refusals import ConnectionRequired, DelegationRequired, ScopeRefused


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[Room]:
    async with open_room(store) as opened:
        policies = opened.vault.policies
        assert isinstance(policies, dict)
        policies["google"] = google(reading=frozenset({READ}), ask=frozenset({READ}))
        yield opened


async def connect_account(room: Room, *granted: str) -> tuple[Connection, ExchangeRequest]:
    """An account that the agent may not use at all, and the request of a page of its person."""
    held = await room.connect(
        "google", scopes=frozenset({"openid", *(granted or (READ, WRITE))}), delegated=frozenset()
    )
    wanted = replace(room.request("google", READ), connection_id=held.id, is_for_person=True)
    return held, wanted


async def test_a_page_reads_without_the_agents_permission_and_without_a_question(room: Room) -> None:
    held, wanted = await connect_account(room)
    token = await exchange(wanted, vault=room.vault, now=room.now)
    assert (token.connection_id, token.scopes) == (held.id, frozenset({READ}))
    with pytest.raises(DelegationRequired):  # the twin: the same request for the agent
        await exchange(replace(wanted, is_for_person=False), vault=room.vault, now=room.now)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scopes": frozenset({WRITE})}, "calendar.events does more"),
        ({"scopes": frozenset({READ, WRITE})}, "calendar.events does more"),
        ({"scopes": frozenset({"calendar"})}, "does more"),  # it covers a scope that writes
        ({"scopes": None}, "name the scopes and the account"),
        ({"connection_id": None}, "name the scopes and the account"),
        ({"call": ToolCall("calendar_list", dict)}, "name the scopes and the account"),
    ],
    ids=["writes", "writes too", "covers what writes", "everything", "any account", "a call of an agent"],
)
async def test_what_is_more_than_reading_one_account_is_refused(
    room: Room, change: dict[str, object], said: str
) -> None:
    _, wanted = await connect_account(room)
    with pytest.raises(ScopeRefused, match=said):
        await exchange(replace(wanted, **change), vault=room.vault, now=room.now)  # pyright: ignore[reportArgumentType] -- fields by name
    assert (await exchange(wanted, vault=room.vault, now=room.now)).value


async def test_what_every_connection_has_is_read_too(room: Room) -> None:
    _, wanted = await connect_account(room)
    token = await exchange(replace(wanted, scopes=frozenset({READ, "openid"})), vault=room.vault, now=room.now)
    assert READ in token.scopes


async def test_an_account_lends_its_page_no_more_than_it_has(room: Room) -> None:
    _, wanted = await connect_account(room, WRITE)
    with pytest.raises(ConnectionRequired, match="hasn't granted"):
        await exchange(wanted, vault=room.vault, now=room.now)


async def test_the_operators_limit_holds_for_pages_too(room: Room) -> None:
    _, wanted = await connect_account(room)
    policies = room.vault.policies
    assert isinstance(policies, dict)
    policies["google"] = replace(policies["google"], operator_scopes=frozenset({WRITE}))
    with pytest.raises(ScopeRefused, match="settings don't allow"):
        await exchange(wanted, vault=room.vault, now=room.now)
    policies["google"] = replace(policies["google"], operator_scopes=frozenset({READ}))
    assert (await exchange(wanted, vault=room.vault, now=room.now)).value


async def test_another_persons_account_is_not_read(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-of-bob")
    theirs = await room.connect("google", whose=bob)
    _, wanted = await connect_account(room)
    with pytest.raises(ConnectionRequired):
        await exchange(replace(wanted, connection_id=theirs.id), vault=room.vault, now=room.now)
