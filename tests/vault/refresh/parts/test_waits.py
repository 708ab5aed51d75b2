"""How long a refresh waits after a silence: until its pause, or its old access token, ends."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from tests.conftest import Store
from tests.support.rooms.vault_room import DRIVE, READ, WRITE, open_room, second_process
from vault.refresh import leases, takeover
from vault.refresh.recovery import take_up
from vault.refresh.rules import CLOCKS, LEASE, PAUSE, UnresolvedSends
from vault.refusals import ConnectionRequired, ProviderSilent, TemporarilyUnavailable
from vault.upstream import RotationMode, UpstreamPolicy

NOW = 1000
SETTLED = (UnresolvedSends("a", NOW - 100, is_settled=True),)
LATEST = NOW + PAUSE[1] + CLOCKS  # the end of the longest pause that any clock of the deployment sets


@pytest.mark.parametrize(
    ("mode", "retry_at", "expires_at", "spoiled", "wait"),
    [
        (RotationMode.REVOKES, None, NOW + 100, 0, 100),
        (RotationMode.REVOKES, NOW + 50, NOW + 100, 0, 100),
        (RotationMode.REVOKES, NOW + 200, NOW + 100, 0, 200),
        (RotationMode.REVOKES, NOW - 50, NOW + 1, 0, 1),
        (RotationMode.REVOKES, NOW + 1, NOW, 0, 1),
        (RotationMode.REVOKES, NOW + 50, None, 0, 50),
        (RotationMode.REVOKES, None, NOW, 0, None),
        (RotationMode.REVOKES, NOW, None, 0, None),
        (RotationMode.REVOKES, NOW + 50, NOW + 100, 1, 50),  # its API refused the access token
        (RotationMode.REVOKES, None, NOW + 100, 1, None),
        (RotationMode.STRICT, NOW + 50, NOW + 100, 0, 50),
        (RotationMode.STRICT, None, NOW + 100, 0, None),
        (RotationMode.REVOKES, LATEST, NOW + 100, 0, LATEST - NOW),
        (RotationMode.REVOKES, LATEST + 1, NOW + 100, 0, 100),  # written by a clock that was wrong
    ],
)
async def test_after_a_silence_a_refresh_waits_for_the_end_of_its_pause_and_of_the_old_token(
    sqlite_store: Store,
    mode: RotationMode,
    retry_at: int | None,
    expires_at: int | None,
    spoiled: int,
    wait: int | None,
) -> None:
    async with open_room(sqlite_store) as room:
        facts = await room.row(await room.connect())
        assert facts.access_generation == 1
        facts = replace(facts, retry_at=retry_at, access_expires_at=expires_at)
        policy = UpstreamPolicy("slack", rotation=mode)
        refused = await takeover.refusal(room.vault, facts, policy=policy, now=NOW, spoiled=spoiled, sends=SETTLED)
        if wait is None:
            assert refused is None
        else:
            assert isinstance(refused, ProviderSilent)
            assert refused.retry_after == wait


@pytest.mark.parametrize(("left", "taken_up"), [(0, 1), (60, 0), (PAUSE[1], 0), (PAUSE[1] + CLOCKS + 60, 1)])
async def test_an_unfinished_refresh_is_taken_up_unless_its_pause_lasts(
    store: Store, caplog: pytest.LogCaptureFixture, left: int, taken_up: int
) -> None:
    """`left`: seconds of the pause. A clock that was wrong wrote the last one."""
    async with open_room(store) as room:
        connection = await room.connect()
        room.pass_time(3600)
        facts = await room.row(connection)
        async with room.database.transaction() as transaction:
            lease = await leases.claim(transaction, facts, owner=room.vault.owner, now=room.now)
            assert lease is not None
            await leases.settle(transaction, lease, now=room.now)
            await leases.pause(transaction, facts, until=room.now + left)
        caplog.set_level(logging.INFO)
        assert await take_up(room.vault) == taken_up
        assert len(room.slack.sends) == taken_up
        assert [one.message for one in caplog.records].count("unfinished refreshes taken up") == taken_up


async def test_a_lapsed_lease_stays_until_the_vault_has_watched_its_holder_for_as_long(store: Store) -> None:
    """Then listings show the connection as ambiguous."""
    async with open_room(store) as room, second_process(room) as other:
        connection = await room.connect()
        room.pass_time(3600)
        await other.database.hold_liveness(other.vault.owner)
        async with other.database.transaction() as transaction:
            assert await leases.claim(transaction, await room.row(connection), owner=other.vault.owner, now=room.now)
        room.pass_time(LEASE + 1)
        with pytest.raises(TemporarilyUnavailable, match="hasn't answered"):
            await room.exchange()
        assert (await room.row(connection)).lease_owner == other.vault.owner
        room.pass_time(LEASE + 1)
        with pytest.raises(ConnectionRequired, match="never answered"):
            await room.exchange()
        assert (await room.row(connection)).lease_owner is None


async def test_a_refresh_deletes_the_narrow_tokens_that_have_expired(store: Store) -> None:
    async with open_room(store) as room:
        await room.connect("google")
        for scope, passed, left in ((READ, 0, 1), (WRITE, 0, 2), (DRIVE, 3600, 1)):
            room.pass_time(passed)
            await room.exchange("google", scope)
            assert len(await room.database.fetch("select scope_key from narrowed_tokens")) == left
