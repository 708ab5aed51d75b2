"""Receipts: what a probe shows about an ended grant, signed, one for each grant, whichever process dies meanwhile."""

from __future__ import annotations

import asyncio
import json
import re
from base64 import urlsafe_b64decode
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace

import pytest

from server.administration.receipts import ReceiptRefused, verify
from tests.chaos.world import ROOT
from tests.conftest import Store
from tests.support.inspection import verify_activity
from tests.support.rooms.vault_room import SLACK_SCOPES, WAIT, Room, open_room
from tests.support.seeded_grant import seed
from vault import clients, connections, users
from vault.records import Connection
from vault.refusals import CiphertextRejected
from vault.spans import KEY_USES
from vault.storage.database import integer, text
from vault.upkeep import panics, receipts, retention, revocations
from vault.upkeep.receipts import Receipt
from vault.upstream import CredentialKind, NotSent, ProbeOutcome, RevokeOutcome, Silent

(HELD_GRANTS,) = (ROOT / "vault/schema").glob("*_held_grants.sql")
DAY = 86400


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[Room]:
    async with open_room(store) as opened:
        opened.vault = replace(opened.vault, issuer="https://vault.example")
        yield opened


async def end_connection(room: Room, account: str = "alice") -> tuple[Connection, Receipt]:
    """A connection that was disconnected, with one attempt to revoke it; returns it and its receipt."""
    connection = await room.connect(account=account)
    await room.disconnect(connection)
    await revocations.revoke_upstream(room.vault, connection.id)
    return connection, await receipt_of(room, connection)


async def receipt_of(room: Room, connection: Connection) -> Receipt:
    found = await receipts.get_receipt(room.database, connection.id)
    assert found is not None
    return found


async def claims_of(room: Room, receipt: Receipt) -> Mapping[str, object]:
    return verify(receipt.token, await receipts.public_keys(room.database))


async def is_shredded(room: Room, connection: Connection) -> bool:
    try:
        await room.vault.keys.load_key(room.database, user_id=connection.user_id, connection_id=connection.id)
    except CiphertextRejected:
        return True
    return False


def is_canonical(token: str) -> bool:
    """Whether the payload of a JWS is canonical JSON."""
    payload = urlsafe_b64decode(token.split(".")[1] + "==").decode()
    return payload == json.dumps(json.loads(payload), separators=(",", ":"), sort_keys=True)


# What the provider does


async def test_a_grant_that_the_probe_finds_dead_is_verified_dead_and_shredded(room: Room) -> None:
    signatures = KEY_USES[room.vault.keys.signing.current(room.now).kid or "", "sign"]
    connection, receipt = await end_connection(room)
    assert KEY_USES[room.vault.keys.signing.current(room.now).kid or "", "sign"] == signatures + 1
    assert (receipt.result, receipt.is_final, receipt.is_open) == ("verified_dead", True, False)
    assert await is_shredded(room, connection)
    claims = await claims_of(room, receipt)
    assert is_canonical(receipt.token)
    assert claims["iss"] == "https://vault.example"
    assert (claims["grant"], claims["provider"], claims["result"]) == (connection.id, "slack", "verified_dead")
    assert (claims["revocation"], claims["probe"], claims["probed_by"]) == ("revoked", "dead", ["identity"])
    digests = {receipts.thumbprint("CANARY-rt-1"), receipts.thumbprint("CANARY-at-2")}
    tokens = claims["tokens"]
    assert isinstance(tokens, list)
    assert json.dumps(tokens).count("sha256") == 2
    assert all(digest in json.dumps(tokens) for digest in digests)
    assert "CANARY" not in receipt.token
    assert "alice" not in json.dumps(claims)
    (event,) = await room.events("connection.upstream_revoked")
    assert event.details["receipt"] == receipts.thumbprint(receipt.token)


async def test_a_provider_that_lies_is_found_out_and_asked_again_for_days(room: Room) -> None:
    room.slack.lies = True
    connection, receipt = await end_connection(room)
    assert (receipt.result, receipt.reason, receipt.is_final) == ("still_alive", "revoked_but_works", False)
    assert not await is_shredded(room, connection)
    for _ in range(20):
        await revocations.run_due(room.vault)
        room.pass_time(DAY)
    receipt = await receipt_of(room, connection)
    assert (receipt.result, receipt.is_final, receipt.is_open) == ("still_alive", True, True)
    assert await is_shredded(room, connection)


