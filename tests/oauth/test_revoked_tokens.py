"""One access token that its client revokes (RFC 7009 §2.1): it stops working everywhere at once; nothing else does."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator

import httpx2
import pytest

from server.app import build_app, open_deployment
from server.mcp import stream_watch
from server.oauth import tokens
from server.oauth.rules import default_resource
from tests.conftest import Store
from tests.support.doubles.stopped_clock import stopped_clock
from tests.support.harness import free_socket, serve_app
from tests.support.inspection import get_grant
from tests.support.rooms.exchange_room import API, Caller, ExchangeRoom, exchange_room, refusal_code
from tests.support.rooms.mcp_room import Agent, legacy_session, modern, modern_headers
from tests.support.rooms.oauth_world import claims_of
from vault import revoked_tokens

SCOPES = frozenset({"tools", "exchange", "openid"})

pytestmark = pytest.mark.requirement("S-084")


@pytest.fixture
async def place(store: Store) -> AsyncGenerator[ExchangeRoom]:
    async with exchange_room(store.data, database_url=store.url) as opened:
        yield opened


async def another_token(place: ExchangeRoom, agent: Agent, *, lifetime: int | None = None) -> str:
    """A second token of the same grant, with the same claims."""
    grant = await get_grant(place.deployment.database, agent.principal.grant_id)
    assert grant is not None
    now = place.now()
    ends = None if lifetime is None else now + lifetime
    token, _ = tokens.mint(place.deployment, grant, scopes=SCOPES, audience=grant.resource, now=now, expires_at=ends)
    return token


async def revoke(place: ExchangeRoom, caller: Caller, token: str) -> None:
    answer = await place.http.post("/revoke", data={**caller.credentials, "token": token})
    assert (answer.status_code, answer.content) == (200, b"")


async def post(http: httpx2.AsyncClient, token: str) -> int:
    """A tool call whose exchange reads the grant."""
    message = modern("tools/call", {"name": "slack_post", "arguments": {"channel": "#general", "text": "hello"}})
    headers = modern_headers("tools/call", "slack_post", authorization=f"Bearer {token}")
    answer = await http.post("/mcp", json=message, headers=headers)
    assert answer.status_code == 401 or '"isError":true' not in answer.text, answer.text
    return answer.status_code


async def where(place: ExchangeRoom, caller: Caller, token: str) -> dict[str, bool]:
    """Where this token works."""
    listing = modern("tools/list")
    listed = await place.http.post(
        "/mcp", json=listing, headers=modern_headers("tools/list", authorization=f"Bearer {token}")
    )
    person = await place.http.get("/userinfo", headers={"authorization": f"Bearer {token}"})
    found = {
        "list": listed.status_code == 200,
        "call": await post(place.http, token) == 200,
        "userinfo": person.status_code == 200,
        "exchange": (await place.exchange(caller, token, scope="chat:write")).status_code == 200,
    }
    if not caller.client.is_public:
        known = await place.http.post("/introspect", data={**caller.credentials, "token": token})
        found["introspection"] = known.json()["active"]
    return found


@pytest.mark.parametrize("public", [False, True], ids=["confidential", "public"])
async def test_a_revoked_access_token_is_dead_everywhere_and_its_grant_lives_on(
    place: ExchangeRoom, public: bool
) -> None:
    caller = await place.caller(public=public)
    agent = await place.agent(caller, scopes=SCOPES)
    await place.slack(agent)
    sibling, refresh = await another_token(place, agent), await place.refresh_token(agent, scopes=SCOPES)
    assert set((await where(place, caller, agent.token)).values()) == {True}  # the twin; and every cache is filled now
    await revoke(place, caller, agent.token)
    assert set((await where(place, caller, agent.token)).values()) == {False}
    assert set((await where(place, caller, sibling)).values()) == {True}
    await revoke(place, caller, agent.token)  # a second time, without further effect
    events = [one for one in await place.events("token.revoked") if one.client_id == caller.client.id]
    said = [{name: value for name, value in one.details.items() if name != "request_id"} for one in events]
    assert said == [{"grant": agent.principal.grant_id, "token": claims_of(agent.token)["jti"]}]
    form = {"grant_type": "refresh_token", "refresh_token": refresh, **caller.credentials}
    renewed = await place.http.post("/token", data=form)
    assert renewed.status_code == 200, renewed.text
    await revoke(place, caller, renewed.json()["refresh_token"])  # only its client has this token: it ends everything
    assert set((await where(place, caller, sibling)).values()) == {False}


async def test_nobody_else_and_no_dead_token_ends_anything(place: ExchangeRoom) -> None:
    caller, stranger = await place.caller(public=True), await place.caller(public=True)
    agent = await place.agent(caller, scopes=SCOPES)
    await place.slack(agent)
    expired = await another_token(place, agent, lifetime=1)
    place.deployment.database.clock_offset += 2
    await revoke(place, stranger, agent.token)
    for dead in (expired, agent.token[:-8] + "AAAAAAAA", "a.b.c", "unknown"):
        await revoke(place, caller, dead)
    assert await place.events("token.revoked") == []
    assert set((await where(place, caller, agent.token)).values()) == {True}
    await revoke(place, caller, agent.token)  # the twin: its own client
    assert set((await where(place, caller, agent.token)).values()) == {False}


async def test_a_repeated_exchange_is_not_answered_for_the_sibling_that_was_revoked(place: ExchangeRoom) -> None:
    """Tokens that differ only in their ID share a kept answer."""
    caller = await place.caller(release={"slack": "full"})
    agent = await place.agent(caller, scopes=SCOPES)
    await place.slack(agent)
    sibling = await another_token(place, agent)

    async def release_status(token: str) -> int:
        return (await place.exchange(caller, token, scope="chat:write")).status_code

    for _ in range(3):
        assert [await release_status(agent.token), await release_status(sibling)] == [200, 200]
    await revoke(place, caller, agent.token)
    for _ in range(3):  # after the revocation, the answer is kept again for the one
        assert [await release_status(sibling), await release_status(agent.token)] == [200, 400]
    assert refusal_code(await place.exchange(caller, agent.token, scope="chat:write")) == "invalid_request"


async def test_what_was_made_of_a_token_ends_with_it_and_with_no_other(place: ExchangeRoom) -> None:
    """Handles, and tokens for other APIs; an API that holds one ends what it derived from it, but not its own token."""
    caller, api = await place.caller(), await place.caller()
    await place.link(api, API)
    agent = await place.agent(caller, scopes=SCOPES, audience=API)
    await place.slack(agent)
    await place.slack(await place.agent(api, scopes=SCOPES))
    sibling = await another_token(place, agent)

    async def exchange_token(token: str, **more: str | None) -> dict[str, str]:
        answer = await place.exchange(api, token, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def works(handle: dict[str, str]) -> bool:
        headers = {"authorization": f"Bearer {handle['access_token']}"}
        answer = await place.http.post(
            f"{handle['api_base_url']}/chat.postMessage", data={"channel": "#general", "text": "hello"}, headers=headers
        )
        assert answer.status_code in {200, 401}, answer.text
        return answer.status_code == 200

    async def is_active(token: str) -> bool:
        known = await place.http.post("/introspect", data={**api.credentials, "token": token})
        return bool(known.json()["active"])

    first, kept = [await exchange_token(token, scope="chat:write") for token in (agent.token, sibling)]
    child = (await exchange_token(agent.token, audience=f"{place.url}/mcp"))["access_token"]
    grandchild = (await exchange_token(child, audience=f"{place.url}/mcp"))["access_token"]
    assert [await works(first), await works(kept), await is_active(child), await is_active(grandchild)] == [True] * 4
    await revoke(place, api, grandchild)
    assert [await works(first), await is_active(child), await is_active(grandchild)] == [True, True, False]
    await revoke(place, caller, agent.token)
    assert [await works(first), await is_active(child)] == [False, False]
    assert await works(kept)
    assert refusal_code(await place.exchange(api, agent.token, scope="chat:write")) == "invalid_request"


async def test_a_revocation_counts_in_every_process(place: ExchangeRoom, store: Store) -> None:
    caller = await place.caller(public=True)
    agent = await place.agent(caller, scopes=SCOPES)
    await place.slack(agent)
    listening = free_socket()
    base = f"http://127.0.0.1:{listening.getsockname()[1]}"
    settings = place.room.vault.settings  # another process behind the same public address
    async with (
        open_deployment(settings, data=store.data) as second,
        serve_app(build_app(second), listening),
        httpx2.AsyncClient(base_url=base, timeout=20, trust_env=False) as other,
    ):
        headers = {"authorization": f"Bearer {agent.token}"}
        assert (await other.get("/userinfo", headers=headers)).status_code == 200
        await revoke(place, caller, agent.token)
        assert (await other.get("/userinfo", headers=headers)).status_code == 401


async def test_a_grant_keeps_no_more_revoked_tokens_than_it_can_be_read_with(place: ExchangeRoom) -> None:
    """Expired ones make room; if the list is full, it refuses, and ends no token that it couldn't remember."""
    caller = await place.caller(public=True)
    agent = await place.agent(caller, scopes=SCOPES)
    database = place.deployment.database
    now = int(claims_of(agent.token)["iat"])
    end = now + 3600
    async with database.transaction() as transaction:
        await transaction.execute(
            "update grants set revoked_tokens = :listed where id = :id",
            {"listed": " ".join(f"{end}:{n}" for n in range(127)), "id": agent.principal.grant_id},
        )
    await revoke(place, caller, await another_token(place, agent))
    form = {**caller.credentials, "token": agent.token}
    with stopped_clock(database, at=now):
        full = await place.http.post("/revoke", data=form)
    assert (full.status_code, full.json()["error"]) == (503, "temporarily_unavailable")
    assert full.headers["retry-after"] == "3660"  # a minute after the first one has expired
    assert (await place.http.get("/userinfo", headers=agent.headers)).status_code == 200
    with stopped_clock(database, at=end + 59):
        later = await another_token(place, agent)
        assert (await place.http.post("/revoke", data={**caller.credentials, "token": later})).status_code == 503
    database.clock_offset += 3660
    await revoke(place, caller, later)
    assert (await place.http.get("/userinfo", headers={"authorization": f"Bearer {later}"})).status_code == 401
    row = await database.fetch_one("select revoked_tokens from grants where id = :id", {"id": agent.principal.grant_id})
    assert row is not None
    assert len(str(row["revoked_tokens"]).split()) == 1


