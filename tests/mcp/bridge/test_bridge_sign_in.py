"""The bridge's side of a sign-in: which addresses and documents it trusts, and which answers its listener accepts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.bridge.address import RemoteVault, remote_vault
from server.bridge.authority import AuthorizationServer
from server.bridge.browser import BrowserSignIn, browser_sign_in, redeem_code
from server.bridge.credentials import Credentials, FileStore, one_at_a_time
from server.bridge.refusals import BridgeRefused, GrantOver, RemoteUnreachable
from tests.support.bridge_processes import decide
from tests.support.harness import RunningVault, free_socket, running_vault, serve_app
from tests.support.rooms.oauth_world import claims_of
from vault.refusals import KeyUnavailable


@pytest.fixture(scope="module")
async def vault(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[RunningVault]:
    async with running_vault(tmp_path_factory.mktemp("sign-in")) as opened:
        yield opened


@pytest.fixture
async def authority(vault: RunningVault) -> AsyncGenerator[AuthorizationServer]:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        yield AuthorizationServer(http, remote_vault(vault.url, agent="Test"))


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Vault.Example", "https://vault.example"),
        ("https://vault.example:443/mcp/", "https://vault.example"),
        ("https://vault.example:8443/", "https://vault.example:8443"),
        ("http://localhost:8765/mcp", "http://localhost:8765"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_the_address_is_an_origin_however_it_is_written(url: str, origin: str) -> None:
    found = remote_vault(url, agent="Test")
    assert (found.origin, found.resource) == (origin, f"{origin}/mcp")


@pytest.mark.parametrize(
    "url",
    [
        "http://vault.example",
        "http://localhost.example/mcp",
        "http://127.0.0.1@vault.example/",
        "https://user@vault.example",
        "https://vault.example/mcp?token=1",
        "https://vault.example/#x",
        "https://vault.example/other",
        "https://vault.example:0",
        "https://vault.example:x",
        "https://",
        "vault.example",
        "ftp://vault.example",
    ],
)
def test_every_other_address_is_refused(url: str) -> None:
    with pytest.raises(BridgeRefused, match="--url"):
        remote_vault(url, agent="Test")


def test_two_agents_and_two_vaults_never_share_credentials() -> None:
    names = {
        remote_vault(url, agent=agent).name for url in ("https://a.example", "https://b.example") for agent in "xy"
    }
    assert len(names) == 4
    assert remote_vault("https://a.example/mcp", agent="x").name in names


# Documents


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, ""),
        ({"issuer": "https://elsewhere.example"}, "a different public address"),
        ({"issuer": None}, "no vault answers"),
        ({"token_endpoint": "https://elsewhere.example/token"}, "isn't a vault's"),
        ({"authorization_endpoint": "{origin}@elsewhere.example/authorize"}, "isn't a vault's"),
        ({"authorization_endpoint": "{origin}/authorize\r\nSet-Cookie: a=b"}, "isn't a vault's"),
        ({"authorization_endpoint": "{origin}/authorize\u202e"}, "isn't a vault's"),
        ({"token_endpoint": "{origin}/token\n"}, "isn't a vault's"),
        ({"code_challenge_methods_supported": ["plain", "S256"]}, "isn't a vault's"),
    ],
)
async def test_a_document_that_leads_elsewhere_is_not_believed(change: dict[str, object], told: str) -> None:
    listening = free_socket()
    origin = f"http://127.0.0.1:{listening.getsockname()[1]}"

    async def document(request: Request) -> Response:
        content = {
            "issuer": origin,
            "authorization_endpoint": f"{origin}/authorize",
            "token_endpoint": f"{origin}/token",
            "code_challenge_methods_supported": ["S256"],
        } | {name: value.format(origin=origin) if isinstance(value, str) else value for name, value in change.items()}
        return JSONResponse(content)

    app = Starlette(routes=[Route("/.well-known/oauth-authorization-server", document)])
    async with serve_app(app, listening), httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        found = AuthorizationServer(http, RemoteVault(origin, "Test"))
        if told:
            with pytest.raises(BridgeRefused, match=told):
                await found.endpoints()
        else:
            assert (await found.endpoints()).token == f"{origin}/token"


@pytest.mark.parametrize(
    "change",
    [
        {"user_code": "ABCD\u009b2J"},
        {"user_code": "ABCD\r\nEFGH"},
        {"verification_uri": "{origin}/device\x1b[2J"},
        {"device_code": "d\n"},
    ],
)
async def test_what_the_person_is_told_of_a_code_cannot_steer_their_terminal(change: dict[str, str]) -> None:
    listening = free_socket()
    origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
    right = {"verification_uri": f"{origin}/device", "user_code": "ABCD-EFGH", "device_code": "d"}
    answers = [right | {name: value.format(origin=origin) for name, value in change.items()}, right]

    async def document(request: Request) -> Response:
        names = ("authorization", "token", "device_authorization")
        content = {"issuer": origin, "code_challenge_methods_supported": ["S256"]}
        return JSONResponse(content | {f"{name}_endpoint": f"{origin}/{name}" for name in names})

    async def device(request: Request) -> Response:
        return JSONResponse(answers.pop(0))

    routes = [
        Route("/.well-known/oauth-authorization-server", document),
        Route("/device_authorization", device, methods=["POST"]),
    ]
    async with serve_app(Starlette(routes=routes), listening), httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        authority = AuthorizationServer(http, RemoteVault(origin, "Test"))
        with pytest.raises(BridgeRefused):
            await authority.ask_device("client")
        assert (await authority.ask_device("client")).user_code == "ABCD-EFGH"


async def test_a_vault_that_is_away_is_no_verdict(tmp_path: Path) -> None:
    listening = free_socket()
    origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
    listening.close()
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        with pytest.raises(RemoteUnreachable, match="can't reach"):
            await AuthorizationServer(http, RemoteVault(origin, "Test")).endpoints()


# The listener


async def _location(attempt: BrowserSignIn) -> str:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        return (await http.get(attempt.address)).headers["location"]


async def _answer(attempt: BrowserSignIn, query: dict[str, str], **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        return await http.get(attempt.redirect_uri, params=query, headers=headers)


async def test_a_sign_in_names_the_resource_and_brings_tokens_for_it(
    vault: RunningVault, authority: AuthorizationServer
) -> None:
    client = await authority.register()
    async with (
        browser_sign_in(remote_vault(vault.url, agent="Test"), authority, client_id=client.client_id) as attempt,
        vault.person() as person,
    ):
        url = await _location(attempt)
        asked = parse_qs(urlsplit(url).query)
        assert asked["resource"] == [f"{vault.url}/mcp"]
        assert asked["code_challenge_method"] == ["S256"]
        assert asked["state"][0] not in attempt.address
        page = await decide(person, await person.open(url))
        back = {name: found[0] for name, found in parse_qs(urlsplit(page.headers["location"]).query).items()}
        assert "Signed in" in (await _answer(attempt, back)).text
        tokens = await redeem_code(attempt, authority, client_id=client.client_id)
        assert claims_of(tokens.access_token)["aud"] == f"{vault.url}/mcp"
        assert tokens.access_token not in repr(tokens)
        assert "has expired" in (await _answer(attempt, back)).text
        renewed = await authority.refresh(tokens)
        assert renewed.refresh_token not in {"", tokens.refresh_token}
        await authority.revoke(renewed)
        with pytest.raises(GrantOver) as over:
            await authority.refresh(renewed)
        assert over.value.error == "invalid_grant"


async def test_what_is_no_answer_to_this_sign_in_changes_nothing(
    vault: RunningVault, authority: AuthorizationServer
) -> None:
    remote = remote_vault(vault.url, agent="Test")
    async with browser_sign_in(remote, authority, client_id="x") as attempt:
        state = parse_qs(urlsplit(await _location(attempt)).query)["state"][0]
        right = {"code": "c", "state": state, "iss": vault.url}
        for query, headers in (
            (right | {"state": "another"}, {}),
            ({"code": "c", "iss": vault.url}, {}),
            (right, {"host": "rebound.example"}),
        ):
            refused = await _answer(attempt, query, **headers)
            assert refused.status_code == 400
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            assert (await http.get(attempt.address + "x")).status_code == 404
            assert (await http.post(attempt.redirect_uri, params=right)).status_code == 400
        answered = await _answer(attempt, right)
        assert answered.status_code == 200
        assert answered.headers["referrer-policy"] == "no-referrer"
        assert await attempt.code() == "c"


@pytest.mark.parametrize("issuer", [None, "https://elsewhere.example"])
async def test_an_answer_of_another_issuer_ends_the_attempt(
    vault: RunningVault, authority: AuthorizationServer, issuer: str | None
) -> None:
    remote = remote_vault(vault.url, agent="Test")
    async with browser_sign_in(remote, authority, client_id="x") as attempt:
        state = parse_qs(urlsplit(await _location(attempt)).query)["state"][0]
        query = {"code": "c", "state": state} | ({} if issuer is None else {"iss": issuer})
        assert (await _answer(attempt, query)).status_code == 400
        with pytest.raises(BridgeRefused, match="a different server"):
            await attempt.code()


# What is kept


def test_a_file_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "remote" / "x.json", why="test")
    store.save(Credentials("client", refresh_token="r", access_token="a", expires_at=5))
    assert store.load() == Credentials("client", refresh_token="r", access_token="a", expires_at=5)
    (tmp_path / "remote" / "x.json").chmod(0o640)
    with pytest.raises(KeyUnavailable, match="chmod 600"):
        store.load()
    store.erase()
    assert store.load() is None


async def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "remote").write_text("a file in its place")
    with pytest.raises(BridgeRefused, match="can't write"):
        FileStore(tmp_path / "remote" / "x.json", why="test").save(Credentials("client"))
    with pytest.raises(BridgeRefused, match="can't write"):
        async with one_at_a_time(tmp_path, remote_vault("https://vault.example", agent="Test"), on_wait=lambda: None):
            pass


@pytest.mark.parametrize("content", ["", "[]", "{}", "{", '{"client_id": ""}', '{"client_id": "x", "expires_at": "y"}'])
def test_a_file_that_cannot_be_understood_counts_as_none(tmp_path: Path, content: str) -> None:
    store = FileStore(tmp_path / "x.json", why="test")
    store.save(Credentials("client"))
    (tmp_path / "x.json").write_text(content)
    assert store.load() is None


async def test_one_process_at_a_time_renews(tmp_path: Path) -> None:
    remote, waited = remote_vault("https://vault.example", agent="Test"), []
    async with one_at_a_time(tmp_path, remote, on_wait=lambda: waited.append("first")):
        assert not waited

        async def second() -> None:
            async with one_at_a_time(tmp_path, remote, on_wait=lambda: waited.append("second")):
                pass

        waiting = asyncio.create_task(second())
        async with asyncio.timeout(30):
            while not waited:
                await asyncio.sleep(0)
        assert not waiting.done()
    async with asyncio.timeout(30):
        await waiting
    assert waited == ["second"]
