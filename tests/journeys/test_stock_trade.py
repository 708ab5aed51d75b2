"""A developer's own API with declared tools: it verifies our tokens itself, and each order waits for approval."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from joserfc.jwk import RSAKey
from mcp_types import CallToolResult

from providers.definitions.catalog import ProviderFileRefused, check_file
from providers.simulator.local_server import Simulator, running_simulator
from server.app import open_deployment
from server.lifecycle.sandbox import EXAMPLES
from server.oauth import tokens
from server.settings import load_settings
from server.signatures import jose
from tests.support.accounts import revoke
from tests.support.harness import PASSWORD, running_vault
from tests.support.inspection import read_events
from tests.support.person import Person
from tests.support.rooms.exchange_room import API, ExchangeRoom, refusal_code
from tests.support.rooms.mcp_room import Agent, Room, text_of
from tests.support.rooms.oauth_world import claims_of
from vault import apis, connections, users
from vault.exchange.explain import ExchangeQuestion, explain
from vault.records import Session

AUDIENCE = "https://brokerage.example"
ORDER = {"symbol": "ACME", "side": "buy", "quantity": 3}


@asynccontextmanager
async def open_place(data: Path, **overrides: object) -> AsyncGenerator[Room]:
    """A vault with the brokerage."""
    async with running_simulator() as simulator:
        providers = {**simulator.settings(), "brokerage": simulator.brokerage_settings()}
        overrides |= {"provider_folders": [EXAMPLES / "providers"], "tools": {"folders": [EXAMPLES / "tools"]}}
        async with running_vault(data, providers=providers, overrides=overrides) as vault:
            yield Room(vault, simulator)


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with open_place(tmp_path_factory.mktemp("brokerage")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def trust_vault(place: Room) -> None:
    place.simulator.reset()
    place.simulator.trust(place.url, audience=AUDIENCE)


async def somebody(place: Room) -> tuple[Agent, Person]:
    """An agent of a new person, and that person's browser."""
    name = f"person-{secrets.token_hex(4)}"
    await place.vault.add_user(name)
    browser = await Person(place.url).__aenter__()
    assert (await browser.sign_in(name, PASSWORD)).status_code == 200
    return await place.agent(name), browser


async def call(place: Room, agent: Agent, tool: str, **arguments: object) -> CallToolResult:
    async with place.client(agent) as client:
        return await client.call_tool(tool, arguments)


def link_of(result: CallToolResult) -> str:
    assert result.is_error, text_of(result)
    assert result.meta is not None
    return str(result.meta["io.github.mcp-token-vault/connect"]["url"])


async def allow(browser: Person, asked: CallToolResult) -> httpx2.Response:
    page = await browser.open(link_of(asked))
    return await browser.submit(page, form="/connect/", button=("decision", "allow"))


def last_brokerage_call(simulator: Simulator) -> dict[str, object]:
    """What the brokerage recorded about the last call."""
    return simulator.books()["brokerage"][-1]


def orders(place: Room) -> int:
    return sum(1 for one in place.simulator.books()["brokerage"] if one["call"] == "orders" and one["outcome"] == "ok")


async def test_one_yes_on_our_page_connects_it_and_its_api_sees_person_agent_and_scope(place: Room) -> None:
    agent, browser = await somebody(place)
    asked = await call(place, agent, "stock_quote", symbol="ACME")
    assert place.simulator.books()["brokerage"] == []
    page = await browser.open(link_of(asked))
    assert "Look up prices" in page.text and "accepts this vault" in page.text
    done = await browser.submit(page, form="/connect/", button=("decision", "allow"))
    assert "Brokerage is connected" in done.text and "Look up prices" in done.text
    quote = await call(place, agent, "stock_quote", symbol="ACME")
    assert not quote.is_error, text_of(quote)
    assert "ACME: 41.5 USD" in text_of(quote)
    found = last_brokerage_call(place.simulator)
    assert (found["iss"], found["aud"]) == (place.url, AUDIENCE)
    assert (found["sub"], found["azp"]) == (agent.principal.user_id, agent.principal.client_id)
    assert found["scope"] == "quotes:read"
    assert found["act"] is None
    meta = quote.meta["io.github.mcp-token-vault/exchange"]
    assert (meta["narrowing"], meta["scopes"]) == ("upstream", ["quotes:read"])
    await browser.__aexit__()


