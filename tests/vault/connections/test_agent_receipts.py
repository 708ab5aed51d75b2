"""Receipts of ended agents: nothing ends at the provider, and how long a token works that the agent received."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from server.administration.receipts import verify
from tests.conftest import Store
from tests.support.rooms.vault_room import Room, open_room, principal_of
from tests.vault.connections.test_receipts import is_canonical
from vault import clients, connections, delegations
from vault.audit import released_tokens
from vault.audit.released_tokens import ReleasedTokens, TokenRelease, owe_receipts, sweep
from vault.backup import quarantine
from vault.records import TENANT, Connection
from vault.refusals import GrantEnded
from vault.spans import KEY_USES
from vault.storage.database import Value
from vault.upkeep import agent_receipts, receipts, retention
from vault.upkeep.agent_receipts import AgentReceipt

DAY = 86400


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[Room]:
    async with open_room(store) as opened:
        opened.vault = replace(opened.vault, issuer="https://vault.example")
        yield opened


async def hand_out(
    room: Room, connection: Connection, *, token: str, expires_at: int | None, by: ReleasedTokens | None = None
) -> None:
    """Release a token, either in a process that remembers what it stored (`by`) or in another one."""
    client_id, user_id = room.alice.client.id, room.alice.user.id
    released = TokenRelease(
        client_id, principal_of(room.alice).grant_id, user_id, connection.id, receipts.thumbprint(token), expires_at
    )
    await (by or ReleasedTokens()).note(room.database, released, now=room.now)


async def forbid(room: Room, connection: Connection) -> None:
    async with room.database.transaction() as transaction:
        which = {"user_id": room.alice.user.id, "client_id": room.alice.client.id, "connection_id": connection.id}
        assert await delegations.revoke(transaction, **which, now=room.now)


async def remove_agent(room: Room) -> None:
    async with room.database.transaction() as transaction:
        await clients.remove_client(transaction, room.alice.client.id, now=room.now)


async def become(room: Room, **facts: str) -> None:
    """Make alice's agent another kind of client."""
    async with room.database.transaction() as transaction:
        for name, value in facts.items():
            sql = f"update clients set {name} = :value where id = :id"
            await transaction.execute(sql, {"value": value, "id": room.alice.client.id})


async def issue_receipts(room: Room) -> tuple[AgentReceipt, ...]:
    await agent_receipts.issue_all(room.vault)
    return await agent_receipts.list_receipts(room.database, client_id=room.alice.client.id, limit=9)


async def test_an_account_that_other_agents_share_has_a_receipt_that_nothing_was_revoked(room: Room) -> None:
    connection = await room.connect()
    await remove_agent(room)
    signatures = KEY_USES[room.vault.keys.signing.current(room.now).kid or "", "sign"]
    (receipt,) = await issue_receipts(room)
    assert KEY_USES[room.vault.keys.signing.current(room.now).kid or "", "sign"] == signatures + 1
    claims = verify(receipt.token, await receipts.public_keys(room.database))
    assert is_canonical(receipt.token)
    assert (claims["client"], claims["grant"], claims["user"]) == (
        room.alice.client.id, connection.id, room.alice.user.id,
    )  # fmt: skip
    assert (claims["result"], claims["reason"]) == ("nothing_to_revoke", "shared_grant")
    assert "last_token" not in claims
    assert room.slack.revocations == []
    (event,) = await room.events("agent.receipt_issued")
    assert event.details["receipt"] == receipts.thumbprint(receipt.token)
    assert await agent_receipts.get_receipt(room.database, receipt.id) == receipt
    assert await agent_receipts.issue_owed(room.vault) == 0


async def test_the_longest_lived_token_that_was_handed_out_is_named_with_its_end(room: Room) -> None:
    connection = await room.connect()
    now, process = room.now, ReleasedTokens()
    await hand_out(room, connection, token="first", expires_at=now + 900, by=process)
    await hand_out(room, connection, token="longest", expires_at=now + 3600, by=process)
    await hand_out(room, connection, token="last", expires_at=now + 600, by=process)
    await remove_agent(room)
    (receipt,) = await issue_receipts(room)
    assert (receipt.reason, receipt.expires_at) == ("token_released", now + 3600)
    claims = verify(receipt.token, await receipts.public_keys(room.database))
    last = claims["last_token"]
    assert isinstance(last, dict)
    assert (last["sha256"], last["expires_at"]) == (receipts.thumbprint("longest"), now + 3600)


async def test_another_processs_token_counts_and_one_that_is_over_does_not(room: Room) -> None:
    connection = await room.connect()
    now = room.now
    await hand_out(room, connection, token="here", expires_at=now + 3600)
    await hand_out(room, connection, token="there", expires_at=now + 900)
    room.pass_time(1800)
    await remove_agent(room)
    (receipt,) = await issue_receipts(room)
    assert receipt.expires_at == now + 3600
    async with room.database.transaction() as transaction:
        assert await sweep(transaction, now=now + 3500) == 0
        assert await sweep(transaction, now=now + 3600) == 1


