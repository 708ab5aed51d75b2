"""The code follows the rules that the model explores, even where they are SQL and a sequence, not one function."""

from __future__ import annotations

import inspect
import itertools
import time
from dataclasses import fields, replace

import pytest

from tests.conftest import Store
from tests.support.models.refresh_model import Rules
from tests.support.rooms.vault_room import open_room, second_process
from tests.vault.refresh.test_refresh_model import BROKEN
from vault.refresh import leases, rotation, rules, takeover
from vault.refresh.accounts import AccountQuery, read_accounts
from vault.refusals import CiphertextRejected, TemporarilyUnavailable
from vault.upstream import SEND_DEADLINE, RotationMode, UpstreamPolicy


def test_the_model_decides_with_every_function_of_the_rules_and_breaks_each_of_them() -> None:
    made = {name: one for name, one in vars(rules).items() if inspect.isfunction(one)}
    ours = {name: one for name, one in made.items() if one.__module__ == rules.__name__}
    theirs = {one.name: one.default for one in fields(Rules) if inspect.isfunction(one.default)}
    assert theirs == ours
    told = {line.partition(".")[0] for line in (rules.__doc__ or "").splitlines() if line[:1].isdigit()}
    broken = {one.name.partition(":")[0] for one in BROKEN if one.name[:1].isdigit()}
    assert told == broken == {str(number) for number in range(1, 13)}


async def test_a_second_claim_keeps_the_first_ones_unresolved_send(store: Store) -> None:
    """Rule 2."""
    async with open_room(store, rotation=RotationMode.GRACE) as room:
        connection = await room.connect()
        for owner in ("first", "second", "first"):
            facts = await room.row(connection)
            async with room.database.transaction() as transaction:
                lease = await leases.claim(transaction, facts, owner=owner, now=room.now)
                assert lease is not None
                await leases.settle(transaction, lease, now=room.now)
        left = await leases.list_unresolved(room.database, await room.row(connection))
        assert [(one.owner, one.sends) for one in left] == [("first", 2), ("second", 1)]


async def test_a_held_token_is_claimed_by_nobody_and_leaves_no_send(store: Store) -> None:
    """Showing a refresh token without spending it (`vault.refresh.assertions`) takes turns with spending it."""
    async with open_room(store, rotation=RotationMode.REVOKES) as room:
        connection = await room.connect()
        facts = await room.row(connection)
        held = leases.Lease.attempt(facts, owner="holder")
        async with room.database.transaction() as transaction:
            assert await leases.hold(transaction, facts, held, now=room.now)
        seen = await room.row(connection)
        assert (seen.lease_owner, seen.sent_at) == ("holder", None)
        async with room.database.transaction() as transaction:
            again = leases.Lease.attempt(seen, owner="another")
            assert not await leases.hold(transaction, seen, again, now=room.now)
            assert await leases.claim(transaction, seen, owner="another", now=room.now) is None
            await leases.release(transaction, held)
        seen = await room.row(connection)
        async with room.database.transaction() as transaction:
            assert await leases.claim(transaction, seen, owner="another", now=room.now)
        room.pass_time(1)
        claimed = await room.row(connection)
        async with room.database.transaction() as transaction:
            late = leases.Lease.attempt(claimed, owner="holder")
            assert not await leases.hold(transaction, claimed, late, now=room.now), "a send is under way"


async def test_an_answer_ends_its_own_send_and_those_of_older_tokens_only(store: Store) -> None:
    """Rule 3."""
    async with open_room(store, rotation=RotationMode.GRACE) as room:
        connection = await room.connect()
        room.slack.has_grace = True
        room.pass_time(3600)
        facts = await room.row(connection)
        async with room.database.transaction() as transaction:
            old = await leases.claim(transaction, facts, owner="old", now=room.now)
            assert old is not None
            await leases.settle(transaction, old, now=room.now)
        assert await room.exchange()
        facts = await room.row(connection)
        async with room.database.transaction() as transaction:
            later = await leases.claim(transaction, facts, owner="later", now=room.now)
            assert later is not None
            await leases.resolve(transaction, old)  # now the old one's answer arrives; it is about an older token
        left = await leases.list_unresolved(room.database, await room.row(connection))
        assert [one.owner for one in left] == ["later"]
        assert (await room.row(connection)).lease_owner == "later"