async def test_a_token_is_exchanged_so_often_and_no_oftener(place: ExchangeRoom) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, scopes=SCOPES)
    token, resource = agent.token, default_resource(place.url)
    for _ in range(31):
        answer = await place.exchange(caller, token, audience=resource)
        assert answer.status_code == 200, answer.text
        token = answer.json()["access_token"]
    assert claims_of(token)["jti"].count(".") == 31
    assert refusal_code(await place.exchange(caller, token, audience=resource)) == "invalid_request"
    await revoke(place, caller, agent.token)
    assert (await place.http.get("/userinfo", headers={"authorization": f"Bearer {token}"})).status_code == 401


def test_an_id_in_a_list_is_that_of_the_whole_token_only() -> None:
    own = secrets.token_urlsafe(16)
    row = {"revoked_tokens": f"17:{own}"}
    assert revoked_tokens.is_revoked(row, own)
    assert revoked_tokens.is_revoked(row, f"parent.{own}.child")
    for other in ("", "17", own[:-1], own + "x", f"17:{own}"):
        assert not revoked_tokens.is_revoked(row, other)
    assert not revoked_tokens.is_revoked({"revoked_tokens": None}, own)


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_a_revoked_access_token_ends_the_streams_that_it_opened_and_no_others(
    place: ExchangeRoom, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the streams of a token derived from it; a stream on another token of the same grant continues."""
    monkeypatch.setattr(stream_watch, "PAUSE", 0.2)
    caller = await place.caller()
    agent = await place.agent(caller, scopes=SCOPES)
    made = (await place.exchange(caller, agent.token, audience=default_resource(place.url))).json()["access_token"]
    sibling = await another_token(place, agent)
    async with contextlib.AsyncExitStack() as stack:
        streams: list[asyncio.Task[None]] = []
        for token in (agent.token, made, sibling):
            opened = asyncio.Event()
            streams.append(asyncio.create_task(_follow(place, path, token, opened)))
            stack.push_async_callback(_stop_stream, streams[-1])
            async with asyncio.timeout(30):
                await opened.wait()
        await revoke(place, caller, agent.token)
        async with asyncio.timeout(60):
            await asyncio.gather(*streams[:2])  # the streams end without an error
        assert not streams[2].done()
        await revoke(place, caller, sibling)
        async with asyncio.timeout(60):
            await streams[2]


async def _follow(place: ExchangeRoom, path: str, token: str, opened: asyncio.Event) -> None:
    headers = {"accept": "text/event-stream", "authorization": f"Bearer {token}"}
    base, limits = place.url, httpx2.Limits(max_keepalive_connections=0)
    async with httpx2.AsyncClient(base_url=base, timeout=60, trust_env=False, headers=headers, limits=limits) as http:
        if path == "/mcp":
            headers |= {"mcp-session-id": await legacy_session(http), "mcp-protocol-version": "2025-11-25"}
        async with http.stream("GET", path, headers=headers) as answer:
            assert answer.status_code == 200
            opened.set()
            async for _ in answer.aiter_raw():
                pass


async def _stop_stream(stream: asyncio.Task[None]) -> None:
    stream.cancel()
    await asyncio.gather(stream, return_exceptions=True)
