"""Behind a TLS-terminating proxy with nothing set but the public URL: the whole journey, and headers that lie."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from providers.simulator.local_server import running_simulator
from providers.simulator.person import consent
from tests.support.harness import free_socket, running_vault
from tests.support.network.front import Front, post, sign_in_agent
from tests.support.network.tls import make_authority, tls_proxy
from tests.support.rooms.portal_room import query_of

FORGED = {
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Port": "1",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "host=evil.example;proto=http",
    "X-Original-Host": "evil.example",
    "X-Host": "evil.example",
}


@asynccontextmanager
async def _front(
    folder: Path, host: str, *, providers: Mapping[str, object] | None = None, open_registration: bool = False
) -> AsyncGenerator[Front]:
    authority, outside = make_authority(folder, host), free_socket()
    overrides: dict[str, object] = {"server": {"public_url": f"https://{host}:{outside.getsockname()[1]}"}}
    if open_registration:
        overrides["registration"] = {"mode": "open"}
    async with (
        running_vault(folder / "data", providers=providers, overrides=overrides) as vault,
        tls_proxy(outside, authority, backend=vault.settings.server.port),
    ):
        yield Front(vault, authority)


async def test_with_only_a_public_url_the_whole_journey_goes_through_a_tls_proxy(tmp_path: Path) -> None:
    async with running_simulator() as simulator:
        sections = {"slack": simulator.slack_settings()}
        async with _front(tmp_path, "localhost", providers=sections) as front, front.person() as person:
            tokens = await sign_in_agent(front, person)
            cookies = {cookie.name: cookie for cookie in person.http.cookies.jar}
            assert "__Host-token_vault" in cookies
            assert all(cookie.secure and cookie.path == "/" for cookie in cookies.values())
            worked, said = await post(front, tokens["access_token"], "too early")
            assert not worked
            link = re.search(rf"{re.escape(front.url)}/connect/[\w-]+", said)
            assert link is not None, said
            page = await person.open(link[0])
            away = await person.submit(page, form="/connect/", button=("decision", "allow"))
            redirect = query_of(away.headers["location"])["redirect_uri"]
            assert redirect == f"{front.url}/connect/callback/slack"
            done = await person.open(await consent(away.headers["location"]))
            assert "Slack is connected" in done.text
            assert (await post(front, tokens["access_token"], "first"))[0]
            simulator.control("expire")
            assert (await post(front, tokens["access_token"], "after a refresh at the provider"))[0]
            async with front.http() as http:
                form = {"grant_type": "refresh_token", "client_id": tokens["client_id"]}
                answer = await http.post("/token", data={**form, "refresh_token": tokens["refresh_token"]})
            assert answer.status_code == 200, answer.text
            assert (await post(front, answer.json()["access_token"], "after a refresh here"))[0]
            books = simulator.books()
            assert [post["text"] for post in books["posts"]] == [
                "first",
                "after a refresh at the provider",
                "after a refresh here",
            ]
            assert [entry["outcome"] for entry in books["refreshes"]] == ["rotated"]


async def test_a_public_name_is_all_that_a_vault_answers_to(tmp_path: Path) -> None:
    async with _front(tmp_path, "vault.test", open_registration=True) as front, front.person() as person:
        tokens = await sign_in_agent(front, person)
        async with front.http(authorization=f"Bearer {tokens['access_token']}") as http:
            client = Client(streamable_http_client(f"{front.url}/mcp", http_client=http))
            async with client:
                assert (await client.list_tools()).tools
        for host, status in (("evil.example", 421), ("127.0.0.1", 421), (urlsplit(front.url).netloc, 200)):
            async with front.http({"host": host}) as http:
                assert (await http.get("/healthz")).status_code == status, host


async def test_headers_of_a_proxy_or_of_a_liar_change_nothing(tmp_path: Path) -> None:
    places = (
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-protected-resource/sse",
    )
    async with running_simulator() as simulator:
        sections = {"slack": simulator.slack_settings()}
        async with _front(tmp_path, "localhost", providers=sections) as front:
            async with front.http() as plain, front.http(FORGED) as forged:
                for place in places:
                    assert (await plain.get(place)).json() == (await forged.get(place)).json(), place
                challenge = (await forged.post("/mcp", json={})).headers["www-authenticate"]
                assert f'resource_metadata="{front.url}/' in challenge
                away = await forged.get("/connections")
                assert (away.status_code, urlsplit(away.headers["location"]).netloc) in (
                    (303, ""),
                    (303, urlsplit(front.url).netloc),
                )
            async with front.person(FORGED) as person:
                tokens = await sign_in_agent(front, person)
                assert all(cookie.secure for cookie in person.http.cookies.jar)
                assert "__Host-token_vault" in {cookie.name for cookie in person.http.cookies.jar}
                page = await person.open("/connections/connect?provider=slack")
                away = page if "location" in page.headers else await person.submit(page, form="/connections/connect")
                assert query_of(away.headers["location"])["redirect_uri"] == f"{front.url}/connect/callback/slack"
                done = await person.open(await consent(away.headers["location"]))
                assert done.status_code == 200, done.text
            _, said = await post(front, tokens["access_token"], "x")
            assert "evil" not in said


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:1"])
async def test_another_origin_is_refused_and_our_own_is_not(tmp_path: Path, origin: str) -> None:
    async with _front(tmp_path, "vault.test", open_registration=True) as front:
        async with front.http(origin=origin) as http:
            assert (await http.post("/mcp", json={})).status_code == 403
        async with front.http(origin=front.url) as http:
            assert (await http.post("/mcp", json={})).status_code == 401
