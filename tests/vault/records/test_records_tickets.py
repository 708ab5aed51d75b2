"""Single-use expiring secrets, and the redemption of authorization codes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest

from tests.support.inspection import get_grant
from tests.support.seeded_grant import LIFETIMES, NOW, REDIRECT, RESOURCE, SCOPES, SeededGrant, seed
from vault import clients, grants, tickets, users
from vault.audit import audit
from vault.envelope import seal
from vault.keys.key_ring import KeyRing
from vault.records import DAY, Grant, Ticket, TicketPurpose
from vault.refusals import CiphertextRejected, StorageUnavailable, TransitionRefused
from vault.storage.database import Database, Transaction, binary
from vault.tokens import tokens

CODE = TicketPurpose.CODE
PAYLOAD = {"code_challenge": "c" * 43, "scopes": ["tools"], "n": 1, "none": None}


async def _issue(
    database: Database, ring: KeyRing, purpose: TicketPurpose = CODE, *, lifetime: int = 60, secret: str | None = None
) -> str:
    async with database.transaction() as transaction:
        return await tickets.issue(
            transaction,
            ring,
            purpose=purpose,
            payload=PAYLOAD,
            lifetime=lifetime,
            now=NOW,
            user_id="user-1",
            client_id="agent-1",
            binding=b"b" * 32,
            secret=secret,
        )


async def _consume(
    database: Database, ring: KeyRing, secret: str, *, purpose: TicketPurpose = CODE, now: int = NOW
) -> Ticket:
    async with database.transaction() as transaction:
        return await tickets.consume(transaction, ring, secret, purpose=purpose, now=now)


@pytest.mark.requirement("S-057", "S-141")
@pytest.mark.parametrize("purpose", [purpose for purpose in TicketPurpose if purpose not in tickets.SHORT])
async def test_a_ticket_is_256_bit_brings_its_facts_and_works_once(
    database: Database, key_ring: KeyRing, purpose: TicketPurpose
) -> None:
    secret = await _issue(database, key_ring, purpose)
    assert len(secret) == 43
    seen = await tickets.peek(database, key_ring, secret, purpose=purpose, now=NOW)
    used = await _consume(database, key_ring, secret, purpose=purpose)
    assert seen is not None
    assert used.payload == seen.payload == PAYLOAD
    assert (used.user_id, used.client_id, used.binding, used.consumed_at) == ("user-1", "agent-1", b"b" * 32, NOW)
    assert await tickets.peek(database, key_ring, secret, purpose=purpose, now=NOW) is None
    with pytest.raises(tickets.TicketReplayed):
        await _consume(database, key_ring, secret, purpose=purpose)


@pytest.mark.requirement("S-057")
async def test_a_ticket_works_until_its_last_second_and_not_after(database: Database, key_ring: KeyRing) -> None:
    early, late = await _issue(database, key_ring), await _issue(database, key_ring)
    assert await tickets.peek(database, key_ring, late, purpose=CODE, now=NOW + 60) is None
    with pytest.raises(TransitionRefused, match="expired"):
        await _consume(database, key_ring, late, now=NOW + 60)
    await _consume(database, key_ring, early, now=NOW + 59)


async def test_a_ticket_of_one_purpose_is_nothing_for_another(database: Database, key_ring: KeyRing) -> None:
    secret = await _issue(database, key_ring, TicketPurpose.CONNECT)
    assert await tickets.peek(database, key_ring, secret, purpose=CODE, now=NOW) is None
    with pytest.raises(TransitionRefused, match="unknown"):
        await _consume(database, key_ring, secret)
    await _consume(database, key_ring, secret, purpose=TicketPurpose.CONNECT)


@pytest.mark.requirement("S-057")
async def test_a_bent_secret_is_refused_and_the_right_one_still_works(database: Database, key_ring: KeyRing) -> None:
    secret = await _issue(database, key_ring)
    for bent in ("", secret[:-1], secret + "A", secret.swapcase(), f" {secret}", f"{secret}\n", "\ud800"):
        with pytest.raises(TransitionRefused, match="unknown"):
            await _consume(database, key_ring, bent)
    await _consume(database, key_ring, secret)


async def test_neither_secret_nor_payload_can_be_read_in_the_table(database: Database, key_ring: KeyRing) -> None:
    secret = await _issue(database, key_ring)
    row = await database.fetch_one("select ticket_hash, payload from tickets")
    assert row is not None
    for value in row.values():
        assert isinstance(value, bytes)
        assert secret.encode() not in value
        assert b"code_challenge" not in value


@pytest.mark.parametrize("payload", [b"[]", b'"text"', b"1", b"{}"])
async def test_a_payload_that_is_no_object_is_refused(database: Database, key_ring: KeyRing, payload: bytes) -> None:
    secret = await _issue(database, key_ring)
    (row,) = await database.fetch("select ticket_hash from tickets")
    context = tickets._context(CODE, binary(row, "ticket_hash"))
    sealed = seal(payload, key=key_ring.subkey(tickets._KEY), key_id=tickets._KEY, context=context)
    async with database.transaction() as transaction:
        await transaction.execute("update tickets set payload = :sealed", {"sealed": sealed})
    if payload == b"{}":
        assert (await _consume(database, key_ring, secret)).payload == {}
    else:
        with pytest.raises(StorageUnavailable, match="can't be read"):
            await _consume(database, key_ring, secret)


async def test_a_payload_moved_to_another_ticket_does_not_open(database: Database, key_ring: KeyRing) -> None:
    mine, yours = await _issue(database, key_ring), await _issue(database, key_ring)
    async with database.transaction() as transaction:
        rows = await transaction.fetch("select ticket_hash, payload from tickets order by ticket_hash")
        await transaction.execute(
            "update tickets set payload = :payload where ticket_hash = :ticket_hash",
            {"payload": rows[0]["payload"], "ticket_hash": rows[1]["ticket_hash"]},
        )
    opened = 0
    for secret in (mine, yours):
        try:
            opened += await tickets.peek(database, key_ring, secret, purpose=CODE, now=NOW) is not None
        except CiphertextRejected:
            continue
    assert opened == 1


@pytest.mark.requirement("S-072")
async def test_of_twenty_parallel_uses_exactly_one_succeeds(database: Database, key_ring: KeyRing) -> None:
    for _ in range(3):
        secret = await _issue(database, key_ring)
        results = await asyncio.gather(
            *(_consume(database, key_ring, secret) for _ in range(20)), return_exceptions=True
        )
        assert sum(isinstance(result, Ticket) for result in results) == 1
        others = [result for result in results if isinstance(result, BaseException)]
    assert [type(one) for one in others] == [tickets.TicketReplayed] * 19, others


@pytest.mark.requirement("S-082")
async def test_a_refusal_in_the_same_transaction_leaves_the_ticket_unused(
    database: Database, key_ring: KeyRing
) -> None:
    secret = await _issue(database, key_ring)
    with pytest.raises(TransitionRefused, match="wrong verifier"):
        async with database.transaction() as transaction:
            await tickets.consume(transaction, key_ring, secret, purpose=CODE, now=NOW)
            raise TransitionRefused("wrong verifier")
    await _consume(database, key_ring, secret)


@pytest.mark.parametrize("purpose", sorted(tickets.SHORT))
async def test_a_user_code_is_short_and_found_however_it_is_typed(
    database: Database, key_ring: KeyRing, purpose: TicketPurpose
) -> None:
    code = await _issue(database, key_ring, purpose)
    assert re.fullmatch(r"[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}", code)
    for typed in (code, code.lower(), code.replace("-", ""), f" {code[:4]} {code[5:]} ", code.replace("-", "\u2013")):
        assert await tickets.peek(database, key_ring, typed, purpose=purpose, now=NOW) is not None
    assert await tickets.peek(database, key_ring, code[:8], purpose=purpose, now=NOW) is None
    await _consume(database, key_ring, code.lower(), purpose=purpose)
    assert await tickets.peek(database, key_ring, code, purpose=purpose, now=NOW) is None
    assert await tickets.is_known(database, code, purpose=purpose)
    assert await tickets.find(database, key_ring, code, purpose=purpose) is not None
    assert await tickets.find(database, key_ring, "BBBB-BBBB", purpose=purpose) is None


def test_of_a_typed_code_64_characters_are_read() -> None:
    assert tickets.normal_user_code(" " * 57 + "bcdfghjk") == "BCDF-GHJ"
    assert tickets.normal_user_code(" " * 56 + "bcdfghjk") == "BCDF-GHJK"


async def test_a_code_that_is_taken_is_refused_rather_than_shared(database: Database, key_ring: KeyRing) -> None:
    code = await _issue(database, key_ring, TicketPurpose.DEVICE)
    with pytest.raises(TransitionRefused, match="taken"):
        await _issue(database, key_ring, TicketPurpose.DEVICE, secret=code)
    await _issue(database, key_ring, TicketPurpose.DEVICE, secret=tickets.new_user_code())


# Redeeming an authorization code


async def _redeem(
    database: Database, ring: KeyRing, code: str, seeded: SeededGrant, *, is_holder: bool = True, now: int = NOW
) -> tuple[Grant, str]:
    def judge(ticket: Ticket) -> bool:
        assert ticket.payload == PAYLOAD
        return is_holder

    async with grants.redeem_code(database, ring, code, is_holder=judge, now=now) as redemption:
        assert redemption.ticket.payload == PAYLOAD
        grant = await redemption.create_grant(
            user_id=seeded.user.id,
            client_id=seeded.client.id,
            scopes=SCOPES,
            resource=RESOURCE,
            redirect_uri=REDIRECT,
            now=now,
        )
        refresh = await tokens.issue_refresh_token(
            redemption.transaction, grant, scopes=SCOPES, resource=RESOURCE, now=now, lifetimes=LIFETIMES
        )
    return grant, refresh


@pytest.mark.requirement("S-071")
@pytest.mark.parametrize("delay", [1, 3600, 86000])
async def test_a_replayed_code_is_refused_and_revokes_what_its_first_use_produced(
    database: Database, key_ring: KeyRing, delay: int
) -> None:
    seeded = await seed(database)
    code, other_code = await _issue(database, key_ring), await _issue(database, key_ring)
    grant, refresh = await _redeem(database, key_ring, code, seeded)
    other, _ = await _redeem(database, key_ring, other_code, seeded)
    assert await grants.live_principal_facts(database, grant.id) is not None
    async with database.transaction() as transaction:
        await tickets.sweep_tickets(transaction, now=NOW + delay)
    with pytest.raises(tickets.TicketReplayed) as refused:
        await _redeem(database, key_ring, code, seeded, now=NOW + delay)
    assert refused.value.outcome == grant.id
    assert code not in str(refused.value) + refused.value.detail

    ended = await get_grant(database, grant.id)
    assert ended is not None
    assert (ended.revoked_at, ended.revoked_reason) == (NOW + delay, "code_replayed")
    assert await grants.live_principal_facts(database, grant.id) is None
    assert await tokens.find_live(database, refresh, now=NOW) is None
    assert await grants.live_principal_facts(database, other.id) is not None
    assert await grants.live_principal_facts(database, seeded.grant.id) is not None
    events = await audit.list_events(database, user_id=seeded.user.id)
    assert [(event.kind, event.details["reason"]) for event in events] == [("grant.revoked", "code_replayed")]
    with pytest.raises(tickets.TicketReplayed):
        await _redeem(database, key_ring, code, seeded, now=NOW + delay)
    assert len(await audit.list_events(database, user_id=seeded.user.id)) == 1


@pytest.mark.requirement("S-072")
async def test_of_twenty_parallel_redemptions_at_most_one_succeeds_and_its_grant_is_dead(
    database: Database, key_ring: KeyRing
) -> None:
    seeded = await seed(database)
    code = await _issue(database, key_ring)
    results = await asyncio.gather(
        *(_redeem(database, key_ring, code, seeded) for _ in range(20)), return_exceptions=True
    )
    won = [result for result in results if not isinstance(result, BaseException)]
    assert len(won) == 1
    others = [result for result in results if isinstance(result, BaseException)]
    assert [type(one) for one in others] == [tickets.TicketReplayed] * 19, others
    assert await grants.live_principal_facts(database, won[0][0].id) is None  # nineteen replays were detected
    assert [grant.id for grant in await grants.list_grants(database, seeded.user.id)] == [seeded.grant.id]


@pytest.mark.requirement("S-082")
async def test_a_refused_redemption_leaves_the_code_and_makes_no_grant(database: Database, key_ring: KeyRing) -> None:
    seeded = await seed(database)
    code = await _issue(database, key_ring)
    with pytest.raises(TransitionRefused, match="wrong client"):
        async with grants.redeem_code(database, key_ring, code, is_holder=lambda _: True, now=NOW):
            raise TransitionRefused("wrong client")
    grant, _ = await _redeem(database, key_ring, code, seeded)
    assert {live.id for live in await grants.list_grants(database, seeded.user.id)} == {seeded.grant.id, grant.id}


async def _remove_client(transaction: Transaction, seeded: SeededGrant) -> None:
    await clients.remove_client(transaction, seeded.client.id, now=NOW)


async def _set_password(transaction: Transaction, seeded: SeededGrant) -> None:
    await users.set_password(transaction, seeded.user.id, password_hash="new", now=NOW)


async def _cut_off(transaction: Transaction, seeded: SeededGrant) -> None:
    await grants.revoke_client_grants(
        transaction, user_id=seeded.user.id, client_id=seeded.client.id, reason="cut_off", now=NOW
    )


@pytest.mark.requirement("S-030", "S-086")
@pytest.mark.parametrize("end", [_remove_client, _set_password, _cut_off])
async def test_no_grant_survives_an_end_that_races_with_redemptions(
    database: Database, key_ring: KeyRing, end: Callable[[Transaction, SeededGrant], Awaitable[None]]
) -> None:
    seeded = await seed(database)
    async with database.transaction() as transaction:
        codes = [
            await tickets.issue(
                transaction,
                key_ring,
                purpose=CODE,
                payload=PAYLOAD,
                lifetime=60,
                now=NOW,
                user_id=seeded.user.id,
                client_id=seeded.client.id,
            )
            for _ in range(12)
        ]

    async def end_all() -> None:
        async with database.transaction() as transaction:
            await end(transaction, seeded)

    redemptions = [_redeem(database, key_ring, code, seeded) for code in codes]
    results = await asyncio.gather(*redemptions[:6], end_all(), *redemptions[6:], return_exceptions=True)
    assert results[6] is None
    assert all(isinstance(result, tuple | TransitionRefused) for result in results[:6] + results[7:])
    assert await grants.list_grants(database, seeded.user.id) == ()


async def test_a_redemption_without_a_grant_is_a_mistake_that_commits_nothing(
    database: Database, key_ring: KeyRing
) -> None:
    seeded = await seed(database)
    code = await _issue(database, key_ring)
    with pytest.raises(RuntimeError, match="without a grant"):
        async with grants.redeem_code(database, key_ring, code, is_holder=lambda _: True, now=NOW):
            pass
    await _redeem(database, key_ring, code, seeded)


async def test_an_unused_code_that_expired_revokes_nothing(database: Database, key_ring: KeyRing) -> None:
    seeded = await seed(database)
    code = await _issue(database, key_ring)
    with pytest.raises(TransitionRefused, match="expired"):
        await _redeem(database, key_ring, code, seeded, now=NOW + 60)
    assert await grants.live_principal_facts(database, seeded.grant.id) is not None


@pytest.mark.requirement("S-071")
@pytest.mark.parametrize("is_holder", [True, False])
async def test_only_who_could_have_redeemed_a_code_ends_its_grant_by_a_replay(
    database: Database, key_ring: KeyRing, is_holder: bool
) -> None:
    seeded = await seed(database)
    code = await _issue(database, key_ring)
    grant, _ = await _redeem(database, key_ring, code, seeded)
    with pytest.raises(tickets.TicketReplayed):
        await _redeem(database, key_ring, code, seeded, is_holder=is_holder)
    assert (await grants.live_principal_facts(database, grant.id) is None) == is_holder


async def test_a_used_code_whose_payload_an_older_release_emptied_ends_nothing(
    database: Database, key_ring: KeyRing
) -> None:
    seeded = await seed(database)
    code = await _issue(database, key_ring)
    grant, _ = await _redeem(database, key_ring, code, seeded)
    async with database.transaction() as transaction:
        await transaction.execute("update tickets set payload = :empty", {"empty": b""})
    with pytest.raises(tickets.TicketReplayed):
        await _redeem(database, key_ring, code, seeded)
    assert await grants.live_principal_facts(database, grant.id) is not None


async def test_sweeping_forgets_tickets_a_day_after_their_end(database: Database, key_ring: KeyRing) -> None:
    seeded = await seed(database)
    redeemed = await _issue(database, key_ring)
    unused, link = await _issue(database, key_ring), await _issue(database, key_ring, TicketPurpose.CONNECT)
    await _redeem(database, key_ring, redeemed, seeded)
    await _consume(database, key_ring, link, purpose=TicketPurpose.CONNECT)

    async def sweep(now: int) -> int:
        async with database.transaction() as transaction:
            return await tickets.sweep_tickets(transaction, now=now)

    assert await sweep(NOW + 86400) == 0
    with pytest.raises(TransitionRefused, match="expired"):
        await _consume(database, key_ring, unused, now=NOW + 86400)
    assert await sweep(NOW + 60 + 86400) == 3
    with pytest.raises(TransitionRefused, match="unknown"):
        await _redeem(database, key_ring, redeemed, seeded, now=NOW + 60 + 86400)
    assert len(await grants.list_grants(database, seeded.user.id)) == 2


async def test_a_provider_may_answer_a_used_state_for_8_days_and_then_it_is_settled(
    database: Database, key_ring: KeyRing
) -> None:
    secret = await _issue(database, key_ring, TicketPurpose.UPSTREAM_STATE)
    used = await _consume(database, key_ring, secret, purpose=TicketPurpose.UPSTREAM_STATE)

    async def settle(now: int) -> tuple[tuple[bytes, str], ...]:
        async with database.transaction() as transaction:
            return await tickets.settle_lost_states(transaction, outcome="lost", now=now)

    end = NOW + 8 * 86400
    assert await settle(end - 1) == ()
    assert [one.ticket_hash for one in await tickets.unfinished_states(database, key_ring, now=end - 1)] == [
        used.ticket_hash
    ]
    assert await tickets.unfinished_states(database, key_ring, now=end) == ()
    assert await settle(end) == ((used.ticket_hash, "user-1"),)


async def test_what_strangers_made_is_forgotten_minutes_after_its_end(database: Database, key_ring: KeyRing) -> None:
    made: dict[str, str] = {}

    async def issue(name: str, purpose: TicketPurpose, user_id: str | None = None) -> None:
        async with database.transaction() as transaction:
            made[name] = await tickets.issue(
                transaction, key_ring, purpose=purpose, payload={}, lifetime=60, now=NOW, user_id=user_id
            )

    await issue("waiting", TicketPurpose.AUTHORIZATION)
    await issue("answered", TicketPurpose.AUTHORIZATION)
    await issue("pushed", TicketPurpose.PUSHED)
    await issue("start", TicketPurpose.SIGN_IN_STATE)
    await issue("bootstrap", TicketPurpose.BOOTSTRAP)
    await issue("link", TicketPurpose.CONNECT, user_id="somebody")
    for name, purpose in (("answered", TicketPurpose.AUTHORIZATION), ("pushed", TicketPurpose.PUSHED)):
        async with database.transaction() as transaction:
            await tickets.consume(transaction, key_ring, made[name], purpose=purpose, now=NOW)

    async def count_after_sweep(now: int) -> int:
        async with database.transaction() as transaction:
            await tickets.sweep_tickets(transaction, now=now)
        return len(await database.fetch("select purpose from tickets"))

    assert await count_after_sweep(NOW + 60 + 299) == 6
    assert await count_after_sweep(NOW + 60 + 300) == 3
    kept = {str(row["purpose"]) for row in await database.fetch("select purpose from tickets")}
    assert kept == {"authorization", "bootstrap", "connect"}  # of the first, the answered authorization


async def test_the_answer_to_a_state_is_waited_for_8_days(database: Database, key_ring: KeyRing) -> None:
    secret = await _issue(database, key_ring, TicketPurpose.UPSTREAM_STATE)
    used = await _consume(database, key_ring, secret, purpose=TicketPurpose.UPSTREAM_STATE)
    assert not await tickets.has_unfinished_states(database, "user-2", now=NOW)
    for now, is_waiting in ((NOW, True), (NOW + 8 * DAY - 1, True), (NOW + 8 * DAY, False)):
        assert await tickets.has_unfinished_states(database, "user-1", now=now) is is_waiting
        assert await tickets.unfinished_states(database, key_ring, now=now) == ((used,) if is_waiting else ())
        async with database.transaction() as transaction:
            lost = await tickets.settle_lost_states(transaction, outcome="lost", now=now)
        assert lost == (() if is_waiting else ((used.ticket_hash, "user-1"),))