async def test_a_second_scope_is_asked_for_and_a_call_still_carries_only_its_own(place: Room) -> None:
    agent, browser = await somebody(place)
    await allow(browser, await call(place, agent, "stock_quote", symbol="ACME"))
    asked = await call(place, agent, "stock_positions")
    assert "connect" in link_of(asked)
    await allow(browser, asked)
    positions = await call(place, agent, "stock_positions")
    assert positions.structured_content is not None
    assert positions.structured_content.pop("_vault").startswith("[vault] as ")
    assert positions.structured_content == {
        "items": [{"symbol": "ACME", "quantity": 10}],
        "next_cursor": None,
        "is_cut": False,
    }
    assert last_brokerage_call(place.simulator)["scope"] == "positions:read"
    assert not (await call(place, agent, "stock_quote", symbol="ACME")).is_error
    assert last_brokerage_call(place.simulator)["scope"] == "quotes:read"
    owned = await connections.list_connections(place.vault.deployment.database, agent.principal.user_id)
    assert [(one.provider, one.scopes) for one in owned] == [
        ("brokerage", frozenset({"quotes:read", "positions:read"}))
    ]
    await browser.__aexit__()


async def trader(place: Room) -> tuple[Agent, Person]:
    agent, browser = await somebody(place)
    await allow(browser, await call(place, agent, "stock_trade", **ORDER))
    return agent, browser


async def test_an_order_waits_for_a_yes_to_exactly_its_arguments_and_goes_through_once(place: Room) -> None:
    agent, browser = await trader(place)
    asked = await call(place, agent, "stock_trade", **ORDER)
    assert "needs the person's approval" in text_of(asked)
    assert orders(place) == 0
    page = await browser.open(link_of(asked))
    for shown in ("stock_trade", "Brokerage", "Test agent", ">ACME<", ">buy<", ">3<"):
        assert shown in page.text
    said = await browser.submit(page, form="/approvals/", button=("decision", "allow"))
    assert "Approved" in said.text
    for changed in ({"quantity": 4}, {"side": "sell"}, {"symbol": "ACMF"}):
        other = await call(place, agent, "stock_trade", **(ORDER | changed))
        assert link_of(other) != link_of(asked)
    assert orders(place) == 0
    done = await call(place, agent, "stock_trade", **ORDER)
    assert not done.is_error, text_of(done)
    assert "buy 3 ACME at 41.5 USD, filled" in text_of(done)
    assert (orders(place), last_brokerage_call(place.simulator)["scope"]) == (1, "orders:write")
    again = await call(place, agent, "stock_trade", **ORDER)
    assert link_of(again) != link_of(asked)
    assert orders(place) == 1
    await browser.__aexit__()


async def test_nobody_else_can_say_yes_and_no_other_agent_can_use_it(place: Room) -> None:
    agent, browser = await trader(place)
    link = link_of(await call(place, agent, "stock_trade", **ORDER))
    _, stranger = await somebody(place)
    refused_page = await stranger.open(link)
    assert refused_page.status_code == 403 and "ACME" not in refused_page.text
    page = await browser.open(link)
    await browser.submit(page, form="/approvals/", button=("decision", "allow"))
    person = await users.get_user(place.vault.deployment.database, agent.principal.user_id)
    assert person is not None
    second = await place.agent(person.name, client_name="Second agent")
    await allow(browser, await call(place, second, "stock_trade", **ORDER))
    assert "needs the person's approval" in text_of(await call(place, second, "stock_trade", **ORDER))
    assert orders(place) == 0
    assert not (await call(place, agent, "stock_trade", **ORDER)).is_error  # the twin: the intended agent
    for one in (browser, stranger):
        await one.__aexit__()


async def test_an_order_that_the_brokerage_refuses_is_said_and_the_yes_is_spent(place: Room) -> None:
    agent, browser = await trader(place)
    order = {"symbol": "ACME", "side": "sell", "quantity": 11}
    page = await browser.open(link_of(await call(place, agent, "stock_trade", **order)))
    await browser.submit(page, form="/approvals/", button=("decision", "allow"))
    assert "more than is owned cannot be sold" in text_of(await call(place, agent, "stock_trade", **order))
    assert "needs the person's approval" in text_of(await call(place, agent, "stock_trade", **order))
    await browser.__aexit__()