@pytest.mark.parametrize("lies", [True, False])
async def test_a_receipt_counts_attempts_and_names_the_page_while_the_grant_may_live(room: Room, *, lies: bool) -> None:
    page = "https://slack.example/apps"
    slack = replace(room.vault.policies["slack"], removal_pages=(page,))
    room.vault = replace(room.vault, policies={**room.vault.policies, "slack": slack})
    room.slack.lies = True
    connection, receipt = await end_connection(room)
    claims = await claims_of(room, receipt)
    assert (claims["attempts"], claims["pages"]) == (1, [page])
    room.slack.lies = lies
    await revocations.retry(room.vault, connection.id)
    claims = await claims_of(room, await receipt_of(room, connection))
    assert (claims["attempts"], claims.get("pages")) == (2, [page] if lies else None)


async def test_a_lie_that_ends_is_verified_in_the_end(room: Room) -> None:
    room.slack.lies = True
    connection, _ = await end_connection(room)
    room.slack.lies = False
    assert await revocations.retry(room.vault, connection.id) == "revoked"
    assert (await receipt_of(room, connection)).result == "verified_dead"
    assert await revocations.retry(room.vault, connection.id) is None, "nothing is left to try"


async def test_what_cannot_be_revoked_or_probed_is_said_to_be_unsupported(room: Room) -> None:
    room.slack.revoke_outcomes.append(RevokeOutcome.UNSUPPORTED)
    _, cannot_revoke = await end_connection(room)
    assert (cannot_revoke.result, cannot_revoke.reason) == ("unsupported", "no_revocation")
    assert (cannot_revoke.is_final, cannot_revoke.is_open) == (True, True)
    assert room.slack.probes == []
    room.slack.probe_outcomes.append(ProbeOutcome.UNPROVEN)
    _, cannot_probe = await end_connection(room, account="work")
    assert (cannot_probe.result, cannot_probe.reason) == ("unsupported", "no_probe")
    assert (cannot_probe.is_final, cannot_probe.is_open) == (True, False)


@pytest.mark.parametrize(
    ("answer", "probed", "result", "reason"),
    [
        (RevokeOutcome.FAILED, ProbeOutcome.ALIVE, "still_alive", "revocation_refused"),
        (RevokeOutcome.FAILED, ProbeOutcome.SILENT, "unreachable", "revocation_refused"),
        (RevokeOutcome.FAILED, ProbeOutcome.DEAD, "verified_dead", "refused"),
        (RevokeOutcome.REVOKED, ProbeOutcome.SILENT, "unreachable", "probe_unanswered"),
        (Silent("timeout"), None, "unreachable", "no_answer"),
        (NotSent("429", retry_after=90), None, "unreachable", "no_answer"),
    ],
)
async def test_each_answer_has_its_receipt(
    room: Room,
    answer: RevokeOutcome | Silent | NotSent,
    probed: ProbeOutcome | None,
    result: str,
    reason: str,
) -> None:
    room.slack.revoke_outcomes.append(answer)
    room.slack.probe_outcomes.extend([] if probed is None else [probed])
    connection, receipt = await end_connection(room)
    assert (receipt.result, receipt.reason, receipt.is_final) == (result, reason, result == "verified_dead")
    room.pass_time(DAY)
    await revocations.run_due(room.vault)
    assert (await receipt_of(room, connection)).result == "verified_dead"


async def test_a_provider_that_asks_for_patience_is_left_alone_with_all_its_grants(room: Room) -> None:
    for number in range(8):
        await room.disconnect(await room.connect(account=f"account-{number}"))
    other = await room.connect("google")
    await room.disconnect(other)
    room.slack.revoke_outcomes.extend([NotSent("429", retry_after=600)] * 5)
    await revocations.run_due(room.vault)
    assert len(room.slack.revocations) <= 5
    assert (await receipt_of(room, other)).result == "verified_dead", "another provider's grants go on"
    room.pass_time(500)
    assert await revocations.run_due(room.vault) == 0
    room.pass_time(200)
    while await revocations.run_due(room.vault):
        pass
    assert await count_final(room) == 9


