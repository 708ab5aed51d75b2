"""The main job with the official client: register, sign in, connect once, call, and call again without questions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata
from mcp_types import CallToolResult, ElicitRequestURLParams, ElicitResult, TextContent
from pydantic import AnyUrl

from providers.simulator.person import consent
from server.demo.screen import Wallet
from server.mcp.tool_answers import META_KEY
from tests.conftest import Store
from tests.support.harness import PASSWORD
from tests.support.person import Person
from tests.support.rooms.mcp_room import Room, room

POST = {"channel": "#general", "text": "hello"}
MODERN, HANDSHAKE = "2026-07-28", "2025-11-25"
ran = pytest.mark.client


@pytest.fixture
async def place(store: Store) -> AsyncGenerator[Room]:
    async with room(store.data, database_url=store.url) as opened:
        yield opened


class Newcomer:
    """Alice at her browser, and the agent's wallet; counts how often she was asked anything."""

    def __init__(self, place: Room, person: Person, path: str) -> None:
        self.place = place
        self.person = person
        self.path = path
        self.wallet = Wallet()
        self.sign_ins = 0
        self.links = 0
        self._answer: dict[str, str] = {}

    async def redirect(self, url: str) -> None:
        self.sign_ins += 1
        page = await self.person.open(url)
        if "/sign-in" in page.url.path:
            page = await self.person.sign_in("alice", PASSWORD, page=page)
        if page.status_code == 200:
            page = await self.person.submit(page, form="/consent", button=("decision", "allow"))
        query = parse_qs(urlsplit(page.headers["location"]).query)
        self._answer = {name: values[0] for name, values in query.items()}

    async def callback(self) -> AuthorizationCodeResult:
        return AuthorizationCodeResult(
            code=self._answer["code"], state=self._answer.get("state"), iss=self._answer.get("iss")
        )

    async def follow_elicited_link(self, context: object, params: object) -> ElicitResult:
        """The client opens the link; alice agrees there and at the provider."""
        assert isinstance(params, ElicitRequestURLParams)
        await self.follow(params.url)
        return ElicitResult(action="accept")

    async def follow(self, url: str) -> None:
        self.links += 1
        page = await self.person.open(url)
        page = await self.person.submit(page, form="/connect/", button=("decision", "allow"))
        if "location" in page.headers:
            page = await self.person.open(await consent(page.headers["location"]))
        assert page.status_code == 200, page.text

    @asynccontextmanager
    async def client(self, **options: object) -> AsyncGenerator[Client]:
        """A new run of the agent, with the data that it kept."""
        url = self.place.url + self.path
        auth = OAuthClientProvider(
            server_url=url,
            client_metadata=OAuthClientMetadata(
                client_name="Journey agent",
                redirect_uris=[AnyUrl("http://127.0.0.1:33418/callback")],
                token_endpoint_auth_method="none",
            ),
            storage=self.wallet,
            redirect_handler=self.redirect,
            callback_handler=self.callback,
        )
        async with httpx2.AsyncClient(auth=auth, timeout=30, trust_env=False) as http:
            way = sse_client(url, auth=auth) if self.path == "/sse" else streamable_http_client(url, http_client=http)
            async with Client(way, **options) as client:
                yield client


def text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        pytest.param("/mcp", "auto", marks=ran("python", "HTTP", "input required", MODERN)),
        pytest.param("/mcp", "legacy", marks=ran("python", "HTTP", "-32042", HANDSHAKE)),
        pytest.param("/sse", "auto", marks=ran("python", "SSE", "input required", MODERN)),
        pytest.param("/sse", "legacy", marks=ran("python", "SSE", "-32042", HANDSHAKE)),
    ],
)
async def test_a_newcomer_connects_once_and_later_runs_ask_nothing(place: Room, path: str, mode: str) -> None:
    async with Person(place.url) as person:
        alice = Newcomer(place, person, path)
        async with alice.client(mode=mode, elicitation_callback=alice.follow_elicited_link) as client:
            assert "slack_post" in {tool.name for tool in (await client.list_tools()).tools}
            if mode == "auto":  # the client opens the link and retries by itself
                posted = await client.call_tool("slack_post", POST)
            else:
                with pytest.raises(Exception, match="slack_post") as refused:
                    await client.call_tool("slack_post", POST)
                assert refused.value.code == -32042
                await alice.follow(refused.value.data["elicitations"][0]["url"])
                posted = await client.call_tool("slack_post", POST)
            assert not posted.is_error, text(posted)
            assert posted.structured_content["channel"]
            facts = posted.meta[META_KEY] if posted.meta else {}
            assert facts["scopes"] == ["chat:write"]
            assert "[vault] as alice" in text(posted)
        assert (alice.sign_ins, alice.links) == (1, 1)
        async with alice.client(mode=mode) as client:
            assert not (await client.call_tool("slack_post", POST)).is_error
            connected = await client.call_tool("connections", {})
        assert (alice.sign_ins, alice.links) == (1, 1)
        assert connected.structured_content["connections"][0]["your_scopes"] == ["chat:write"]
        assert connected.structured_content["not_connected"] == ["google"]
    assert len(place.simulator.books()["posts"]) == 2


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        pytest.param("/mcp", "auto", marks=ran("python", "HTTP", "words, code", MODERN)),
        pytest.param("/mcp", "legacy", marks=ran("python", "HTTP", "words, code", HANDSHAKE)),
        pytest.param("/sse", "legacy", marks=ran("python", "SSE", "words, code", HANDSHAKE)),
    ],
)
async def test_a_client_that_cannot_open_links_gets_words_and_a_code_for_another_device(
    place: Room, path: str, mode: str
) -> None:
    async with Person(place.url) as person:
        alice = Newcomer(place, person, path)
        async with alice.client(mode=mode) as client:
            told = await client.call_tool("calendar_list", {})
            assert told.is_error
            meta = (told.meta or {})["io.github.mcp-token-vault/connect"]
            assert meta["url"] in text(told)
            assert meta["user_code"] in text(told)
            page = await person.open(meta["device_url"])
            page = await person.submit(page, {"user_code": meta["user_code"]}, form="/device")
            page = await person.submit(page, form="/connect/", button=("decision", "allow"))
            page = await person.open(await consent(page.headers["location"]))
            assert page.status_code == 200, page.text
            listed = await client.call_tool("calendar_list", {})
            assert not listed.is_error, text(listed)


async def test_a_disconnected_account_is_asked_for_again_and_a_cut_off_agent_is_out(place: Room) -> None:
    agent = await place.agent()
    connection = await place.connect(agent, "slack", scopes=frozenset({"chat:write"}))
    async with place.client(agent) as client:
        assert not (await client.call_tool("slack_post", POST)).is_error
        await place.allow(agent, connection, frozenset())
        told = await client.call_tool("slack_post", POST)
        assert told.is_error
        assert "isn't allowed to use it" in text(told)
    assert len(place.simulator.books()["posts"]) == 1