async def test_the_api_refuses_tokens_for_another_audience_of_another_issuer_and_old_ones(place: Room) -> None:
    agent, browser = await somebody(place)
    await allow(browser, await call(place, agent, "stock_quote", symbol="ACME"))
    place.simulator.trust(place.url, audience="https://another.example")
    assert (await call(place, agent, "stock_quote", symbol="ACME")).is_error
    assert last_brokerage_call(place.simulator)["outcome"] == "the token's audience is not right"
    place.simulator.trust("http://127.0.0.1:9", audience=AUDIENCE)
    assert (await call(place, agent, "stock_quote", symbol="ACME")).is_error
    place.simulator.trust(place.url, audience=AUDIENCE)
    assert not (await call(place, agent, "stock_quote", symbol="ACME")).is_error  # the twin
    place.simulator.advance(301)
    assert (await call(place, agent, "stock_quote", symbol="ACME")).is_error
    assert last_brokerage_call(place.simulator)["outcome"] == "the token's time is not right"
    await browser.__aexit__()


async def test_the_api_takes_no_token_that_another_key_signed_or_that_is_of_another_type(place: Room) -> None:
    deployment = place.vault.deployment
    now = deployment.now()
    claims = {
        "iss": place.url,
        "aud": AUDIENCE,
        "sub": "someone",
        "azp": "an agent",
        "scope": "quotes:read",
        "exp": now + 60,
    }
    ours = deployment.keys.signing.current(now)
    stranger = RSAKey.generate_key(2048, parameters={"kid": ours.kid}, private=True)
    url = f"{place.simulator.url}/brokerage/v1/quotes/ACME"
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:

        async def status(token: str | None) -> int:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            return (await http.get(url, headers=headers)).status_code

        assert await status(jose.sign(claims, ours, typ=tokens.TYPE)) == 200  # the twin
        assert await status(jose.sign(claims, stranger, typ=tokens.TYPE)) == 401
        assert await status(jose.sign(claims, ours, typ="JWT")) == 401
        assert await status(jose.sign(claims | {"scope": "positions:read"}, ours, typ=tokens.TYPE)) == 403
        assert await status(None) == 401


async def test_what_is_ended_here_brings_no_token_any_more(place: Room) -> None:
    agent, browser = await somebody(place)
    await allow(browser, await call(place, agent, "stock_quote", symbol="ACME"))
    assert not (await call(place, agent, "stock_quote", symbol="ACME")).is_error
    deployment = place.vault.deployment
    (connection,) = await connections.list_connections(deployment.database, agent.principal.user_id)
    await revoke(deployment, agent.principal, connection)
    calls = len(place.simulator.books()["brokerage"])
    await allow(browser, await call(place, agent, "stock_quote", symbol="ACME"))
    assert len(place.simulator.books()["brokerage"]) == calls
    assert not (await call(place, agent, "stock_quote", symbol="ACME")).is_error  # the twin: allowed again
    page = await browser.open(f"/connections/{connection.id}/disconnect")
    ended = await browser.submit(page, form="/disconnect")
    assert "Recently disconnected" in ended.text
    assert "needs a Brokerage account" in text_of(await call(place, agent, "stock_quote", symbol="ACME"))
    await browser.__aexit__()


async def test_an_explanation_says_that_it_works_and_what_is_missing(place: Room) -> None:
    deployment = place.vault.deployment
    agent = await place.agent("explained-person")
    connection = await connect_brokerage(place, agent, "quotes:read", "positions:read")
    wanted = frozenset({"quotes:read"})
    question = ExchangeQuestion("explained-person", agent.principal.client_id, connection.id, wanted)
    found = await explain(question, vault=deployment.vault, now=deployment.now())
    assert (found.first_failure, found.scopes, found.narrowing) == (None, wanted, "upstream")
    more = ExchangeQuestion("explained-person", agent.principal.client_id, connection.id, frozenset({"orders:write"}))
    missing = (await explain(more, vault=deployment.vault, now=deployment.now())).first_failure
    assert missing is not None and "orders:write" in missing.sentence


