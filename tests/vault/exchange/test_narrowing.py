"""Every way to narrow, with the shipped provider files and the vault, against the simulator in that provider's mode.

The provider's own view decides: whether it accepts a call, what it recorded as sent, what the grant is now.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from providers.definitions.catalog import load_catalog
from providers.oauth.client import TOTAL_TIMEOUT, OAuthUpstream
from providers.simulator import Simulator, running_simulator
from tests.conftest import Store
from tests.support.doubles.stopped_clock import stopped_clock
from tests.support.inspection import unstorable
from tests.support.rooms.narrowing_room import BY_NAME, Family, Place, place_for, scopes
from tests.support.rooms.vault_room import principal_of
from tests.support.simulator_apps import wait_until_held
from tests.vault.refresh.test_attempts import rename
from vault import connections
from vault.exchange.exchange import ExchangeRequest, exchange
from vault.exchange.explain import ExchangeQuestion, explain
from vault.records import Narrowing
from vault.refresh.concurrency import RefreshTasks, UpstreamTokenRequest
from vault.refresh.narrowing import Narrower
from vault.refusals import ConnectionRequired, ItemRefused, StorageUnavailable, TemporarilyUnavailable
from vault.upstream import Downscope


@pytest.fixture(scope="module")
async def simulator() -> AsyncGenerator[Simulator]:
    async with running_simulator() as running:
        yield running


@pytest.fixture
async def place(simulator: Simulator, sqlite_store: Store, request: pytest.FixtureRequest) -> AsyncGenerator[Place]:
    async with place_for(BY_NAME[request.param], simulator, sqlite_store) as opened:
        yield opened


def at(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", names, indirect=True)


# The figures


@at(*BY_NAME)
async def test_the_provider_refuses_the_narrowed_token_on_a_wider_call(place: Place) -> None:
    await place.connect()
    token = await place.narrow()
    assert (token.narrowing, token.scopes) == (Narrowing.UPSTREAM, place.family.narrow)
    assert await place.call(place.family.inside, token) == 200
    assert await place.call(place.family.outside, token) == 403
    full = await place.exchange(place.family.granted)
    assert full.value != token.value
    assert await place.call(place.family.outside, full) == 200
    assert await place.call(place.family.inside, token) == 200  # and the token still works


@at(*BY_NAME)
async def test_a_hundred_narrowings_leave_the_stored_grant_as_it_was(place: Place) -> None:
    connection = await place.connect()
    before, grant = await place.room.row(connection), place.grant()
    seen: set[str] = set()
    generation = None
    for _ in range(100):
        token = await place.narrow(after=generation)
        assert token.narrowing is Narrowing.UPSTREAM
        seen.add(token.value)
        generation = token.generation
    assert len(seen) == len(place.narrowings()) == 100
    after = await place.room.row(connection)
    assert (after.scopes, after.state, after.access_generation) == (
        before.scopes,
        before.state,
        before.access_generation,
    )
    assert (place.grant()["scopes"], place.grant()["ended"]) == (grant["scopes"], None)
    full = await place.exchange(place.family.granted)
    assert await place.call(place.family.outside, full) == 200
    place.room.pass_time(400_000)  # past every lifetime except Square's: the refresh token in the vault is the live one
    place.simulator.advance(400_000)
    renewed = await place.exchange(place.family.granted, after=full.generation)
    assert renewed.value != full.value
    assert await place.call(place.family.outside, renewed) == 200
    assert await place.room.kinds() == [kind for kind in await place.room.kinds() if kind != "narrowing.failed"]


@pytest.mark.parametrize("name", ["google", "dropbox", "square", "microsoft"])
@pytest.mark.parametrize("harm", ["shrinks the grant", "a refresh ends the access tokens", "none"])
async def test_where_narrowing_does_harm_no_narrowing_refresh_is_ever_sent(
    simulator: Simulator, sqlite_store: Store, name: str, harm: str
) -> None:
    shipped = load_catalog().provider(name)
    changed: dict[str, object] = {}
    if harm == "shrinks the grant":
        changed["downscope"] = shipped.downscope.model_copy(update={"destructive": True})
    elif harm != "none":
        changed["rotation"] = shipped.rotation.model_copy(update={"ends_access_token": True})
    async with place_for(BY_NAME[name], simulator, sqlite_store, changed=changed) as place:
        await place.connect()
        if harm == "none":
            assert (await place.narrow()).narrowing is Narrowing.UPSTREAM
            assert len(place.narrowings()) == 1
            return
        simulator.control("rules", face=f"families.{place.family.mode}", narrowing="sticky")
        for _ in range(20):
            token = await place.narrow()
            assert (token.narrowing, token.scopes) == (Narrowing.ENFORCED, place.family.narrow)
        again = await place.narrow(after=token.generation)
        assert place.narrowings() == []
        assert len(simulator.books()["refreshes"]) == 1
        assert await place.call(place.family.outside, again) == 200


@pytest.mark.parametrize("name", ["github", "box"])
@pytest.mark.parametrize("is_harmful", [True, False])
async def test_where_narrowing_does_harm_no_token_is_made_of_another_either(
    simulator: Simulator, sqlite_store: Store, name: str, is_harmful: bool
) -> None:
    family = BY_NAME[name]
    downscope = load_catalog().provider(name).downscope.model_copy(update={"destructive": is_harmful})
    async with place_for(family, simulator, sqlite_store, changed={"downscope": downscope}) as place:
        await place.connect()
        if not is_harmful:
            assert (await place.narrow()).narrowing is Narrowing.UPSTREAM
            assert len(place.narrowings()) == 1
            return
        for _ in range(5):
            assert (await place.exchange()).narrowing is Narrowing.ENFORCED
        if family.item is not None:
            with pytest.raises(ItemRefused):
                await place.narrow()
        assert place.narrowings() == []


async def test_gitlab_as_shipped_is_never_asked_for_a_narrow_token(simulator: Simulator, sqlite_store: Store) -> None:
    family = Family(
        "gitlab",
        "gitlab",
        scopes("read_user", "api"),
        scopes("read_user"),
        ("GET", "/api/v4/projects"),
        ("POST", "/api/v4/projects"),
    )
    async with place_for(family, simulator, sqlite_store) as place:
        await place.connect()
        generation = None
        for _ in range(5):
            token = await place.narrow(after=generation)
            assert token.narrowing is Narrowing.ENFORCED
            generation = token.generation
        assert place.narrowings() == []
        assert len(simulator.books()["refreshes"]) == 4
        assert place.grant()["scopes"] == ["api", "read_user"]
        assert await place.call(family.outside, token) == 200


# What an answer proves


@at("google", "dropbox", "microsoft", "square")
async def test_a_provider_that_ignores_the_request_is_found_out_and_the_scopes_are_enforced(place: Place) -> None:
    connection = await place.connect()
    place.simulator.control("rules", face=f"families.{place.family.mode}", narrowing="ignored")
    with stopped_clock(place.room.database) as now:
        for _ in range(3):
            token = await place.narrow()
            assert (token.narrowing, token.scopes) == (Narrowing.ENFORCED, place.family.narrow)
    assert len(place.narrowings()) == 1  # asked once, and not again for ten minutes
    (event,) = await place.room.events("narrowing.failed")
    assert event.details["asked"] == sorted(place.family.narrow)
    assert (await place.room.row(connection)).scopes == connection.scopes
    place.simulator.control("rules", face=f"families.{place.family.mode}", narrowing="real")
    for passed, narrowing in ((599, Narrowing.ENFORCED), (600, Narrowing.UPSTREAM)):
        with stopped_clock(place.room.database, at=now + passed):
            assert (await place.narrow()).narrowing is narrowing


@at("square")
async def test_scopes_that_nobody_tells_prove_nothing(place: Place) -> None:
    await place.connect()
    place.simulator.fault("families.square.status", "status")
    assert (await place.narrow()).narrowing is Narrowing.ENFORCED
    place.room.pass_time(601)
    assert (await place.narrow()).narrowing is Narrowing.UPSTREAM


@at("square")
async def test_a_refresh_that_took_its_time_asks_nothing_more(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.connect()
    with monkeypatch.context() as patched:
        patched.setattr("providers.oauth.client._LEAST", TOTAL_TIMEOUT)  # as if it had taken all but that
        assert (await place.narrow()).narrowing is Narrowing.ENFORCED
    assert [entry["method"] for entry in place.simulator.books()["api_calls"]] == ["identity"]
    place.room.pass_time(601)
    assert (await place.narrow()).narrowing is Narrowing.UPSTREAM


async def test_square_without_a_secret_spends_no_refresh_token_for_a_narrow_one(
    simulator: Simulator, sqlite_store: Store
) -> None:
    family = replace(BY_NAME["square"], mode="square-pkce")
    public = load_catalog().provider("square").as_public_client()
    assert (public.rotation.mode, public.downscope.mode) == ("strict", Downscope.NONE)
    changed = {name: getattr(public, name) for name in ("client_auth", "pkce", "rotation", "downscope", "expires")}
    async with place_for(family, simulator, sqlite_store, changed=changed) as place:
        await place.connect()
        token = await place.narrow()
        assert token.narrowing is Narrowing.ENFORCED
        assert simulator.books()["refreshes"] == []
        await place.narrow(after=token.generation)
        assert [entry["outcome"] for entry in simulator.books()["refreshes"]] == ["rotated"]


@at("microsoft")
async def test_a_refresh_token_that_comes_with_a_narrow_answer_replaces_the_stored_one(place: Place) -> None:
    connection = await place.connect()
    before = await place.room.row(connection)
    await place.narrow()
    after = await place.room.row(connection)
    assert after.generation == before.generation + 1
    assert after.refresh_sealed != before.refresh_sealed
    place.room.pass_time(4000)
    place.simulator.advance(4000)
    assert (await place.exchange(place.family.granted)).narrowing is Narrowing.UPSTREAM
    first, second = place.simulator.books()["refreshes"]
    assert (first["token"], second["token"]) == ("families.microsoft-1:r0", first["issued_refresh"])


# Tokens derived from the full one


@at("github", "box")
async def test_making_a_narrower_token_spends_no_refresh_token(place: Place) -> None:
    await place.connect()
    first, second = await place.narrow(), await place.narrow()
    assert first.value == second.value  # it is kept and given out again
    assert len(place.narrowings()) == 1
    assert place.simulator.books()["refreshes"] == []
    (event,) = await place.room.events("connection.narrowed")
    assert event.details["narrowed_to"] == sorted(place.family.narrow)


@at("github", "box")
async def test_a_narrower_token_is_stored_with_its_event_or_not_at_all(place: Place) -> None:
    await place.connect()
    database = place.room.database
    async with unstorable(database, "events", "kind", "connection.narrowed", is_sqlite=True):
        with pytest.raises(StorageUnavailable):
            await place.narrow()
    assert await database.fetch("select sealed from narrowed_tokens") == []
    await place.narrow()
    assert len(await database.fetch("select sealed from narrowed_tokens")) == 1
    assert len(await place.room.events("connection.narrowed")) == 1


@at("github", "box")
@pytest.mark.parametrize("kind", ["rate_limited", "status"])
async def test_a_narrowing_that_a_rate_limit_turned_away_waits_as_long_as_the_provider_says(
    place: Place, kind: str
) -> None:
    await place.connect()
    place.simulator.fault(f"families.{place.family.mode}", kind, retry_after=7)
    with pytest.raises(TemporarilyUnavailable) as refused:
        await place.narrow()
    if kind == "status":  # 500
        assert "didn't answer" in refused.value.description
    else:
        assert (refused.value.description, refused.value.retry_after) == (
            f"{place.family.provider} is rate limiting.",
            7,
        )
        with pytest.raises(TemporarilyUnavailable, match="is rate limiting"):  # it isn't asked again before that
            await place.narrow()
        place.room.pass_time(8)
    assert await place.call(place.family.inside, await place.narrow()) == 200


@at("github")
@pytest.mark.parametrize("is_written", [True, False])
async def test_a_wrong_registration_is_not_sent_again_although_its_event_was_not_written(
    place: Place, *, is_written: bool
) -> None:
    await place.connect()
    place.simulator.fault(f"families.{place.family.mode}", "status", status=401, body="{}")
    if not is_written:
        await rename(place.room, "events", "events_away")
    with pytest.raises(TemporarilyUnavailable if is_written else StorageUnavailable):
        await place.narrow()
    if not is_written:
        await rename(place.room, "events_away", "events")
    with pytest.raises(TemporarilyUnavailable, match=r"rejected this server's request \(invalid_client\)"):
        await place.narrow()
    place.room.pass_time(61)
    assert (await place.narrow()).narrowing is Narrowing.UPSTREAM


@at("box")
async def test_a_narrowing_waits_as_long_as_a_provider_under_maintenance_says(place: Place) -> None:
    await place.connect()
    place.simulator.fault(f"families.{place.family.mode}", "rate_limited", status=503, retry_after=7)
    for _ in range(2):
        with pytest.raises(TemporarilyUnavailable, match="can't be asked for a new token right now") as refused:
            await place.narrow()
        assert 5 <= refused.value.retry_after <= 7
    place.room.pass_time(8)
    assert await place.call(place.family.inside, await place.narrow()) == 200


@at("github")
async def test_a_refresh_that_ends_the_old_tokens_ends_the_narrowed_ones_in_the_vault_too(place: Place) -> None:
    await place.connect()
    token = await place.narrow()
    full = await place.exchange(place.family.granted)
    await place.exchange(place.family.granted, after=full.generation)
    assert await place.call(place.family.inside, token) == 401
    again = await place.narrow()
    assert again.value != token.value
    assert await place.call(place.family.inside, again) == 200


@at("github", "box")
async def test_a_full_token_that_the_provider_ended_is_refreshed_before_it_is_narrowed(place: Place) -> None:
    await place.connect()
    place.simulator.control("expire", face=f"families.{place.family.mode}")
    token = await place.narrow()
    assert await place.call(place.family.inside, token) == 200
    assert [entry["outcome"] for entry in place.narrowings()] == ["refused:token", "ok"]
    assert [entry["outcome"] for entry in place.simulator.books()["refreshes"]] == ["rotated"]


@at("github", "box")
async def test_an_old_full_token_is_refreshed_first_and_the_narrow_one_never_outlives_it(place: Place) -> None:
    connection = await place.connect()
    lifetime = 28800 if place.family.provider == "github" else 3600
    place.room.pass_time(lifetime - 2)
    place.simulator.advance(lifetime - 2)
    token = await place.narrow()
    assert len(place.simulator.books()["refreshes"]) == 1
    full = await place.room.row(connection)
    assert token.expires_at is not None
    assert full.access_expires_at is not None
    assert token.expires_at <= full.access_expires_at


@at("github", "box")
async def test_a_provider_that_does_not_answer_is_asked_again_later_and_nothing_is_lost(place: Place) -> None:
    await place.connect()
    endpoint = "token.scoped" if place.family.provider == "github" else "token.exchange"
    place.simulator.fault(f"families.{place.family.mode}.{endpoint}", "drop_after")
    with pytest.raises(TemporarilyUnavailable) as refused:
        await place.narrow()
    assert refused.value.retry_after == 2
    assert (await place.narrow()).narrowing is Narrowing.UPSTREAM
    assert place.simulator.books()["refreshes"] == []


async def test_many_requests_at_once_make_one_narrower_token_on_both_databases(
    simulator: Simulator, store: Store
) -> None:
    async with place_for(BY_NAME["github"], simulator, store) as place:
        await place.connect()
        tokens = await asyncio.gather(*(place.narrow() for _ in range(20)))
        assert len({token.value for token in tokens}) == 1
        assert len(place.narrowings()) == 1
        again = await place.narrow(after=tokens[0].generation)
        assert again.generation > tokens[0].generation
        assert await place.call(place.family.inside, again) == 200
        full = await place.exchange(place.family.granted)
        await place.exchange(place.family.granted, after=full.generation)  # this ends what the old token led to
        assert (await place.narrow()).value not in {tokens[0].value, again.value}


@at("github", "box")
async def test_a_provider_that_does_not_know_our_client_is_not_asked_again_at_once(place: Place) -> None:
    await place.connect()
    wrong = replace(place.provider.registration, client_secret="wrong-secret")
    strange = OAuthUpstream(place.provider.with_registration(wrong), place.upstream._outbound)
    place.room.vault = replace(place.room.vault, upstreams={place.family.provider: strange})
    with pytest.raises(TemporarilyUnavailable, match="Ask an admin") as refused:
        await place.narrow()
    assert refused.value.retry_after == 60
    assert [event.details["reason"] for event in await place.room.events("narrowing.failed")] == ["invalid_client"]
    place.room.vault = replace(place.room.vault, upstreams={place.family.provider: place.upstream})
    with pytest.raises(TemporarilyUnavailable):
        await place.narrow()
    place.room.pass_time(61)
    assert (await place.narrow()).narrowing is Narrowing.UPSTREAM


@at("github", "box")
async def test_a_token_that_is_made_while_the_person_disconnects_is_not_kept(place: Place) -> None:
    connection = await place.connect()
    endpoint = "token.scoped" if place.family.provider == "github" else "token.exchange"
    place.simulator.fault(f"families.{place.family.mode}.{endpoint}", "hold")
    waiting = asyncio.create_task(place.narrow())
    await wait_until_held(place.simulator, f"families.{place.family.mode}.{endpoint}")
    async with place.room.database.transaction() as transaction:
        await connections.disconnect(transaction, place.room.vault.keys, connection, now=place.room.now)
    place.simulator.control("release")
    with pytest.raises(ConnectionRequired):
        await waiting
    assert await place.room.database.fetch("select sealed from narrowed_tokens") == []
    assert await place.room.events("connection.narrowed") == []


@at("github")
async def test_a_token_that_another_process_s_refresh_ended_meanwhile_is_not_kept(place: Place) -> None:
    await place.connect()
    full = await place.exchange(place.family.granted)
    place.simulator.fault("families.github-app.token.scoped", "hold", when="after")
    waiting = asyncio.create_task(place.narrow())
    await wait_until_held(place.simulator, "families.github-app.token.scoped")
    other = replace(place.room.vault, tasks=RefreshTasks(), owner=secrets.token_urlsafe(16))
    request = ExchangeRequest(principal_of(place.room.alice), "github", place.family.granted)
    await exchange(request, vault=other, now=place.room.now, after_unauthorized=full.generation)
    place.simulator.control("release")
    token = await waiting
    assert await place.call(place.family.inside, token) == 200
    assert len(place.narrowings()) == 2


@at("box", "google")
async def test_explaining_says_whether_a_refresh_comes_before_the_narrow_token(place: Place) -> None:
    connection = await place.connect()
    alice = place.room.alice
    question = ExchangeQuestion(alice.user.name, alice.client.id, connection.id, place.family.narrow)
    found = await explain(question, vault=place.room.vault, now=place.room.now)
    assert (found.first_failure, found.narrowing) == (None, "upstream")
    assert found.refreshes == (place.family.provider == "google")
    place.room.pass_time(4000)
    assert (await explain(question, vault=place.room.vault, now=place.room.now)).refreshes


@at("box")
async def test_without_a_full_token_nothing_is_asked(place: Place) -> None:
    connection = await place.connect()
    facts = replace(await place.room.row(connection), access_sealed=None)
    wanted = UpstreamTokenRequest(connection.id, 0, scopes=place.family.narrow)
    made = Narrower(place.room.vault, place.upstream, place.provider.policy(), facts=facts, request=wanted)
    assert await made.make() is None
    assert place.narrowings() == []


@at("github")
async def test_scopes_that_the_app_does_not_have_are_refused_there_and_enforced_here(place: Place) -> None:
    await place.connect()
    place.simulator.fault("families.github-app.token.scoped", "status", status=422, body='{"message": "no"}')
    with pytest.raises(ItemRefused):
        await place.narrow()
    (event,) = await place.room.events("narrowing.failed")
    assert event.details["reason"] == "invalid_scope"
    assert (await place.exchange()).narrowing is Narrowing.ENFORCED


# One item


@at("github")
async def test_a_token_for_one_repository_does_not_open_another(place: Place) -> None:
    await place.connect()
    token = await place.narrow()
    assert await place.call(("GET", "/repos/octo/other/issues"), token) == 404
    full = await place.exchange(place.family.granted)
    assert await place.call(("GET", "/repos/octo/other/issues"), full) == 200
    without = await place.exchange()  # for all repositories, there is no such token, so the vault enforces the scopes
    assert (without.narrowing, without.value) == (Narrowing.ENFORCED, full.value)


@at("box")
async def test_a_token_for_one_folder_does_not_open_another(place: Place) -> None:
    await place.connect()
    token = await place.exchange(item="/2.0/folders/12")
    assert token.narrowing is Narrowing.UPSTREAM
    assert await place.call(("GET", "/2.0/folders/12/items"), token) == 200
    assert await place.call(("GET", "/2.0/folders/13/items"), token) == 404
    assert [event.details["item"] for event in await place.room.events("token.exchanged")] == [
        f"{place.api}/2.0/folders/12"
    ]
    without = await place.exchange()
    assert await place.call(("GET", "/2.0/folders/13/items"), without) == 200


@at("google", "dropbox", "microsoft", "square")
async def test_a_token_for_one_item_is_refused_where_no_provider_holds_it_to_that(place: Place) -> None:
    await place.connect()
    with pytest.raises(ItemRefused):
        await place.exchange(item="/files/5")
    (refused,) = await place.room.events("exchange.refused")
    assert (refused.details["code"], refused.details["item"]) == ("invalid_target", f"{place.api}/files/5")
    assert place.narrowings() == []
    assert (await place.exchange()).narrowing is Narrowing.UPSTREAM


@at("box", "github")
@pytest.mark.parametrize("item", ["/2.0/users/me", "/repos/octo", "/repos/../hello", "/2.0/folders/12/../13"])
async def test_an_address_that_names_no_item_gives_no_token(place: Place, item: str) -> None:
    await place.connect()
    with pytest.raises(ItemRefused):
        await place.exchange(item=item)
    assert place.narrowings() == []
    assert (await place.exchange(item=place.family.item or "/2.0/folders/12")).narrowing is Narrowing.UPSTREAM


@at("box")
async def test_an_item_that_the_answer_does_not_confirm_gives_no_token(place: Place) -> None:
    await place.connect()
    place.simulator.fault("families.box.token.exchange", "alter", change={"restricted_to": []})
    with pytest.raises(ItemRefused):
        await place.exchange(item="/2.0/folders/12")
    place.room.pass_time(601)
    assert (await place.exchange(item="/2.0/folders/12")).narrowing is Narrowing.UPSTREAM
