"""Our own refresh tokens: rotation, grace, reuse, bounds (OAuth 2.1 §4.3, RFC 9700 §4.14)."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.inspection import read_events, unstorable
from tests.support.rooms.oauth_world import World, claims_of, error_of
from vault.records import Event

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]


async def events_of(world: World, client_id: str) -> list[Event]:
    found = await read_events(world.vault.deployment)
    return [event for event in found if event.client_id == client_id]


@pytest.mark.requirement("S-078")
async def test_a_refresh_token_rotates_and_is_bound_to_its_client(world: World) -> None:
    issued = await world.tokens()
    other = await world.public_client()
    stolen = await world.refresh(other, issued["refresh_token"])
    assert error_of(stolen) == "invalid_grant"
    rotated = (await world.refresh(issued["client_id"], issued["refresh_token"])).json()
    assert rotated["refresh_token"] != issued["refresh_token"]
    assert rotated["access_token"] != issued["access_token"]
    assert await world.probe(rotated["access_token"]) == 200


@pytest.mark.requirement("S-078")
async def test_scope_and_resource_cannot_grow(world: World) -> None:
    issued = await world.tokens(scope="tools openid")
    client_id, token = issued["client_id"], issued["refresh_token"]
    for more, error in (
        ({"scope": "tools connections"}, "invalid_scope"),
        ({"scope": "admin"}, "invalid_scope"),
        ({"resource": "https://other.example"}, "invalid_target"),
        ({"resource": f"{world.url}/sse"}, "invalid_target"),
    ):
        assert error_of(await world.refresh(client_id, token, **more)) == error
    narrow = (await world.refresh(client_id, token, scope="tools", resource=f"{world.url}/mcp/")).json()
    assert narrow["scope"] == "tools"
    assert claims_of(narrow["access_token"])["scope"] == "tools"
    assert (await world.refresh(client_id, narrow["refresh_token"])).json()["scope"] == "openid tools"


@pytest.mark.requirement("S-079")
async def test_a_spent_token_after_the_grace_kills_the_whole_family(stored_world: World) -> None:
    first = await stored_world.tokens()
    client_id = first["client_id"]
    second = (await stored_world.refresh(client_id, first["refresh_token"])).json()
    third = (await stored_world.refresh(client_id, second["refresh_token"])).json()
    assert await stored_world.probe(third["access_token"]) == 200
    with stored_world.clock_ahead(600):
        assert error_of(await stored_world.refresh(client_id, first["refresh_token"])) == "invalid_grant"
        for issued in (first, second, third):
            assert await stored_world.probe(issued["access_token"]) == 401
        assert error_of(await stored_world.refresh(client_id, third["refresh_token"])) == "invalid_grant"
    events = await events_of(stored_world, client_id)
    (ended,) = [event for event in events if event.kind == "grant.revoked"]
    assert (ended.details["reason"], ended.details["because"]) == ("refresh_token_reused", "late")


@pytest.mark.requirement("S-081")
async def test_a_process_that_is_generations_behind_gets_the_current_pair_and_it_is_seen(stored_world: World) -> None:
    issued = await stored_world.tokens()
    client_id, token = issued["client_id"], issued["refresh_token"]
    for _ in range(4):
        token = (await stored_world.refresh(client_id, token)).json()["refresh_token"]
    with stored_world.clock_ahead(500):
        behind = (await stored_world.refresh(client_id, issued["refresh_token"])).json()
        assert behind["refresh_token"] == token
        assert await stored_world.probe(behind["access_token"]) == 200
    events = await events_of(stored_world, client_id)
    (seen,) = [event for event in events if event.kind == "token.repeated"]
    assert seen.details["generations"] == 4
    assert seen.details["network"] == "private"


@pytest.mark.requirement("S-080")
async def test_parallel_refreshes_leave_one_live_successor(stored_world: World) -> None:
    issued = await stored_world.tokens()
    answers = await asyncio.gather(
        *(stored_world.refresh(issued["client_id"], issued["refresh_token"]) for _ in range(20))
    )
    successors = {answer.json()["refresh_token"] for answer in answers if answer.status_code == 200}
    assert len(successors) == 1
    again = await stored_world.refresh(issued["client_id"], successors.pop())
    assert again.status_code == 200


@pytest.mark.requirement("S-081")
async def test_a_client_that_crashed_before_it_stored_the_answer_gets_it_again_the_next_day(world: World) -> None:
    issued = await world.tokens()
    client_id = issued["client_id"]
    lost = (await world.refresh(client_id, issued["refresh_token"])).json()
    with world.clock_ahead(86400):
        retried = (await world.refresh(client_id, issued["refresh_token"])).json()
        assert retried["refresh_token"] == lost["refresh_token"]
        used = (await world.refresh(client_id, retried["refresh_token"])).json()
        assert error_of(await world.refresh(client_id, issued["refresh_token"])) == "invalid_grant"
        assert await world.probe(used["access_token"]) == 401


@pytest.mark.requirement("S-082")
async def test_near_misses_and_refused_requests_do_not_burn_the_token(world: World) -> None:
    issued = await world.tokens(scope="tools openid")
    client_id, token = issued["client_id"], issued["refresh_token"]
    for garbage in (
        token[:-1],
        token + "A",
        token.swapcase(),
        token[::-1],
        " " + token,
        token + "=",
        token.replace(token[0], "!", 1),
        issued["access_token"],
        "",
    ):
        assert error_of(await world.refresh(client_id, garbage)) in {"invalid_grant", "invalid_request"}
    assert error_of(await world.refresh(client_id, token, scope="admin")) == "invalid_scope"
    assert error_of(await world.refresh("nobody", token)) == "invalid_client"
    assert (await world.refresh(client_id, token)).status_code == 200


@pytest.mark.requirement("S-083")
async def test_a_family_ends_when_idle_for_three_months_or_a_year_old_and_each_answer_says_when(world: World) -> None:
    idle = await world.tokens()
    assert idle["refresh_token_expires_in"] == 90 * 86400
    with world.clock_ahead(90 * 86400 + 5):
        assert error_of(await world.refresh(idle["client_id"], idle["refresh_token"])) == "invalid_grant"
    busy = await world.tokens()
    token = busy["refresh_token"]
    for day, told in ((80, 90), (160, 90), (240, 90), (320, 45)):
        with world.clock_ahead(day * 86400):
            answer = (await world.refresh(busy["client_id"], token)).json()
            assert abs(answer["refresh_token_expires_in"] - told * 86400) < 60
            token = answer["refresh_token"]
    with world.clock_ahead(365 * 86400 + 5):
        assert error_of(await world.refresh(busy["client_id"], token)) == "invalid_grant"


async def test_a_confidential_client_rotates_too(world: World) -> None:
    client = await world.register(token_endpoint_auth_method="client_secret_post")
    client_id, secret = str(client["client_id"]), str(client["client_secret"])
    code = await world.code(client_id)
    issued = (await world.token(code.form(client_secret=secret))).json()
    assert error_of(await world.refresh(client_id, issued["refresh_token"])) == "invalid_client"
    rotated = await world.refresh(client_id, issued["refresh_token"], client_secret=secret)
    assert rotated.json()["refresh_token"] != issued["refresh_token"]


@pytest.mark.parametrize("kind", ["token.refreshed", "token.repeated"])
async def test_a_refresh_whose_event_cannot_be_stored_uses_nothing_up(stored_world: World, kind: str) -> None:
    """It is one change: the vault can prove each refresh, also when it is killed right after it."""
    issued, deployment = await stored_world.tokens(), stored_world.vault.deployment
    client_id, token = issued["client_id"], issued["refresh_token"]
    if kind == "token.repeated":
        assert (await stored_world.refresh(client_id, token)).status_code == 200
    is_sqlite = type(deployment.database).__name__ == "SqliteDatabase"
    before = await deployment.database.fetch("select * from refresh_tokens order by generation")
    async with unstorable(deployment.database, "events", "kind", kind, is_sqlite=is_sqlite):
        assert (await stored_world.refresh(client_id, token)).status_code >= 400
    assert await deployment.database.fetch("select * from refresh_tokens order by generation") == before
    assert [one.kind for one in await events_of(stored_world, client_id)].count(kind) == 0
    assert (await stored_world.refresh(client_id, token)).status_code == 200
    assert [one.kind for one in await events_of(stored_world, client_id)].count(kind) == 1