async def test_a_program_exchanges_for_it_and_gets_a_token_of_exactly_what_it_asked(place: Room) -> None:
    async with httpx2.AsyncClient(base_url=place.url, timeout=20, trust_env=False) as http:
        exchanging = ExchangeRoom(place, http)
        caller = await exchanging.caller()
        agent = await exchanging.agent(caller, "program-person")
        connection = await connect_brokerage(place, agent, "quotes:read", "positions:read")
        for target in ({"audience": "brokerage"}, {"audience": AUDIENCE}, {"audience": None, "resource": AUDIENCE}):
            answer = await exchanging.exchange(caller, agent.token, scope="quotes:read", **target)
            assert answer.status_code == 200, answer.text
        content = answer.json()
        assert (content["scope"], content["narrowing"]) == ("quotes:read", "upstream")
        claims = claims_of(content["access_token"])
        assert 0 < content["expires_in"] <= claims["exp"] - claims["iat"] == 300
        assert (claims["aud"], claims["sub"], claims["azp"]) == (AUDIENCE, agent.principal.user_id, caller.client.id)
        assert claims["act"] == {"sub": caller.client.id}
        assert not claims.keys() & {"amr", "auth_time"}, "no program signed in"
        bearer = {"Authorization": f"Bearer {content['access_token']}"}
        base = f"{place.simulator.url}/brokerage/v1"
        assert (await http.get(f"{base}/quotes/ACME", headers=bearer)).status_code == 200
        assert (await http.get(f"{base}/positions", headers=bearer)).status_code == 403
        ours = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        assert (await http.post("/mcp", json=ours, headers=bearer)).status_code == 401
        assert refusal_code(await exchanging.exchange(caller, content["access_token"], audience="brokerage"))
        wider = await exchanging.exchange(caller, agent.token, audience="brokerage", scope="orders:write")
        assert refusal_code(wider)
        kinds = [one.kind for one in await read_events(place.vault.deployment)]
        assert "token.released" in kinds
        assert connection.label == "program-person"


@pytest.mark.parametrize(
    ("own_lifetime", "subject_lifetime", "seconds"), [(3600, 3600, 300), (120, 3600, 120), (3600, 100, 100)]
)
async def test_its_token_ends_after_five_minutes_or_with_the_vaults_own_tokens(
    tmp_path: Path, own_lifetime: int, subject_lifetime: int, seconds: int
) -> None:
    async with (
        open_place(tmp_path / "data", tokens={"access_lifetime": own_lifetime}) as place,
        httpx2.AsyncClient(base_url=place.url, timeout=20, trust_env=False) as http,
    ):
        exchanging = ExchangeRoom(place, http)
        caller = await exchanging.caller()
        agent = await exchanging.agent(caller, lifetime=subject_lifetime)
        await connect_brokerage(place, agent, "quotes:read")
        answer = await exchanging.exchange(caller, agent.token, audience="brokerage", scope="quotes:read")
        claims = claims_of(answer.json()["access_token"])
        assert claims["exp"] - claims["iat"] == seconds


async def connect_brokerage(place: Room, agent: Agent, *scopes: str) -> connections.Connection:
    """The person's consent to the brokerage, and the agent's permission for these scopes."""
    from server.connecting import provider_authorization

    deployment = place.vault.deployment
    user = await users.get_user(deployment.database, agent.principal.user_id)
    assert user is not None
    trip = provider_authorization.ConsentRequest(
        "brokerage", frozenset(scopes), client_id=agent.principal.client_id, delegated=frozenset(scopes)
    )
    now = deployment.now()
    session = Session(b"", user.id, created_at=now, seen_at=now, expires_at=now + 60)
    return (await provider_authorization.consent_here(deployment, trip, user=user, session=session)).connection


async def test_what_is_asked_about_each_time_is_not_exchanged_and_a_public_client_gets_a_handle(place: Room) -> None:
    async with httpx2.AsyncClient(base_url=place.url, timeout=20, trust_env=False) as http:
        exchanging = ExchangeRoom(place, http)
        caller = await exchanging.caller()
        agent = await exchanging.agent(caller, "asked-person")
        await connect_brokerage(place, agent, "quotes:read", "orders:write")
        order = await exchanging.exchange(caller, agent.token, audience="brokerage", scope="orders:write")
        assert refusal_code(order)
        quote = await exchanging.exchange(caller, agent.token, audience="brokerage", scope="quotes:read")
        assert quote.status_code == 200  # the twin
        public = await exchanging.caller(public=True)
        theirs = await exchanging.agent(public, "asked-person")
        await connect_brokerage(place, theirs, "quotes:read", "orders:write")
        content = (await exchanging.exchange(public, theirs.token, audience="brokerage", scope="quotes:read")).json()
        assert content["access_token"].startswith("tvp_")
        handle = {"Authorization": f"Bearer {content['access_token']}"}
        assert (await http.get(f"{content['api_base_url']}/quotes/ACME", headers=handle)).json()["price"] == 41.5
        found = last_brokerage_call(place.simulator)
        assert (found["azp"], found["scope"]) == (public.client.id, "quotes:read")
        assert (await http.get(f"{content['api_base_url']}/positions", headers=handle)).status_code == 403


