"""Known habits of MCP clients, imitated from beginning to end: docs/evidence/clients.md has the table."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping

import pytest
import pytest_asyncio

from tests.support.harness import PASSWORD
from tests.support.rooms.mcp_room import Room, modern, modern_headers, room
from tests.support.rooms.oauth_world import REDIRECT, World, claims_of, pkce, query_of

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]


@pytest_asyncio.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with room(tmp_path_factory.mktemp("habits-tools")) as opened:
        yield opened


async def signed_in(
    world: World, client_id: str, *, redirect_uri: str = REDIRECT, **asked: str | None
) -> dict[str, object]:
    """Sign in and agree; returns what the token endpoint says."""
    verifier, challenge = pkce()
    page = await world.alice.open(world.authorize_url(client_id, challenge, redirect_uri=redirect_uri, **asked))
    if page.status_code == 200:
        page = await world.alice.submit(page, form="/consent", button=("decision", "allow"))
    code = query_of(page.headers["location"])["code"]
    form = {"grant_type": "authorization_code", "client_id": client_id, "code": code, "code_verifier": verifier}
    answer = await world.token(form | {"redirect_uri": redirect_uri})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def lists_tools(world: World, issued: Mapping[str, object]) -> bool:
    headers = {**modern_headers("tools/list"), "authorization": f"Bearer {issued['access_token']}"}
    answer = await world.http.post("/mcp", json=modern("tools/list", {}), headers=headers)
    return "slack_post" in answer.text


@pytest.mark.parametrize("registered", [None, "", "openid"])
async def test_the_scopes_of_a_registration_limit_nothing_that_the_person_agrees_to(
    world: World, registered: str | None
) -> None:
    client_id = await world.public_client(**({} if registered is None else {"scope": registered}))
    issued = await signed_in(world, client_id, scope="tools connections offline_access")
    assert set(str(issued["scope"]).split()) == {"tools", "connections", "offline_access"}
    assert await lists_tools(world, issued)


async def test_a_client_that_asks_for_no_scope_gets_what_ordinary_use_needs(world: World) -> None:
    issued = await signed_in(world, await world.public_client(), scope=None)
    assert {"tools", "connections"} <= set(str(issued["scope"]).split())
    assert await lists_tools(world, issued)


async def test_the_next_run_listens_on_another_port_and_is_not_asked_again(world: World) -> None:
    client_id = await world.public_client()
    await signed_in(world, client_id, redirect_uri="http://127.0.0.1:50001/callback")
    _, challenge = pkce()
    again = world.authorize_url(client_id, challenge, redirect_uri="http://127.0.0.1:50002/callback")
    page = await world.alice.open(again)
    assert page.status_code == 303
    assert page.headers["location"].startswith("http://127.0.0.1:50002/callback?code=")


async def test_a_stale_refresh_token_ends_the_grant_and_the_client_signs_in_again(world: World) -> None:
    issued = await world.tokens()
    client_id, first = issued["client_id"], issued["refresh_token"]
    second = (await world.refresh(client_id, first)).json()
    third = (await world.refresh(client_id, second["refresh_token"])).json()
    assert await world.probe(third["access_token"]) == 200
    with world.clock_ahead(600):
        refused = await world.refresh(client_id, first)  # another process of the client kept it in memory
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert await world.probe(third["access_token"]) == 401
    again = await signed_in(world, client_id)
    assert await world.probe(str(again["access_token"])) == 200


HOUR, DAY = 3600, 86400


async def registered_anew(world: World, name: str, *, port: int, then: str = "") -> dict[str, object]:
    """A separate registration at that port, signed in; `then` it may refresh, or be removed."""
    redirect_uri = f"http://127.0.0.1:{port}/callback"
    client = await world.register(client_name=name, redirect_uris=[redirect_uri])
    client_id = str(client["client_id"])
    issued = await signed_in(world, client_id, redirect_uri=redirect_uri)
    if then == "refreshes":
        assert (await world.refresh(client_id, str(issued["refresh_token"]))).status_code == 200
    if then == "removed":
        headers = {"authorization": f"Bearer {client['registration_access_token']}"}
        assert (await world.http.delete(f"/register/{client_id}", headers=headers)).status_code == 204
    return issued


@pytest.mark.parametrize(
    ("first", "after", "second", "lifetime"),
    [
        ({}, HOUR + 1, {}, DAY),  # it let its access expire and registered again: it would do so every hour
        ({"then": "removed"}, HOUR + 1, {}, DAY),
        ({"then": "refreshes"}, HOUR + 1, {}, HOUR),
        ({}, HOUR - 60, {}, HOUR),  # it started anew before its access expired
        ({}, HOUR + 1, {"name": "Another"}, HOUR),
    ],
)
async def test_software_that_registers_anew_instead_of_refreshing_gets_a_token_for_a_day(
    world: World, first: dict[str, str], after: int, second: dict[str, str], lifetime: int
) -> None:
    name = f"Software {secrets.token_hex(4)}"
    assert (await registered_anew(world, name, port=50001, **first))["expires_in"] == HOUR
    with world.clock_ahead(after):
        issued = await registered_anew(world, **{"name": name, **second}, port=50002)
        assert issued["expires_in"] == lifetime
        with world.clock_ahead(HOUR + 1):
            assert await lists_tools(world, issued) is (lifetime == DAY)


async def test_a_longer_token_ends_with_its_grant_at_once_and_counts_for_one_person_alone(stored_world: World) -> None:
    world, name = stored_world, "Software"
    await registered_anew(world, name, port=50001)
    other = await world.vault.add_user("other")
    with world.clock_ahead(HOUR + 1):
        issued = await registered_anew(world, name, port=50002)
        assert issued["expires_in"] == DAY
        async with world.vault.person() as stranger:
            await stranger.sign_in(other.name, PASSWORD)
            theirs = await registered_anew(World(world.vault, stranger, world.http), name, port=50003)
        assert theirs["expires_in"] == HOUR
        assert await lists_tools(world, issued)
        client_id = str(claims_of(str(issued["access_token"]))["client_id"])
        form = {"token": str(issued["refresh_token"]), "client_id": client_id}
        assert (await world.http.post("/revoke", data=form)).status_code == 200
        assert not await lists_tools(world, issued)


async def test_a_removed_client_that_sends_its_dead_id_is_told_what_to_do(world: World) -> None:
    registered = await world.register()
    client_id = str(registered["client_id"])
    _, challenge = pkce()
    page = await world.alice.open(world.authorize_url(client_id, challenge))
    assert page.status_code == 200
    gone = await world.http.delete(
        f"/register/{client_id}", headers={"authorization": f"Bearer {registered['registration_access_token']}"}
    )
    assert gone.status_code == 204
    page = await world.alice.open(world.authorize_url(client_id, challenge))
    assert page.status_code in {400, 401}
    assert "location" not in page.headers, "nobody is sent to an address of a client that is not known"
    for told in ("discard its registration", "claude mcp login NAME", "codex mcp login NAME"):
        assert told in page.text
    never = await world.alice.open(world.authorize_url("never-registered", challenge))
    assert never.text == page.text, "the same for every cause"


@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {}}, {"elicitation": {"form": {}}}])
async def test_a_client_that_cannot_open_a_link_is_told_it_in_words(
    place: Room, capabilities: Mapping[str, object]
) -> None:
    agent = await place.agent("dora")
    told = await post(place, agent.headers, capabilities)
    assert told["resultType"] == "complete"
    assert told["isError"]
    assert f"{place.url}/connect/" in told["content"][0]["text"]
    opens = await post(place, agent.headers, {"elicitation": {"url": {}}})
    assert opens["resultType"] == "input_required"


async def post(place: Room, headers: Mapping[str, str], capabilities: Mapping[str, object]) -> dict[str, object]:
    message = modern("tools/call", {"name": "slack_post", "arguments": {"channel": "#general", "text": "hello"}})
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = dict(capabilities)
    async with place.http() as http:
        answer = await http.post(
            "/mcp", json=message, headers={**modern_headers("tools/call", "slack_post"), **headers}
        )
    return answer.json()["result"]