@pytest.mark.parametrize("kind", [CredentialKind.OAUTH, CredentialKind.SESSION])
async def test_only_a_secret_that_all_share_pauses_all_while_it_cannot_be_read(
    room: Room, kind: CredentialKind
) -> None:
    for number in range(2):
        await room.disconnect(await room.connect(account=f"account-{number}"))
    policies = {**room.vault.policies, "slack": replace(room.vault.policies["slack"], credential=kind)}
    room.slack.revoke_outcomes.append(NotSent("bao:// can't be read", retry_after=5, lacks_secret=True))
    await revocations.run_due(replace(room.vault, policies=policies))
    rows = await room.database.fetch("select provider from revocation_pauses")
    assert [text(row, "provider") for row in rows] == (["slack"] if kind is CredentialKind.OAUTH else [])


async def test_a_pause_changes_one_row_and_nobodys_revocation(room: Room) -> None:
    for number in range(8):
        await room.disconnect(await room.connect(account=f"account-{number}"))
    before = await room.database.fetch("select connection_id, next_at from upstream_revocations where attempts = 0")
    room.slack.revoke_outcomes.extend([NotSent("429", retry_after=600)] * 5)
    now = room.now
    await revocations.run_due(room.vault)
    left = await room.database.fetch("select connection_id, next_at from upstream_revocations where attempts = 0")
    assert left
    assert all(row in before for row in left)
    rows = await room.database.fetch("select provider, paused_until from revocation_pauses")
    assert [text(row, "provider") for row in rows] == ["slack"]
    assert 600 <= integer(rows[0], "paused_until") - now <= 660
    room.pass_time(500)
    late = room.now
    assert await revocations.count_overdue(room.database, now=late) == (0, late)
    shown = await revocations.list_waiting(room.database, limit=9, now=late)
    assert min(one.next_at or 0 for one in shown) == integer(rows[0], "paused_until")
    room.pass_time(600)
    overdue = len(before), min(integer(row, "next_at") for row in left)
    assert await revocations.count_overdue(room.database, now=room.now) == overdue


async def test_receipts_go_when_they_are_old_and_settled(room: Room) -> None:
    _, dead = await end_connection(room)
    room.slack.revoke_outcomes.append(RevokeOutcome.UNSUPPORTED)
    open_one, _ = await end_connection(room, account="work")
    at = dead.issued_at
    assert await retention.forget_receipts(room.database, before=at - 1) == 0
    assert await retention.forget_receipts(room.database, before=room.now) == 1
    assert (await receipt_of(room, open_one)).is_open
    assert await retention.forget_receipts(room.database, before=room.now) == 0
    async with room.database.transaction() as transaction:
        await receipts.settle(transaction, open_one.id, by="ann", now=room.now)
    assert await retention.forget_receipts(room.database, before=room.now) == 1
    assert verify(dead.token, await receipts.public_keys(room.database))["result"] == "verified_dead"
    await verify_activity(room.database)


async def count_final(room: Room) -> int:
    rows = await room.database.fetch("select is_final, count(*) as n from revocation_receipts group by is_final")
    assert [integer(row, "is_final") for row in rows] == [1]
    return integer(rows[0], "n")


async def test_tokens_that_do_not_open_have_a_receipt_that_says_so(room: Room) -> None:
    connection = await room.connect()
    async with room.database.transaction() as transaction:
        await transaction.execute("update connections set refresh_sealed = access_sealed")
    await room.disconnect(connection)
    assert await receipts.get_receipt(room.database, connection.id) is None
    await revocations.run_due(room.vault)
    receipt = await receipt_of(room, connection)
    assert (receipt.result, receipt.reason, receipt.is_final) == ("unsupported", "unreadable", True)
    assert await revocations.issue_owed(room.vault) == 0


@pytest.mark.parametrize(
    ("outcome", "result", "reason", "is_open"),
    [
        ("unsupported", "unsupported", "no_revocation", True),
        ("given_up", "unreachable", "gave_up", True),
        ("unreadable", "unsupported", "unreadable", True),
        ("revoked", "", "", False),
    ],
)
async def test_what_was_left_open_before_there_were_receipts_is_outstanding(
    room: Room, outcome: str, result: str, reason: str, *, is_open: bool
) -> None:
    connection, _ = await end_connection(room)
    _, migration, *_ = HELD_GRANTS.read_text().split(";")
    async with room.database.transaction() as transaction:
        await transaction.execute("delete from revocation_receipts")
        await transaction.execute("update upstream_revocations set outcome = :outcome", {"outcome": outcome})
        words = {word: word for word in re.findall(r"'(\w+)'", migration)}
        await transaction.execute(re.sub(r"'(\w+)'", r":\1", migration), words)
    await revocations.run_due(room.vault)
    found = await receipts.list_page(room.database, only_open=True, limit=9)
    assert [(one.connection_id, one.result, one.reason) for one in found] == (
        [(connection.id, result, reason)] if is_open else []
    )