async def test_its_audience_cannot_be_had_without_the_persons_permission_for_it(place: Room) -> None:
    deployment = place.vault.deployment
    async with deployment.transaction() as transaction:
        for resource in (AUDIENCE, API):
            await apis.add_api(
                transaction, resource, name="x", now=deployment.now(), scopes=frozenset({"orders:write"})
            )
    async with httpx2.AsyncClient(base_url=place.url, timeout=20, trust_env=False) as http:
        exchanging = ExchangeRoom(place, http)
        caller = await exchanging.caller(resources=(f"{place.url}/mcp", AUDIENCE, API))
        agent = await exchanging.agent(caller, scopes=frozenset({"tools", "exchange", "orders:write"}))
        asked = await exchanging.exchange(caller, agent.token, audience=AUDIENCE, scope="orders:write")
        assert refusal_code(asked)
        twin = await exchanging.exchange(caller, agent.token, audience=API, scope="orders:write")
        assert twin.status_code == 200, twin.text
        query = {"response_type": "code", "client_id": caller.client.id, "scope": "orders:write", "state": "s"}
        query |= {"redirect_uri": "https://app.example/callback", "code_challenge_method": "S256"}
        query |= {"code_challenge": "a" * 43}
        found = await http.get("/authorize", params=query | {"resource": AUDIENCE})
        assert "invalid_target" in found.headers["location"]
        found = await http.get("/authorize", params=query | {"resource": API})
        assert "invalid_target" not in found.headers.get("location", "")
    async with deployment.transaction() as transaction:
        for resource in (AUDIENCE, API):
            await apis.remove_api(transaction, resource, now=deployment.now())


# The file

FILE = (EXAMPLES / "providers" / "brokerage.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (f'"{AUDIENCE}"', '"http://brokerage.example"', "audience: needs an https URI"),
        (f'"{AUDIENCE}"', '"https://brokerage.example/?a=b"', "audience: needs an https URI"),
        (f'"{AUDIENCE}"', '"brokerage"', "audience: needs an https URI"),
        (f'audience = "{AUDIENCE}"\n', "", "hosts: missing; add it"),
        (f'audience = "{AUDIENCE}"\n', "", "identity: missing; add it"),
        (
            f'audience = "{AUDIENCE}"\n',
            '\n[hosts]\nauthorize_url = "https://a.example"\n\n',
            "hosts.token_url: missing",
        ),
        ("[apis]", '[rotation]\nmode = "none"\n\n[apis]', "rotation: belongs to services with OAuth"),
        ("[apis]", '[identity]\nsource = "none"\n\n[apis]', "identity: belongs to services with OAuth"),
    ],
)
def test_a_file_says_either_where_its_oauth_is_or_its_audience(tmp_path: Path, old: str, new: str, says: str) -> None:
    file = tmp_path / "brokerage.toml"
    file.write_text(FILE, encoding="utf-8")
    assert check_file(file) == []  # the twin
    assert old in FILE
    file.write_text(FILE.replace(old, new, 1), encoding="utf-8")
    assert any(says in line for line in check_file(file)), check_file(file)


async def test_an_audience_that_is_this_vault_stops_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    sections = {"server": {"public_url": "https://vault.example"}, "provider_folders": [folder]}
    for audience in ("https://vault.example/mcp", "https://vault.example/", "https://vault.example"):
        (folder / "brokerage.toml").write_text(FILE.replace(AUDIENCE, audience, 1), encoding="utf-8")
        with pytest.raises(ProviderFileRefused, match="is this vault"):
            async with open_deployment(load_settings(overrides=sections), data=tmp_path / "data"):
                pass
    (folder / "brokerage.toml").write_text(FILE, encoding="utf-8")
    async with open_deployment(load_settings(overrides=sections), data=tmp_path / "data"):
        pass  # the twin
