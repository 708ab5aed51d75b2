"""RFC 8628: a device without a browser signs in with a code that its person enters elsewhere."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from server.administration.actor import Actor
from server.administration.agents import NewAgent, register
from server.oauth.clients.rules import DEVICE_GRANT
from tests.support.harness import PASSWORD, RunningVault
from tests.support.inspection import read_events
from tests.support.person import Person, session_token
from tests.support.rooms.oauth_world import GENEROUS, World, claims_of, error_of, vault_with
from vault import tickets
from vault.records import TicketPurpose
from vault.sign_in import sessions

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]

BOTH = ["authorization_code", "refresh_token", DEVICE_GRANT]


@dataclass
class Device:
    """An agent on a machine without a browser."""

    world: World
    client_id: str
    device_code: str
    user_code: str
    interval: int

    async def poll(self, **changes: str) -> httpx2.Response:
        form = {"grant_type": DEVICE_GRANT, "client_id": self.client_id, "device_code": self.device_code}
        return await self.world.token(form | changes)


@pytest.fixture(scope="module")
async def vault(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[tuple[RunningVault, httpx2.AsyncClient]]:
    async with vault_with(tmp_path_factory.mktemp("device"), **GENEROUS) as opened:
        yield opened


@pytest.fixture
async def world(vault: tuple[RunningVault, httpx2.AsyncClient]) -> AsyncGenerator[World]:
    """A world with its own person, because codes are counted per person."""
    running, http = vault
    name = secrets.token_hex(6)
    await running.add_user(name)
    async with running.person() as person:
        await person.sign_in(name, PASSWORD)
        yield World(running, person, http)


async def ask(world: World, client_id: str, **more: str) -> httpx2.Response:
    return await world.http.post("/device_authorization", data={"client_id": client_id, **more})


async def device(world: World, client_id: str | None = None, **more: str) -> Device:
    client_id = client_id or await world.public_client(grant_types=BOTH)
    answer = await ask(world, client_id, **({"scope": "tools connections"} | more))
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert found["verification_uri"] == f"{world.url}/device"
    assert "verification_uri_complete" not in found
    assert (found["expires_in"], len(found["device_code"])) == (600, 43)  # 256 bits
    return Device(world, client_id, found["device_code"], found["user_code"], found["interval"])


async def enter(person: Person, code: str) -> httpx2.Response:
    return await person.submit(await person.open("/device"), {"user_code": code}, form="/device")


async def answer(person: Person, page: httpx2.Response, decision: str = "allow") -> httpx2.Response:
    return await person.submit(page, form="/consent", button=("decision", decision))


async def test_the_person_types_the_code_elsewhere_and_the_device_gets_tokens(world: World) -> None:
    agent = await device(world, resource=f"{world.url}/mcp")
    assert agent.interval == 5
    assert (error_of(waiting := await agent.poll()), waiting.status_code) == ("authorization_pending", 400)
    page = await enter(world.alice, agent.user_code.lower().replace("-", " "))
    assert page.url.path == "/consent"
    for told in (agent.user_code, "127.0.0.1", "Test agent", "Did someone send you this code"):
        assert told in page.text
    done = await answer(world.alice, page)
    assert (done.status_code, done.url.path) == (200, "/device/answered")
    issued = await agent.poll()
    assert issued.status_code == 200, issued.text
    tokens = issued.json()
    assert set(tokens["scope"].split()) == {"tools", "connections"}
    assert claims_of(tokens["access_token"])["aud"] == f"{world.url}/mcp"
    assert await world.probe(tokens["access_token"]) == 403  # the token works, but lacks `openid`
    assert (await world.refresh(agent.client_id, tokens["refresh_token"])).status_code == 200


async def test_an_agent_without_a_redirect_uri_signs_in_by_code_only(world: World) -> None:
    made = await register(Actor(world.vault.deployment, None, "command_line"), NewAgent("Display", by_device=True))
    agent = await device(world, made.client.id)
    page = await enter(world.alice, agent.user_code)
    assert "Display" in page.text
    assert (await answer(world.alice, page)).url.path == "/device/answered"
    tokens = (await agent.poll()).json()
    assert (await world.refresh(made.client.id, tokens["refresh_token"])).status_code == 200
    elsewhere = await world.ask(made.client.id)
    assert (elsewhere.status_code, "location" in elsewhere.headers) == (400, False)
    assert (await world.ask(await world.public_client())).status_code == 303  # the twin


async def test_what_the_vault_offers_is_advertised(world: World) -> None:
    found = (await world.http.get("/.well-known/oauth-authorization-server")).json()
    assert found["device_authorization_endpoint"] == f"{world.url}/device_authorization"
    assert DEVICE_GRANT in found["grant_types_supported"]


async def test_a_refusal_and_the_end_of_the_code_are_told_and_final(world: World) -> None:
    agent = await device(world)
    await answer(world.alice, await enter(world.alice, agent.user_code), "deny")
    for _ in range(2):
        assert error_of(await agent.poll()) == "access_denied"
    events = await read_events(world.vault.deployment)
    (refused,) = [one for one in events if (one.kind, one.client_id) == ("consent.refused", agent.client_id)]
    assert (refused.outcome, refused.details["method"]) == ("refused", "device")
    assert "redirect_host" not in refused.details
    late = await device(world)
    with world.clock_ahead(600):
        assert error_of(await late.poll()) == "expired_token"
        page = await enter(world.alice, late.user_code)
        assert "is wrong" in page.text
    with world.clock_ahead(500):
        assert error_of(await late.poll()) == "authorization_pending"


async def test_polling_too_fast_is_told_to_slow_down(world: World) -> None:
    agent = await device(world)
    assert error_of(await agent.poll()) == "authorization_pending"
    assert error_of(await agent.poll()) == "slow_down"
    with world.clock_ahead(4):
        assert error_of(await agent.poll()) == "slow_down"
    with world.clock_ahead(5):
        assert error_of(await agent.poll()) == "authorization_pending"
        await answer(world.alice, await enter(world.alice, agent.user_code))
        assert (await agent.poll()).status_code == 200  # if the answer exists, polling doesn't wait


async def test_a_device_code_counts_once_and_its_replay_ends_the_grant(world: World) -> None:
    agent = await device(world, scope="openid tools")
    await answer(world.alice, await enter(world.alice, agent.user_code))
    tokens = (await agent.poll()).json()
    assert await world.probe(tokens["access_token"]) == 200
    assert error_of(await agent.poll()) == "invalid_grant"
    assert await world.probe(tokens["access_token"]) == 401
    assert error_of(await world.refresh(agent.client_id, tokens["refresh_token"])) == "invalid_grant"


async def test_the_device_code_is_nothing_for_another_client(world: World) -> None:
    agent = await device(world)
    other = await world.public_client(grant_types=BOTH)
    await answer(world.alice, await enter(world.alice, agent.user_code))
    assert error_of(await agent.poll(client_id=other)) == "invalid_grant"
    assert error_of(await agent.poll(device_code="x" * 43)) == "invalid_grant"
    assert (await agent.poll()).status_code == 200


async def test_the_code_behind_it_cannot_be_redeemed_as_an_ordinary_one(world: World) -> None:
    agent = await device(world)
    await answer(world.alice, await enter(world.alice, agent.user_code))
    deployment = world.vault.deployment
    kept = await tickets.find(
        deployment.database, deployment.keys, agent.device_code, purpose=TicketPurpose.DEVICE_GRANT
    )
    assert kept is not None
    form = {"grant_type": "authorization_code", "client_id": agent.client_id, "code_verifier": "v" * 43}
    for code in (agent.device_code, str(kept.payload["code"])):
        assert error_of(await world.token(form | {"code": code})) == "invalid_grant"
    assert (await agent.poll()).status_code == 200


async def test_the_grant_must_have_been_registered(world: World) -> None:
    without = await world.public_client()
    assert error_of(await ask(world, without)) == "unauthorized_client"
    form = {"grant_type": DEVICE_GRANT, "client_id": without, "device_code": "x" * 43}
    assert error_of(await world.token(form)) == "unauthorized_client"
    await device(world, await world.public_client(grant_types=BOTH))


async def test_what_is_asked_is_checked_as_everywhere(world: World) -> None:
    client_id = await world.public_client(grant_types=BOTH)
    for more, error in (
        ({"scope": "exchange"}, "invalid_scope"),
        ({"resource": "https://elsewhere.example/mcp"}, "invalid_target"),
    ):
        assert error_of(await ask(world, client_id, **more)) == error
    assert error_of(await ask(world, "nobody")) == "invalid_client"
    assert (await world.http.get("/device_authorization")).status_code == 405
    agent = await device(world, client_id)
    await answer(world.alice, await enter(world.alice, agent.user_code))
    assert error_of(await agent.poll(resource="https://elsewhere.example/mcp")) == "invalid_target"
    assert (await agent.poll(resource=f"{world.url}/mcp")).status_code == 200


async def test_the_person_is_asked_each_time_even_if_they_let_this_agent_in_before(world: World) -> None:
    client_id = await world.public_client(grant_types=BOTH)
    for _ in range(2):
        agent = await device(world, client_id)
        page = await enter(world.alice, agent.user_code)
        assert page.url.path == "/consent"
        await answer(world.alice, page)
        assert (await agent.poll()).status_code == 200


async def test_a_code_leads_one_person_to_the_page_once(world: World) -> None:
    agent = await device(world)
    page = await enter(world.alice, agent.user_code)
    assert page.url.path == "/consent"
    assert "is wrong" in (await enter(world.alice, agent.user_code)).text
    await answer(world.alice, page)
    assert (await world.alice.open(str(page.url))).status_code == 410
    assert (await agent.poll()).status_code == 200


async def test_the_page_that_a_code_leads_to_ends_with_the_code(world: World) -> None:
    agent = await device(world)
    with world.clock_ahead(300):
        page = await enter(world.alice, agent.user_code)
    for seconds, status in ((590, 200), (600, 410)):
        with world.clock_ahead(seconds):
            assert (await world.alice.open(str(page.url))).status_code == status


@pytest.mark.requirement("S-060")
@pytest.mark.parametrize("signed_in", ["before", "on the way", "in another browser"])
async def test_a_forwarded_consent_link_shows_nothing_and_leads_to_the_page_for_the_code(
    world: World, stranger: Person, signed_in: str
) -> None:
    """A stranger enters the code of his own device and sends the link: a click by its reader must give him nothing."""
    agent = await device(world)
    typed = await enter(stranger, agent.user_code)
    assert typed.url.path == "/consent"
    link = str(typed.url).removeprefix(world.url)
    victim = world.alice
    if signed_in == "before":
        page = await victim.open(link)
    elif signed_in == "on the way":
        async with world.vault.person() as fresh:
            page = await fresh.sign_in("alice", PASSWORD, page=await fresh.open(link))
    else:  # the person who entered the code, in another browser: even their own yes needs the browser that entered it
        name = await _name_of(world, stranger)
        async with world.vault.person() as second:
            page = await second.sign_in(name, PASSWORD, page=await second.open(link))
    assert page.url.path == "/device"
    assert page.url.query == b""
    assert 'name="user_code"' in page.text
    for secret in (agent.user_code, "Test agent", link.partition("=")[2]):
        assert secret not in page.text
    assert error_of(await agent.poll()) == "authorization_pending"
    await answer(stranger, typed)  # the twin: the browser that entered the code answers
    with world.clock_ahead(5):
        assert (await agent.poll()).status_code == 200


async def _name_of(world: World, person: Person) -> str:
    token = session_token(person.http)
    found = await sessions.find_session(world.vault.deployment.database, token, now=world.now(), idle_lifetime=3600)
    assert found is not None
    return found[1].name


@pytest.mark.requirement("S-060")
@pytest.mark.parametrize("decision", ["allow", "deny"])
async def test_a_form_for_a_code_that_another_session_typed_decides_nothing(
    world: World, stranger: Person, decision: str
) -> None:
    agent = await device(world)
    typed = await enter(stranger, agent.user_code)
    handle = str(typed.url).partition("request=")[2]
    own = await enter(world.alice, (await device(world)).user_code)  # to get a form with a token of alice's session
    page = await world.alice.submit(own, {"request": handle}, form="/consent", button=("decision", decision))
    assert page.url.path == "/device"
    assert error_of(await agent.poll()) == "authorization_pending"
    assert (await answer(stranger, typed)).url.path == "/device/answered"


@pytest.mark.requirement("S-060")
async def test_nobody_answers_for_a_code_after_signing_in_anew(world: World, stranger: Person) -> None:
    agent = await device(world)
    typed = await enter(stranger, agent.user_code)
    name = await _name_of(world, stranger)
    again = await stranger.sign_in(name, PASSWORD, page=await stranger.open("/sign-in?again=1"))
    assert again.status_code == 200
    assert (await stranger.open(str(typed.url))).url.path == "/device"
    assert error_of(await agent.poll()) == "authorization_pending"


@pytest.mark.requirement("S-060")
async def test_no_link_fills_the_code_in(world: World) -> None:
    agent = await device(world)
    page = await world.alice.open(f"/device?user_code={agent.user_code}")
    assert page.status_code == 200
    assert agent.user_code not in page.text
    wrong = await enter(world.alice, "BCDF-GHJK")
    assert 'value="BCDF-GHJK"' in wrong.text  # what the person typed stays in the field, so that they can correct it


async def test_cutting_the_agent_off_before_it_polls_leaves_it_nothing(world: World) -> None:
    agent = await device(world)
    await answer(world.alice, await enter(world.alice, agent.user_code))
    first = await device(world, agent.client_id)
    await answer(world.alice, await enter(world.alice, first.user_code))
    assert (await first.poll()).status_code == 200  # the page lists only agents with a grant
    page = await world.alice.open(f"/agents/{agent.client_id}/cut-off")
    await world.alice.submit(page, form="/cut-off")
    assert error_of(await agent.poll()) == "invalid_grant"


async def test_guesses_and_requests_are_limited(tmp_path: Path) -> None:
    limits = {"sign_in": {"waiting_requests_per_address": 3}}
    async with vault_with(tmp_path, **GENEROUS, **limits) as (vault, http), vault.person() as alice:
        await alice.sign_in("alice", PASSWORD)
        world = World(vault, alice, http)
        client_id = await world.public_client(grant_types=BOTH)
        agent = await device(world, client_id)
        for _ in range(2):
            await device(world, client_id)
        refused = await ask(world, client_id)
        assert (refused.status_code, error_of(refused)) == (429, "temporarily_unavailable")
        assert refused.headers["retry-after"] == "600"
        for _ in range(10):
            assert "is wrong" in (await enter(alice, "BBBB-BBBB")).text
        assert (await enter(alice, agent.user_code)).status_code == 429
        with world.clock_ahead(1200):
            await device(world, client_id)