# Age


async def test_an_expired_access_token_is_not_called_fresh(room: Room) -> None:
    aged, young = await room.connect(account="aged"), await room.connect(account="young")
    await room.disconnect(young)
    await revocations.run_due(room.vault)
    room.pass_time(room.slack.lifetime - 10)  # it is still valid, but for less time than an attempt may take
    await room.disconnect(aged)
    await revocations.run_due(room.vault)
    assert [is_fresh for _, _, is_fresh in room.slack.probes] == [True, False]


# Signatures


async def test_a_receipt_outlives_its_signing_key_and_its_person(room: Room) -> None:
    connection, receipt = await end_connection(room)
    async with room.database.transaction() as transaction:
        await users.delete_user(transaction, room.alice.user.id, now=room.now)
    await revocations.run_due(room.vault)
    for _ in range(2):
        await room.vault.keys.signing.rotate(room.database, now=room.now)
        room.pass_time(3 * DAY)
    await room.vault.keys.signing.rotate(room.database, now=room.now)
    published = room.vault.keys.signing.public_jwks(room.now)
    with pytest.raises(ReceiptRefused, match="key ID"):
        verify(receipt.token, published)
    kept = await receipt_of(room, connection)
    assert (await claims_of(room, kept))["grant"] == connection.id


async def test_an_altered_receipt_is_refused(room: Room) -> None:
    room.slack.lies = True
    _, receipt = await end_connection(room)
    keys = await receipts.public_keys(room.database)
    assert verify(receipt.token, keys)["result"] == "still_alive"
    header, payload, signature = receipt.token.split(".")
    for altered in (
        f"{header}.{payload[:-4]}AAAA.{signature}",
        f"{header}.{payload}.{'A' * len(signature)}",
        f"{header}.{payload}",
        "not a receipt",
    ):
        with pytest.raises(ReceiptRefused):
            verify(altered, keys)


# One receipt each, whichever process dies


async def test_forty_grants_whose_process_dies_half_way_have_one_receipt_each(room: Room) -> None:
    for number in range(40):
        await room.disconnect(await room.connect(account=f"account-{number}"))
    room.slack.revoke_gate = asyncio.Event()
    dying = asyncio.create_task(revocations.run_due(room.vault))
    async with asyncio.timeout(WAIT):
        await room.slack.revoke_arrived.wait()
        room.slack.revoke_gate.set()
        while len(room.slack.probes) < 20:
            await asyncio.sleep(0)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
    assert 0 < await count_final(room) < 40
    room.pass_time(DAY)
    async with asyncio.timeout(WAIT):
        while any(await asyncio.gather(*(revocations.run_due(room.vault) for _ in range(2)))):
            pass
    assert await count_final(room) == 40
    rows = await room.database.fetch(
        "select connection_id, count(*) as n from revocation_receipts group by connection_id"
    )
    assert [integer(row, "n") for row in rows] == [1] * 40
    assert len(await room.events("connection.upstream_revoked")) == 40
    assert list(await room.database.fetch("select connection_id from keys.connection_keys")) == []


# By hand


async def test_what_somebody_ended_by_hand_is_not_outstanding_any_more(room: Room) -> None:
    room.slack.revoke_outcomes.append(RevokeOutcome.UNSUPPORTED)
    left, _ = await end_connection(room)
    dead, _ = await end_connection(room, account="work")
    assert [one.connection_id for one in await receipts.list_page(room.database, only_open=True, limit=9)] == [left.id]
    for connection, is_left in ((dead, False), (left, True), (left, False)):
        async with room.database.transaction() as transaction:
            assert await receipts.settle(transaction, connection.id, by="admin", now=room.now) is is_left
    assert await receipts.list_page(room.database, only_open=True, limit=9) == ()
    found = await receipt_of(room, left)
    assert (found.result, found.settled_by, found.is_open) == ("unsupported", "admin", False)


# Much at once


async def start(room: Room, kind: panics.Kind, subject: str) -> panics.Panic:
    async with room.database.transaction() as transaction:
        return await panics.start(transaction, kind, subject, by="command_line", now=room.now)


