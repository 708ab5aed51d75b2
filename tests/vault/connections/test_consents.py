"""A consent whose answer can't be stored: kept on the host and stored later by any process, or ended upstream."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace

import httpx2
import pytest

import vault.storage.sqlite
from providers.simulator.local_server import running_simulator
from providers.simulator.person import consent
from server.app import open_deployment
from server.connecting import provider_authorization
from tests.conftest import Store
from tests.support.harness import running_vault
from tests.support.person import Person
from tests.support.rooms.portal_room import CHAT, Room
from tests.vault.storage.test_storage_faults import become
from vault import connections, delegations, users
from vault.backup import quarantine
from vault.records import Client, Connection, User
from vault.refresh import consents
from vault.refusals import StorageBusy
from vault.upkeep import revocations
from vault.upstream import RefreshOutcome, RevokeOutcome, TokenAnswer, UpstreamError, UpstreamOAuth

WAIT = 40.0
STAGES = ("asked", "kept", "answered")


class WatchedUpstream:
    """The real upstream, with a call before and after each step of a redemption."""

    def __init__(self, inner: UpstreamOAuth, at: Callable[[str], Awaitable[None]]) -> None:
        self.inner = inner
        self.at = at
        self.is_configured = True
        self.authorization_url = inner.authorization_url
        self.identify = inner.identify
        self.refresh: Callable[..., Awaitable[RefreshOutcome]] = inner.refresh
        self.narrow: Callable[..., Awaitable[RefreshOutcome]] = inner.narrow
        self.revoke: Callable[..., Awaitable[RevokeOutcome]] = inner.revoke
        self.probe = inner.probe

    async def redeem(
        self,
        *,
        code: str,
        redirect_uri: str,
        code_verifier: str,
        state: str = "",
        keep: Callable[[TokenAnswer], Awaitable[None]] | None = None,
    ) -> TokenAnswer:
        async def keep_and_pass(answer: TokenAnswer) -> None:
            if keep is not None:
                await keep(answer)
            await self.at("kept")

        await self.at("asked")
        answer = await self.inner.redeem(
            code=code, redirect_uri=redirect_uri, code_verifier=code_verifier, keep=keep_and_pass
        )
        await self.at("answered")
        return answer


@dataclass
class Place:
    """A vault whose storage can be taken away, and a person on the way back from the provider."""

    room: Room
    store: Store
    held: sqlite3.Connection | None = None

    async def take_storage_away(self) -> None:
        if self.store.is_sqlite:
            self.held = sqlite3.connect(self.store.data / "vault.sqlite", isolation_level=None, timeout=10)
            self.held.execute("begin immediate")
        else:
            await become(self.store, "on")

    async def bring_storage_back(self) -> None:
        if self.held is not None:
            self.held.execute("rollback")
            self.held.close()
            self.held = None
        elif not self.store.is_sqlite:
            await become(self.store, "off")

    def watch(self, at: Callable[[str], Awaitable[None]]) -> None:
        made = self.room.deployment.live.current.upstreams._made  # pyright: ignore
        made["slack"] = WatchedUpstream(self.room.deployment.vault.upstreams["slack"], at)

    def fail_at(self, stage: str) -> None:
        async def at(reached: str) -> None:
            if reached == stage and self.held is None:
                await self.take_storage_away()

        self.watch(at)

    async def trip(self) -> Trip:
        user = await self.room.user()
        person, client = await self.room.signed_in(user), await self.room.agent()
        link = await self.room.link(user, client)
        callback = await consent(await self.room.to_provider(person, link))
        return Trip(self.room, user, person, client, callback)

    def die(self) -> None:
        """Cancel whatever this process still tries to store."""
        for tasks in list(self.room.deployment.vault.tasks._finishing.values()):  # pyright: ignore[reportPrivateUsage]
            for task in list(tasks):
                task.cancel()

    def live_grants(self) -> int:
        """How many grants the provider still accepts."""
        return sum(1 for one in self.room.simulator.books()["families"] if one["ended"] is None)

    def count_redemptions(self) -> int:
        return len(self.room.simulator.books()["redemptions"])


@dataclass
class Trip:
    """A person on the way back from the provider."""

    room: Room
    user: User
    person: Person
    client: Client
    callback: str

    async def come_back(self) -> httpx2.Response:
        return await self.person.http.get(self.callback, follow_redirects=True)

    async def list_connections(self) -> tuple[Connection, ...]:
        return await connections.list_connections(self.room.deployment.database, self.user.id)

    async def until_connected(self) -> Connection:
        async with asyncio.timeout(WAIT):
            while True:
                try:
                    if owned := await self.list_connections():
                        return owned[0]
                except Exception:  # noqa: BLE001 -- the storage is on its way back
                    pass
                await asyncio.sleep(0.1)


@asynccontextmanager
async def open_place(store: Store) -> AsyncGenerator[Place]:
    """A vault and a simulator over one prepared store."""
    url = None if store.is_sqlite else store.url
    async with (
        running_simulator() as simulator,
        running_vault(store.data, providers=simulator.settings(), database_url=url) as vault,
        AsyncExitStack() as stack,
    ):
        place = Place(Room(vault, simulator, stack), store)
        yield place
        await place.bring_storage_back()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault.storage.sqlite, "BUSY_WAIT", 1.0)


@pytest.fixture
async def place(store: Store) -> AsyncGenerator[Place]:
    async with open_place(store) as one:
        yield one


@pytest.fixture
async def local(sqlite_store: Store) -> AsyncGenerator[Place]:
    async with open_place(sqlite_store) as one:
        yield one


async def end_everything(place: Place, trip: Trip) -> None:
    """Disconnect what the person has; afterward, no grant may be alive at the provider."""
    deployment = place.room.deployment
    async with asyncio.timeout(WAIT):
        while owned := await trip.list_connections():
            with suppress(StorageBusy):  # from a server process that doesn't know yet that the storage is back
                async with deployment.transaction() as transaction:
                    await connections.disconnect(transaction, deployment.keys, owned[0], now=deployment.now())
    while await revocations.run_due(deployment.vault):
        pass
    assert place.live_grants() == 0


async def late_openings(place: Place, trip: Trip) -> list[object]:
    """What each event of an opened connection says about being late."""
    return [one.details.get("late") for one in await place.room.events(trip.user) if one.kind == "connection.opened"]


@pytest.mark.parametrize("stage", STAGES)
async def test_a_consent_that_comes_while_the_storage_is_away_is_stored_when_it_is_back(
    place: Place, stage: str
) -> None:
    trip = await place.trip()
    place.fail_at(stage)
    answer = await trip.come_back()
    assert answer.status_code == 503, answer.text
    assert "the vault has its answer" in answer.text
    await place.bring_storage_back()
    connection = await trip.until_connected()
    assert (place.count_redemptions(), place.live_grants()) == (1, 1)
    again = await trip.come_back()
    assert again.status_code == 200
    assert "Slack is connected" in again.text
    assert "Go back to the agent" in again.text
    held = await delegations.list_for_client(place.room.deployment.database, trip.user.id, client_id=trip.client.id)
    assert [(one.connection_id, one.scopes) for one in held] == [(connection.id, CHAT)]
    assert len(await trip.list_connections()) == 1
    rows = await place.room.deployment.database.fetch("select connection_id from keys.connection_keys")
    assert [row["connection_id"] for row in rows] == [connection.id], "the key of the kept answer is destroyed"
    assert await late_openings(place, trip) == [True]
    await end_everything(place, trip)


async def test_a_storage_that_is_away_before_the_code_is_sent_costs_nothing(place: Place) -> None:
    trip = await place.trip()
    await place.take_storage_away()
    assert (await trip.come_back()).status_code == 503
    assert place.count_redemptions() == 0
    await place.bring_storage_back()
    async with asyncio.timeout(WAIT):
        while (answer := await trip.come_back()).status_code == 503:
            await asyncio.sleep(0.1)
    assert answer.status_code == 200
    assert place.live_grants() == len(await trip.list_connections()) == 1


# A process that dies leaves its sockets open: asyncpg warns about one that was being opened.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_what_a_process_could_not_store_before_it_died_another_one_stores(place: Place) -> None:
    trip = await place.trip()
    place.fail_at("kept")
    assert (await trip.come_back()).status_code == 503
    place.die()
    await place.bring_storage_back()
    settings = place.room.deployment.settings
    async with asyncio.timeout(WAIT), open_deployment(settings, data=place.store.data) as other:
        owned = await connections.list_connections(other.database, trip.user.id)
        assert len(owned) == 1
        assert await consents.adopt_all(other.vault) == 0
    again = await trip.come_back()
    assert (again.status_code, place.live_grants(), place.count_redemptions()) == (200, 1, 1)
    await end_everything(place, trip)


async def test_loading_the_page_again_stores_what_nobody_else_did(local: Place) -> None:
    trip = await local.trip()
    local.fail_at("answered")
    assert (await trip.come_back()).status_code == 503
    local.die()
    await asyncio.sleep(0)
    assert (await trip.come_back()).status_code == 503, "still away"
    await local.bring_storage_back()
    assert (await trip.come_back()).status_code == 200
    assert len(await trip.list_connections()) == local.live_grants() == 1


@pytest.mark.parametrize("is_destroyed", [False, True])
async def test_an_answer_whose_key_was_destroyed_is_not_waited_for(local: Place, *, is_destroyed: bool) -> None:
    trip, deployment = await local.trip(), local.room.deployment
    local.fail_at("answered")
    assert (await trip.come_back()).status_code == 503
    local.die()
    await asyncio.sleep(0)
    await local.bring_storage_back()
    if is_destroyed:
        async with deployment.transaction() as transaction:
            await deployment.keys.destroy_user_key(transaction, trip.user.id)
    assert await consents.adopt_all(deployment.vault) == (not is_destroyed)
    assert (await trip.come_back()).status_code == (400 if is_destroyed else 200)


async def test_loading_the_page_again_says_that_it_is_still_being_stored(
    local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    trip = await local.trip()
    local.fail_at("answered")
    with monkeypatch.context() as short:
        short.setattr(provider_authorization, "_PATIENCE", 0.1)
        for _ in range(2):
            answer = await trip.come_back()
            assert (answer.status_code, "the vault has its answer" in answer.text) == (503, True)
    await local.bring_storage_back()
    await trip.until_connected()
    assert (await trip.come_back()).status_code == 200


@pytest.mark.parametrize("change", ["was deleted", "is disabled", ""])
async def test_a_person_who_is_gone_while_the_provider_answers_gets_no_connection(local: Place, change: str) -> None:
    trip, deployment = await local.trip(), local.room.deployment

    async def at(stage: str) -> None:
        if stage == "answered" and change:
            async with deployment.transaction() as transaction:
                do = users.delete_user if change == "was deleted" else users.disable_user
                await do(transaction, trip.user.id, now=deployment.now())

    local.watch(at)
    answer = await trip.person.http.get(trip.callback)
    assert answer.status_code == (400 if change else 303)
    assert await late_openings(local, trip) == ([] if change else [None])
    assert (f"This user {change}, so nothing was connected." in answer.text) is bool(change)
    await revocations.run_due(deployment.vault)
    assert local.live_grants() == len(await trip.list_connections()) == (0 if change else 1)


async def test_somebody_else_finds_nothing_at_the_address_of_a_late_answer(local: Place) -> None:
    trip = await local.trip()
    local.fail_at("answered")
    assert (await trip.come_back()).status_code == 503
    await local.bring_storage_back()
    await trip.until_connected()
    stranger = await local.room.signed_in(await local.room.user())
    assert (await stranger.http.get(trip.callback)).status_code == 400
    same = await local.room.signed_in(trip.user)  # in another browser session
    assert (await same.http.get(trip.callback)).status_code == 400
    assert (await trip.come_back()).status_code == 200


async def test_without_room_on_the_disk_the_code_is_not_sent(local: Place) -> None:
    trip = await local.trip()
    local.room.deployment.vault.journal.close()
    (local.store.data / "journal").write_text("in the way")
    assert (await trip.come_back()).status_code == 503
    assert local.count_redemptions() == 0
    (local.store.data / "journal").unlink()
    assert (await trip.come_back()).status_code == 200


async def test_an_answer_that_neither_disk_takes_is_ended_at_the_provider(
    local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consents, "UNKEPT_WAIT", 0.0)
    trip = await local.trip()

    async def at(stage: str) -> None:
        if stage == "asked":
            await lose_journal(local)
            await local.take_storage_away()

    local.watch(at)
    assert (await trip.come_back()).status_code == 503
    async with asyncio.timeout(WAIT):
        while local.live_grants():
            await asyncio.sleep(0.1)
    await local.bring_storage_back()
    assert not await trip.list_connections()


async def lose_journal(place: Place) -> None:
    """From now on, the journal takes nothing."""
    place.room.deployment.vault.journal.close()
    (place.store.data / "journal").rename(place.store.data / "moved")
    (place.store.data / "journal").write_text("in the way")


@pytest.mark.parametrize("is_kept", [True, False])
async def test_an_answer_that_may_still_be_stored_is_not_ended_at_the_provider(
    local: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, is_kept: bool
) -> None:
    """One in the journal waits as long as it takes; one on no disk waits for a moment."""
    monkeypatch.setattr(consents, "UNKEPT_WAIT", 0.0 if is_kept else WAIT)
    trip = await local.trip()

    async def at(stage: str) -> None:
        if stage == "asked" and not is_kept:
            await lose_journal(local)
        if stage == "answered":
            await local.take_storage_away()

    local.watch(at)
    assert (await trip.come_back()).status_code == 503
    async with asyncio.timeout(WAIT):
        while caplog.messages.count("consent not stored yet") < 2:
            await asyncio.sleep(0.05)
    await local.bring_storage_back()
    await trip.until_connected()
    assert local.live_grants() == 1


async def test_a_refusal_that_the_storage_does_not_take_is_logged_and_connects_nothing(
    local: Place, caplog: pytest.LogCaptureFixture
) -> None:
    trip = await local.trip()
    local.fail_at("asked")
    bent = httpx2.URL(trip.callback).copy_set_param("code", "never-issued")
    refused = await trip.person.http.get(bent, follow_redirects=True)
    assert refused.status_code == 503, refused.text
    assert "refused consent not noted" in caplog.messages
    await local.bring_storage_back()
    assert not await trip.list_connections()


@pytest.mark.parametrize("is_away", [False, True])
async def test_tokens_of_an_account_that_nobody_could_tell_are_ended(local: Place, *, is_away: bool) -> None:
    trip = await local.trip()

    async def at(stage: str) -> None:
        if stage == "kept":
            if is_away:
                await local.take_storage_away()
            raise UpstreamError("temporarily_unavailable", "nobody home")

    local.watch(at)
    answer = await trip.come_back()
    assert answer.status_code in {400, 503}
    await local.bring_storage_back()
    async with asyncio.timeout(WAIT):
        while local.live_grants():
            await revocations.run_due(local.room.deployment.vault)
            await asyncio.sleep(0.1)
    assert not await trip.list_connections()


async def test_tokens_of_an_unknown_account_are_held_while_they_may_be_of_one_in_use(local: Place) -> None:
    trip = await local.trip()
    assert (await trip.come_back()).status_code == 200

    async def at(stage: str) -> None:
        if stage == "kept":
            raise UpstreamError("temporarily_unavailable", "nobody home")

    local.watch(at)
    link = await local.room.link(trip.user, await local.room.agent(), scopes=frozenset({"channels:history"}))
    again = replace(trip, callback=await consent(await local.room.to_provider(trip.person, link)))
    assert (await again.come_back()).status_code == 400
    await revocations.run_due(local.room.deployment.vault)
    left = await revocations.list_revocations(local.room.deployment.database, trip.user.id)
    assert [one.outcome for one in left] == ["held"]
    assert local.live_grants() == 2
    await end_everything(local, trip)


@pytest.mark.parametrize("hours", [0, 25, 160])
async def test_a_person_who_was_deleted_meanwhile_gets_no_connection_and_leaves_no_grant(
    local: Place, hours: int
) -> None:
    trip = await local.trip()
    local.fail_at("answered")
    assert (await trip.come_back()).status_code == 503
    local.die()
    await local.bring_storage_back()
    deployment = local.room.deployment
    async with deployment.transaction() as transaction:
        await users.delete_user(transaction, trip.user.id, now=deployment.now())
    deployment.database.clock_offset += hours * 3600  # the host was down
    assert not await revocations.finish_deletions(deployment.vault)
    assert await consents.adopt_all(deployment.vault) == 1
    assert await revocations.run_due(deployment.vault) == 1
    assert local.live_grants() == 0
    assert not await trip.list_connections()
    assert await users.list_deletions(deployment.database) == ()


async def test_two_tabs_connect_one_account_and_both_grants_are_known(place: Place) -> None:
    first = await place.trip()
    link = await place.room.link(first.user, first.client)
    second = replace(first, callback=await consent(await place.room.to_provider(first.person, link)))
    answers = await asyncio.gather(first.come_back(), second.come_back())
    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(await first.list_connections()) == 1
    assert place.live_grants() == 2
    left = await revocations.list_revocations(place.room.deployment.database, first.user.id)
    assert [(one.outcome, one.is_superseded) for one in left] == [("held", True)]
    await end_everything(place, first)


async def test_a_consent_without_an_end_is_forgotten_with_its_key(local: Place) -> None:
    trip = await local.trip()

    async def at(stage: str) -> None:
        raise asyncio.CancelledError

    local.watch(at)
    assert (await trip.come_back()).status_code == 500
    deployment = local.room.deployment
    count = "select count(*) as n from keys.connection_keys"
    assert (await deployment.database.fetch_one(count)) == {"n": 1}
    deployment.database.clock_offset += 9 * 86400
    async with deployment.transaction() as transaction:
        await consents.forget_lost(transaction, deployment.vault, now=deployment.now())
    assert (await deployment.database.fetch_one(count)) == {"n": 0}


async def test_a_quarantine_leaves_no_key_of_a_consent_whose_answer_was_on_its_way(place: Place) -> None:
    """The quarantine deletes the `state`, without which nothing would ever find the key."""
    trip, kept = await place.trip(), await place.trip()
    assert (await kept.come_back()).status_code == 200

    async def at(stage: str) -> None:
        raise asyncio.CancelledError

    place.watch(at)
    assert (await trip.come_back()).status_code == 500
    deployment = place.room.deployment
    ids = "select connection_id from keys.connection_keys order by connection_id"
    names = [str(row["connection_id"]) for row in await deployment.database.fetch(ids)]
    assert sum(name.startswith("consent:") for name in names) == 1
    async with deployment.transaction() as transaction:
        await quarantine.quarantine(transaction, deployment.vault.policies, now=deployment.now())
    (connection,) = await kept.list_connections()
    assert [row["connection_id"] for row in await deployment.database.fetch(ids)] == [connection.id]


async def test_a_consent_that_the_provider_refuses_leaves_no_key(place: Place) -> None:
    trip = await place.trip()
    bent = httpx2.URL(trip.callback).copy_set_param("code", "never-issued")
    refused = await trip.person.http.get(bent, follow_redirects=True)
    assert (refused.status_code, place.live_grants()) == (400, 0), refused.text
    reader = place.room.deployment.database
    assert await reader.fetch("select connection_id from keys.connection_keys") == []
    settled = "select outcome from tickets where outcome = :refused"
    assert await reader.fetch(settled, {"refused": consents.REFUSED}), "nothing is left to wait for"