@pytest.mark.parametrize(("age", "expected"), [(1, 2), (0, 3)])
async def test_an_answer_for_an_ended_connection_outdates_none_of_a_newer_token(
    store: Store, age: int, expected: int
) -> None:
    """Rule 3. `age`: how many tokens ago the answered one was used."""
    async with open_room(store) as room:
        connection = await room.connect()
        room.pass_time(3600)
        await room.exchange()
        late = replace(leases.Lease.attempt(await room.row(connection), owner="late"), generation=2 - age)
        await room.disconnect(connection)
        async with room.database.transaction() as transaction:
            await leases.outdate(transaction, late)
        assert (await room.row(connection)).generation == expected


@pytest.mark.parametrize(("slept", "sends"), [(False, 1), (True, 0)])
async def test_a_claim_that_slept_too_long_is_let_go_unsent(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, slept: bool, sends: int
) -> None:
    """Rule 6."""
    async with open_room(store, rotation=RotationMode.REVOKES) as room:
        connection = await room.connect()
        room.pass_time(3600)
        if slept:
            monkeypatch.setattr(rotation, "PATIENCE", 1.3)
            monkeypatch.setattr(rules, "SEND_DEADLINE", 0)  # every claim takes longer than that
            with pytest.raises(TemporarilyUnavailable, match="being refreshed") as refused:
                await room.exchange()
            assert refused.value.retry_after == 5
        else:
            assert await room.exchange()
        await room.settle()
        assert len(room.slack.sends) == sends
        facts = await room.row(connection)
        assert (facts.lease_owner, facts.sent_at) == (None, None)


@pytest.mark.parametrize(("asleep", "sends"), [(rules.SEND_DEADLINE + 1, 0), (0, 1)])
async def test_a_claim_during_which_the_machine_slept_is_let_go_unsent(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, asleep: int, sends: int
) -> None:
    """Rule 6: while a machine sleeps, the monotonic clock stands still, but other hosts wait for the lease to end."""
    async with open_room(store, rotation=RotationMode.STRICT) as room:
        await room.connect()
        room.pass_time(3600)
        boot, naps = time.clock_gettime, itertools.count(step=asleep)
        monkeypatch.setattr(time, "clock_gettime", lambda clock: boot(clock) + next(naps))
        if asleep:
            monkeypatch.setattr(rotation, "PATIENCE", 1.3)
            with pytest.raises(TemporarilyUnavailable):
                await room.exchange()
        else:
            assert await room.exchange()
        await room.settle()
        assert len(room.slack.sends) == sends


@pytest.mark.parametrize("holder_lives", [True, False])
async def test_that_an_earlier_sender_is_gone_does_not_free_the_lease_of_another(
    store: Store, *, holder_lives: bool
) -> None:
    """Rule 7."""
    async with open_room(store, rotation=RotationMode.NONE) as room:
        connection = await room.connect()
        async with second_process(room) as dying, second_process(room) as other:
            for process in (dying, other):
                await process.database.hold_liveness(process.vault.owner)
                facts = await room.row(connection)
                async with process.database.transaction() as transaction:
                    lease = await leases.claim(transaction, facts, owner=process.vault.owner, now=room.now)
                    assert lease is not None
                    if process is dying:
                        await leases.settle(transaction, lease, now=room.now)
            await dying.database.close()
            if not holder_lives:
                await other.database.close()
            facts = await room.row(connection)
            assert facts.lease_owner == other.vault.owner
            assert await takeover.is_free(room.vault, facts, now=room.now) is not holder_lives
            for owner in (room.vault.owner, None):  # what is its own, or no one's, has no holder that is gone
                assert not await takeover.holder_is_gone(room.vault, replace(facts, lease_owner=owner))