async def open_access(room: Room) -> tuple[set[str], set[str]]:
    """The agents that have a grant, and those that haven't been removed."""
    grants = await room.database.fetch("select client_id from grants where revoked_at is null")
    clients = await room.database.fetch("select id from clients where removed_at is null")
    return {text(row, "client_id") for row in grants}, {text(row, "id") for row in clients}


async def live(room: Room) -> list[str]:
    rows = await room.database.fetch("select account from connections where ended_at is null order by account")
    return [text(row, "account") for row in rows]


@pytest.mark.parametrize(
    ("kind", "left"),
    [("user", ["bob"]), ("client", ["bob", "unused"]), ("provider", ["calendar"]), ("all", [])],
)
async def test_a_panic_ends_what_it_names_and_nothing_else(room: Room, kind: panics.Kind, left: list[str]) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    async with room.database.transaction() as transaction:
        for table in ("grants", "clients"):
            await transaction.execute(f"update {table} set created_at = 1")  # the seeded rows have a later time
    await room.connect(account="alice")
    await room.connect("google", account="calendar")
    await room.connect(account="unused", delegated=frozenset())
    await room.connect(account="bob", whose=bob)
    subjects = {"user": room.alice.user.id, "client": room.alice.client.id, "provider": "slack", "all": ""}
    planned = await panics.reach(room.database, kind, subjects[kind], since=room.now)
    assert await live(room) == ["alice", "bob", "calendar", "unused"], "a dry run changes nothing"
    started = await start(room, kind, subjects[kind])
    room.pass_time(10)
    assert await panics.go_on(room.vault, started) == sum(planned.values())
    assert await live(room) == left
    assert (
        await open_access(room)
        == {
            "user": ({"agent-2"}, {"agent-1", "agent-2"}),
            "client": ({"agent-2"}, {"agent-2"}),
            "provider": ({"agent-1", "agent-2"}, {"agent-1", "agent-2"}),
            "all": (set[str](), {"agent-1", "agent-2"}),
        }[kind]
    )
    while await revocations.run_due(room.vault):
        pass
    found = await panics.count_ended(room.database, kind, subjects[kind], since=started.requested_at)
    assert (found.verified_dead, found.total, found.is_over) == (4 - len(left), 4 - len(left), True)
    assert await panics.list_open(room.database) == ()


async def test_a_panic_that_was_interrupted_goes_on_and_spares_what_came_later(room: Room) -> None:
    for number in range(6):
        await room.connect(account=f"account-{number}")
    first = await start(room, "all", "")
    (half, *_) = await connections.list_connections(room.database, room.alice.user.id)
    await room.disconnect(half)
    room.pass_time(60)
    await room.connect(account="new")
    assert [one.id for one in await panics.list_open(room.database)] == [first.id]
    assert await panics.go_on_all(room.vault) == 5
    assert await live(room) == ["new"]
    assert await panics.list_open(room.database) == ()


async def test_an_order_that_is_given_again_ends_what_came_since(room: Room) -> None:
    await room.connect(account="before")
    await start(room, "all", "")
    room.pass_time(60)
    await room.connect(account="between")
    again = await start(room, "all", "")
    room.pass_time(60)
    await room.connect(account="after")
    assert await panics.go_on(room.vault, again) == 2
    assert await live(room) == ["after"]
    assert await panics.list_open(room.database) == (), "the first order is done, too"


async def test_an_order_about_an_agent_goes_on_although_the_agent_is_gone(room: Room) -> None:
    agent = room.alice.client
    await room.connect(account="left")
    started = await start(room, "client", agent.id)
    async with room.database.transaction() as transaction:
        await clients.remove_client(transaction, agent.id, now=room.now)
    room.pass_time(60)
    assert [await panics.find_client(room.database, name) for name in (agent.id, agent.name, "other")] == [
        agent.id, agent.id, None
    ]  # fmt: skip
    again = await start(room, "client", agent.id)
    assert (again.since, again.requested_at) == (started.requested_at, started.requested_at + 60)
    assert await panics.go_on(room.vault, again) == 1
    await revocations.run_due(room.vault)
    room.pass_time(60)
    first = await panics.first_asked(room.database, "client", agent.id, now=room.now)
    assert first == started.requested_at
    assert (await panics.count_ended(room.database, "client", agent.id, since=first)).verified_dead == 1
    assert (await panics.count_ended(room.database, "client", agent.id, since=room.now)).total == 0