async def test_a_process_stores_a_token_again_only_if_it_lives_longer_or_was_forgotten(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(released_tokens, "KNOWN", 1)
    first, second = await room.connect(), await room.connect(account="other")
    process, end = ReleasedTokens(), room.now + 900

    async def is_stored(connection: Connection, expires_at: int | None) -> bool:
        """Whether the process writes this token where no other one is stored."""
        async with room.database.transaction() as transaction:
            await transaction.execute("delete from released_tokens")
        await hand_out(room, connection, token="token", expires_at=expires_at, by=process)
        return bool(await room.database.fetch("select 1 from released_tokens"))

    assert [await is_stored(first, one) for one in (end, end, end - 1, end + 1)] == [True, False, False, True]
    assert [await is_stored(first, one) for one in (None, None, end)] == [True, False, False]
    assert [await is_stored(second, one) for one in (end, end)] == [True, False]
    assert await is_stored(first, end)  # the process remembers one


async def test_a_token_without_an_end_is_named_so(room: Room) -> None:
    connection = await room.connect()
    now = room.now
    await hand_out(room, connection, token="endless", expires_at=None)
    await hand_out(room, connection, token="short", expires_at=now + 600)
    room.pass_time(DAY)
    await remove_agent(room)
    (receipt,) = await issue_receipts(room)
    assert (receipt.reason, receipt.expires_at) == ("token_without_end", None)


@pytest.mark.parametrize("known", [None, "short", "endless"])
async def test_after_a_restore_what_was_released_since_the_backup_is_unknown(room: Room, known: str | None) -> None:
    connection = await room.connect()
    now = room.now
    await become(room, kind="manual", auth_method="client_secret_basic")
    if known is not None:
        await hand_out(room, connection, token=known, expires_at=now + 60 if known == "short" else None)
    room.pass_time(7)
    async with room.database.transaction() as transaction:
        await quarantine.quarantine(transaction, room.vault.policies, now=room.now)
    restored = room.now
    room.pass_time(7)
    await remove_agent(room)
    (receipt,) = await issue_receipts(room)
    last = verify(receipt.token, await receipts.public_keys(room.database))["last_token"]
    assert isinstance(last, dict)
    if known == "endless":
        assert (receipt.reason, last["sha256"]) == ("token_without_end", receipts.thumbprint("endless"))
    else:
        assert receipt.reason == "unknown_before_restore"
        assert last == {"expires_at": restored + room.slack.lifetime}
    assert receipt.is_outstanding(room.now)
    (event,) = await room.events("agent.receipt_issued")
    assert event.details.get("token_expires_at") == receipt.expires_at


@pytest.mark.parametrize(
    ("facts", "expires", "reason"),
    [
        ({"kind": "manual", "auth_method": "none"}, True, "shared_grant"),
        ({"kind": "dynamic", "auth_method": "client_secret_basic"}, True, "shared_grant"),
        ({"kind": "manual", "auth_method": "client_secret_basic"}, False, "shared_grant"),
        (
            {"kind": "manual", "auth_method": "client_secret_basic", "metadata": '{"release": {"slack": "full"}}'},
            *(False, "unknown_before_restore"),
        ),
        ({"kind": "manual", "auth_method": "private_key_jwt"}, True, "unknown_before_restore"),
    ],
    ids=["public", "registered itself", "endless", "endless for its operator", "a key"],
)
async def test_after_a_restore_nothing_is_unknown_of_an_agent_that_gets_no_tokens(
    room: Room, facts: dict[str, str], *, expires: bool, reason: str
) -> None:
    await room.connect(refreshable=expires)
    await become(room, **facts)
    async with room.database.transaction() as transaction:
        await quarantine.quarantine(transaction, room.vault.policies, now=room.now)
    await remove_agent(room)
    (receipt,) = await issue_receipts(room)
    assert receipt.reason == reason


async def test_a_token_of_an_account_that_the_agent_may_no_longer_use_counts(room: Room) -> None:
    kept, lost = await room.connect(), await room.connect(account="work")
    now = room.now
    await hand_out(room, lost, token="held", expires_at=now + 3600)
    await forbid(room, lost)
    await remove_agent(room)
    found = {one.connection_id: one.reason for one in await issue_receipts(room)}
    assert found == {kept.id: "shared_grant", lost.id: "token_released"}


async def test_an_account_that_ends_too_has_only_its_own_receipt(room: Room) -> None:
    connection = await room.connect()
    await remove_agent(room)
    await room.disconnect(connection)
    assert await issue_receipts(room) == ()
    assert await agent_receipts.issue_owed(room.vault) == 0


async def test_one_persons_end_of_an_agent_is_about_their_accounts_only(room: Room) -> None:
    await room.connect()
    async with room.database.transaction() as transaction:
        assert await owe_receipts(transaction, room.alice.client.id, user_id="somebody-else", now=room.now) == 0
        assert await owe_receipts(transaction, room.alice.client.id, user_id=room.alice.user.id, now=room.now) == 1


async def test_a_token_stays_here_when_the_agent_ended_while_it_was_made(room: Room) -> None:
    connection = await room.connect()
    now = room.now
    async with room.database.transaction() as transaction:
        await clients.remove_client(transaction, room.alice.client.id, now=now)
        late = asyncio.create_task(hand_out(room, connection, token="late", expires_at=now + 3600))
        await asyncio.sleep(0)
    with pytest.raises(GrantEnded):
        await late
    (receipt,) = await issue_receipts(room)
    assert receipt.reason == "shared_grant"


async def test_a_token_that_is_stored_while_the_agent_ends_is_in_the_receipt(room: Room) -> None:
    connection = await room.connect()
    now = room.now
    await hand_out(room, connection, token="just in time", expires_at=now + 3600)
    await remove_agent(room)
    (receipt,) = await issue_receipts(room)
    assert receipt.reason == "token_released"


async def test_a_token_of_an_account_that_was_forbidden_meanwhile_stays_here(room: Room) -> None:
    forbidden, allowed = await room.connect(), await room.connect(account="work")
    now = room.now
    await forbid(room, forbidden)
    with pytest.raises(GrantEnded):
        await hand_out(room, forbidden, token="late", expires_at=now + 3600)
    await hand_out(room, allowed, token="in time", expires_at=now + 3600)


async def test_what_is_owed_of_an_account_that_is_gone_is_forgotten(room: Room) -> None:
    gone, kept = await room.connect(), await room.connect(account="work")
    await remove_agent(room)
    async with room.database.transaction() as transaction:
        which: dict[str, Value] = {"tenant": TENANT, "id": gone.id}
        await transaction.execute("delete from connections where tenant = :tenant and id = :id", which)
    (receipt,) = await issue_receipts(room)
    assert receipt.connection_id == kept.id


async def test_old_receipts_go_unless_a_token_without_an_end_may_be_in_use(room: Room) -> None:
    kept, ended = await room.connect(), await room.connect(account="work")
    now = room.now
    for connection, end in ((kept, None), (ended, now + 60)):
        await hand_out(room, connection, token=connection.id, expires_at=end)
    await remove_agent(room)
    assert len(await issue_receipts(room)) == 2
    assert await retention.forget_receipts(room.database, before=now - 1) == 0
    assert await retention.forget_receipts(room.database, before=room.now + DAY) == 1
    (left,) = await issue_receipts(room)
    assert left.connection_id == kept.id
    await room.disconnect(kept)
    assert await retention.forget_receipts(room.database, before=room.now + DAY) == 1


async def test_a_receipt_is_outstanding_while_the_agent_may_hold_a_token_that_works(room: Room) -> None:
    now, named = room.now, list[str]()
    for account, expires_at in (("shared", 0), ("short", now + 3600), ("endless", None)):
        connection = await room.connect(account=account)
        named.append(connection.id)
        if expires_at != 0:
            await hand_out(room, connection, token=account, expires_at=expires_at)
    shared, short, endless = named
    await remove_agent(room)
    found = await issue_receipts(room)
    assert {one.connection_id: one.is_outstanding(now) for one in found} == {shared: False, short: True, endless: True}

    async def outstanding_connections(at: int, *, client_id: str | None = None) -> set[str]:
        listed = await agent_receipts.list_receipts(room.database, client_id=client_id, open_at=at, limit=9)
        every = await agent_receipts.list_receipts(room.database, client_id=client_id, limit=9)
        assert {one.id for one in every if one.is_outstanding(at)} == {one.id for one in listed}
        return {one.connection_id for one in listed}

    assert (
        await outstanding_connections(now)
        == {short, endless}
        == await outstanding_connections(now, client_id=room.alice.client.id)
    )
    assert await outstanding_connections(now, client_id="another") == set()
    assert await outstanding_connections(now + 3600) == {endless}
    (gone,) = [
        one for one in await connections.list_connections(room.database, room.alice.user.id) if one.id == endless
    ]
    await room.disconnect(gone)
    assert await outstanding_connections(now) == {short}


@pytest.mark.parametrize("of_one", [True, False])
async def test_receipts_of_agents_are_read_page_by_page(room: Room, *, of_one: bool) -> None:
    expected = {(await room.connect(account=f"account {number}")).id for number in range(5)}
    await remove_agent(room)
    await agent_receipts.issue_all(room.vault)
    seen: list[str] = []
    before: tuple[int, str] | None = None
    client_id = room.alice.client.id if of_one else None
    while page := await agent_receipts.list_receipts(room.database, client_id=client_id, before=before, limit=2):
        seen += [one.connection_id for one in page]
        before = page[-1].issued_at, page[-1].id
    assert len(seen) == len(expected)
    assert set(seen) == expected