@pytest.mark.parametrize("rotation", list(RotationMode))
@pytest.mark.parametrize("age", [-300, -1, 0, 39, 40, 41, 61, 4000])
async def test_whoever_looks_ahead_and_whoever_sends_judge_a_send_of_unknown_end_alike(
    sqlite_store: Store, rotation: RotationMode, age: int
) -> None:
    async with open_room(sqlite_store, rotation=rotation) as room:
        connection = await room.connect()
        policy = room.vault.policies["slack"]
        for owner, sent_at in (("first", room.now - age), ("newest", room.now - max(0, age - 30))):
            facts = await room.row(connection)
            async with room.database.transaction() as transaction:
                lease = await leases.claim(transaction, facts, owner=owner, now=sent_at)
                if lease is None:
                    continue
                await leases.release(transaction, lease)
        sends = await leases.list_unresolved(room.database, await room.row(connection))
        wanted = AccountQuery(room.request().principal, "slack", "")
        (held,) = await read_accounts(room.database, wanted)
        decided = rules.may_send(policy, sends, now=room.now, access_expires_at=None)
        assert held.may_refresh(policy, now=room.now) is (decided is rules.SendDecision.SEND)


SETTLED = [rules.UnresolvedSends("a", 100, is_settled=True)]
OPEN = [*SETTLED, rules.UnresolvedSends("b", 100)]


@pytest.mark.parametrize(
    ("mode", "sends", "now", "more", "may"),
    [
        (RotationMode.REVOKES, [], 200, {"retry_at": 300}, True),
        (RotationMode.NONE, OPEN, 200, {"retry_at": 300}, True),
        (RotationMode.STRICT, SETTLED, 200, {"retry_at": 201}, False),
        (RotationMode.STRICT, SETTLED, 200, {"retry_at": 200}, True),
        (RotationMode.STRICT, SETTLED, 200, {"retry_at": 200 + 86400}, False),
        (RotationMode.STRICT, SETTLED, 200, {"retry_at": 202 + 86400}, False),  # clocks differ that much
        (RotationMode.STRICT, SETTLED, 200, {"retry_at": 203 + 86400}, True),  # written by a clock that was wrong
        (RotationMode.STRICT, SETTLED, 200, {}, True),
        (RotationMode.STRICT, OPEN, 200, {}, False),
        (RotationMode.REVOKES, SETTLED, 200, {"access_expires_at": None}, True),
        (RotationMode.REVOKES, SETTLED, 200, {"access_expires_at": 200}, True),
        (RotationMode.REVOKES, SETTLED, 200, {"access_expires_at": 201}, False),
        (RotationMode.GRACE, OPEN, 200, {}, True),
        (RotationMode.GRACE, OPEN, 98, {}, True),  # clocks differ that much
        (RotationMode.GRACE, OPEN, 97, {}, False),
        (RotationMode.GRACE, OPEN, 100 + 1000 - 2 * SEND_DEADLINE, {}, False),
        (RotationMode.GRACE, OPEN, 99 + 1000 - 2 * SEND_DEADLINE, {}, True),
    ],
)
def test_a_token_is_sent_again_where_that_costs_nothing(
    mode: RotationMode, sends: list[rules.UnresolvedSends], now: int, more: dict[str, int | None], may: bool
) -> None:
    policy = UpstreamPolicy("slack", rotation=mode, grace=1000)
    decision = rules.may_send(policy, sends, now=now, **{"access_expires_at": 0} | more)
    assert decision is (rules.SendDecision.SEND if may else rules.SendDecision.WAIT)


def test_a_lease_and_a_claim_end_at_their_second() -> None:
    assert [rules.may_claim(lease_until=100, now=now, holder_is_gone=False) for now in (99, 100)] == [False, True]
    assert [rules.is_claim_void(SEND_DEADLINE + late) for late in (0, 0.1)] == [False, True]


async def test_a_row_tells_when_its_lease_ends_and_whether_its_key_was_destroyed(sqlite_store: Store) -> None:
    async with open_room(sqlite_store) as room:
        facts = await room.row(await room.connect())
        leased = [replace(facts, lease_until=end).is_leased(100) for end in (None, 100, 101)]
        assert leased == [False, False, True]
        assert facts.key(room.vault.keys)
        for destroyed in (replace(facts, wrapped=None), replace(facts, salt=None)):
            with pytest.raises(CiphertextRejected):
                destroyed.key(room.vault.keys)