async def test_an_agent_that_came_back_after_the_order_is_not_removed(room: Room) -> None:
    agent = room.alice.client
    earlier = await start(room, "client", agent.id)
    room.pass_time(60)
    async with room.database.transaction() as transaction:
        await transaction.execute("update clients set created_at = :now", {"now": room.now})
    await panics.go_on(room.vault, earlier)
    assert (await open_access(room))[1] == {agent.id}
    await panics.go_on(room.vault, await start(room, "client", agent.id))
    assert (await open_access(room))[1] == set()


async def test_a_permission_that_was_over_spares_the_account(room: Room) -> None:
    for name, seconds in (("over", 60), ("lasting", 600)):
        connection = await room.connect(account=name, delegated=frozenset())
        await room.allow(connection, SLACK_SCOPES, expires_at=room.now + seconds)
    room.pass_time(120)
    await panics.go_on(room.vault, await start(room, "client", room.alice.client.id))
    assert await live(room) == ["over"]


async def test_the_standing_tells_what_is_outstanding(room: Room) -> None:
    for outcome in (RevokeOutcome.UNSUPPORTED, Silent("timeout"), RevokeOutcome.FAILED, RevokeOutcome.REVOKED):
        room.slack.revoke_outcomes.append(outcome)
        await end_connection(room, account=str(outcome))
    await room.disconnect(await room.connect(account="waits"))
    found = await panics.count_ended(room.database, "user", room.alice.user.id, since=0)
    assert found == panics.EndedCounts(waiting=1, verified_dead=1, retried=1, by_hand=1, still_alive=1)
    assert not found.is_over
    async with room.database.transaction() as transaction:
        await transaction.execute(
            "update revocation_receipts set settled_at = 1 where result = :of", {"of": "unsupported"}
        )
    found = await panics.count_ended(room.database, "user", room.alice.user.id, since=0)
    assert (found.by_hand, found.settled, found.verified_dead) == (0, 1, 1)


async def test_a_refused_revocation_is_not_verified_by_a_dead_access_token(room: Room) -> None:
    connection = await room.connect()
    await room.disconnect(connection)
    room.slack.revoke_outcomes.extend([RevokeOutcome.FAILED, RevokeOutcome.REVOKED])
    await revocations.run_due(room.vault)
    room.pass_time(DAY)
    await revocations.run_due(room.vault)
    assert room.slack.were_revoked == [False, True], "the probe is told, and judges by it"


@pytest.mark.parametrize("was_tried", [False, True])
async def test_a_grant_that_a_newer_connection_holds_stays_outstanding(room: Room, *, was_tried: bool) -> None:
    await room.connect()
    started = await start(room, "user", room.alice.user.id)
    await panics.go_on(room.vault, started)
    if was_tried:
        room.slack.revoke_outcomes.append(Silent("timeout"))
        await revocations.run_due(room.vault)
    room.pass_time(DAY)
    newer = await room.connect()
    await revocations.run_due(room.vault)
    found = await panics.count_ended(room.database, "user", room.alice.user.id, since=0)
    assert (found, found.is_over) == (panics.EndedCounts(held=1), False)
    assert len(await revocations.list_held(room.database, limit=9)) == 1
    await room.disconnect(newer)
    await revocations.run_due(room.vault)
    found = await panics.count_ended(room.database, "user", room.alice.user.id, since=0)
    assert (found, found.is_over) == (panics.EndedCounts(verified_dead=2), True)
    assert await revocations.list_held(room.database, limit=9) == ()


async def test_an_earlier_consent_is_not_outstanding_while_its_person_uses_the_newer_one(room: Room) -> None:
    await room.connect()
    newer = await room.connect()
    assert await revocations.list_held(room.database, limit=9) == ()
    async with room.database.transaction() as transaction:
        await transaction.execute("update connections set ended_at = 1 where id = :id", {"id": newer.id})
    assert len(await revocations.list_held(room.database, limit=9)) == 1


async def test_a_page_reads_the_receipts_that_it_shows_without_their_signed_forms(room: Room) -> None:
    room.slack.lies = True
    retried, _ = await end_connection(room, account="retried")
    room.slack.lies = False
    over, receipt = await end_connection(room, account="over")
    for since, shown in ((receipt.issued_at - 1, {retried.id, over.id}), (receipt.issued_at, {retried.id})):
        found = await receipts.list_of_user(room.database, room.alice.user.id, since=since)
        assert set(found) == shown
        assert {one.token for one in found.values()} == {""}
