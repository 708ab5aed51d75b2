"""Client ID metadata documents: what is fetched, from where, how long it is kept, and what a failure reveals."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import pytest
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from server.oauth.clients.keys import keys_of
from server.oauth.clients.metadata_documents import FETCH_TIME, freshness, is_document_url
from server.settings import Settings
from tests.support.doubles.canary import running_canary
from tests.support.harness import PASSWORD, serve_app
from tests.support.inspection import read_events
from tests.support.rooms.oauth_world import GENEROUS, REDIRECT, World, error_of, listening_socket, sign_jwt, vault_with
from vault import clients
from vault.records import Client, ClientKind

SANDBOX = {"loopback_client_metadata": True}


@dataclass
class Site:
    """A web server with documents, on loopback; counts its requests."""

    url: str
    documents: dict[str, Response] = field(default_factory=dict[str, Response])
    asked: list[str] = field(default_factory=list[str])

    def address(self, name: str) -> str:
        return f"{self.url}/{name}"

    def publish(self, name: str | None = None, *, headers: dict[str, str] | None = None, **changes: object) -> str:
        """Publish a good document with changes (None leaves a member out); returns its address."""
        name = name or f"{secrets.token_hex(4)}.json"
        document: dict[str, object] = {
            "client_id": self.address(name),
            "client_name": "Document agent",
            "redirect_uris": [REDIRECT],
            "token_endpoint_auth_method": "none",
        }
        content = {key: value for key, value in (document | changes).items() if value is not None}
        self.documents[name] = JSONResponse(content, headers=headers)
        return self.address(name)

    def count(self, address: str) -> int:
        return self.asked.count(address.rsplit("/", 1)[1])


@pytest.fixture(scope="module")
async def site() -> AsyncGenerator[Site]:
    listening = listening_socket()
    made = Site(f"http://127.0.0.1:{listening.getsockname()[1]}")

    async def answer(request: Request) -> Response:
        name = request.path_params["name"]
        made.asked.append(name)
        return made.documents.get(name, PlainTextResponse("none", status_code=404))

    async with serve_app(Starlette(routes=[Route("/{name}", answer)]), listening):
        yield made


@pytest.fixture(scope="module")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    """A vault that accepts documents from this machine."""
    folder = tmp_path_factory.mktemp("cimd") / "data"
    async with vault_with(folder, sandbox=SANDBOX, **GENEROUS) as (vault, http), vault.person() as alice:
        await alice.sign_in("alice", PASSWORD)
        yield World(vault, alice, http)


def is_asked(answer: httpx2.Response) -> bool:
    """Whether the request led to the consent page; otherwise it must have ended on an error page."""
    if answer.status_code == 303:
        return answer.headers["location"].startswith("/consent")
    assert answer.status_code == 400
    assert "location" not in answer.headers
    return False


async def test_a_client_introduces_itself_by_its_document(room: World, site: Site) -> None:
    client_id = site.publish()
    issued = await room.tokens(client_id)
    assert issued["client_id"] == client_id
    assert await room.probe(issued["access_token"]) == 200
    assert (await room.refresh(client_id, issued["refresh_token"])).status_code == 200
    assert site.count(client_id) == 1


async def test_a_document_has_5120_bytes_at_most(room: World, site: Site) -> None:
    for length, is_read in ((5120, True), (5121, False)):
        client_id = site.publish(f"{length}.json", padding="")
        known = len(site.documents[f"{length}.json"].body)
        site.publish(f"{length}.json", padding="x" * (length - known))
        assert len(site.documents[f"{length}.json"].body) == length
        assert is_asked(await room.ask(client_id)) is is_read


@pytest.mark.requirement("S-052")
async def test_the_page_shows_name_and_host_and_warns_of_a_local_agent(room: World, site: Site) -> None:
    local, web = site.publish(), site.publish(redirect_uris=["https://agent.example/cb"])
    page = await room.alice.open(room.authorize_url(local, "A" * 43))
    assert "Document agent" in page.text
    assert "127.0.0.1" in page.text
    assert "Any program on this computer" in page.text
    page = await room.alice.open(room.authorize_url(web, "A" * 43, redirect_uri="https://agent.example/cb"))
    assert "agent.example" in page.text
    assert "Any program on this computer" not in page.text


@pytest.mark.requirement("S-049")
async def test_a_local_agent_with_a_document_is_asked_about_every_time(room: World, site: Site) -> None:
    local = site.publish()
    await room.tokens(local)
    assert is_asked(await room.ask(local))
    web = site.publish(redirect_uris=["https://agent.example/cb"])
    told = await room.allow_request(web, "A" * 43, redirect_uri="https://agent.example/cb")
    assert told["code"]


VIOLATIONS: list[dict[str, object]] = [
    {"client_id": "https://other.example/client.json"},
    {"client_id": None},
    {"client_name": None},
    {"client_name": ""},
    {"redirect_uris": None},
    {"redirect_uris": []},
    {"redirect_uris": ["javascript:alert(1)"]},
    {"redirect_uris": ["http://client.example/cb"]},
    {"client_secret": "public"},
    {"token_endpoint_auth_method": "client_secret_post"},
    {"token_endpoint_auth_method": "client_secret_basic"},
    {"token_endpoint_auth_method": "private_key_jwt"},
    {"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "http://client.example/keys"},
    {"grant_types": ["client_credentials"]},
    {"response_types": ["token"]},
    {"padding": "x" * 5200},
]


@pytest.mark.requirement("S-034")
async def test_a_document_that_breaks_a_rule_is_no_client(room: World, site: Site) -> None:
    bad = [site.publish(**changes) for changes in VIOLATIONS]
    good = site.publish("target.json")
    others = {
        "redirect.json": Response(status_code=302, headers={"Location": good}),
        "permanent.json": Response(status_code=308, headers={"Location": good}),
        "html.json": Response("<html>", media_type="text/html"),
        "broken.json": Response("{", media_type="application/json"),
        "deep.json": Response('{"a":' + "[" * 900 + "]" * 900 + "}", media_type="application/json"),
        "list.json": Response("[]", media_type="application/json"),
    }
    site.documents |= others
    for name, status, kind in (  # right apart from this
        ("created.json", 201, "application/json"),
        ("failed.json", 500, "application/json"),
        ("text.json", 200, "text/plain"),
    ):
        bad.append(site.publish(name))
        site.documents[name].status_code = status
        site.documents[name].headers["content-type"] = kind
    addresses = [*bad, *(site.address(name) for name in others), site.address("absent.json")]
    answers = await asyncio.gather(*(room.ask(address) for address in addresses))
    assert not [address for address, answer in zip(addresses, answers, strict=True) if is_asked(answer)]
    assert site.count(good) == 0  # no redirect was followed
    assert is_asked(await room.ask(good))

    described = site.publish("described.json")
    site.documents["described.json"].headers["content-type"] = "Application/JSON; charset=utf-8"
    assert is_asked(await room.ask(described))
    assert is_asked(await room.ask(site.publish(padding="x" * 4500)))


async def test_a_document_that_comes_too_slowly_is_no_client(room: World) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{")
        await writer.drain()
        await reader.read()  # until the vault closes the connection
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server:
        started = time.monotonic()
        answer = await room.ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/slow.json")
        assert not is_asked(answer)
        assert time.monotonic() - started < 20


def addresses_inside(port: int) -> list[str]:
    """Client IDs that point to this machine, or to an address that isn't public."""
    hosts = [
        "127.0.0.1",
        "localhost",
        "a.localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.1.",
        "0.0.0.0",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "[fe80::1]",
        "[fd00::1]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "127.0.0.1@evil.example",
        "evil.example@127.0.0.1",
    ]
    return [
        *(f"https://{host}:{port}/client.json" for host in hosts),
        f"http://127.0.0.1:{port}/client.json",
        f"https://127.0.0.1:{port}",
        f"https://127.0.0.1:{port}/",
        f"https://127.0.0.1:{port}/a/../client.json",
        f"https://127.0.0.1:{port}/a/%2e%2e/client.json",
        f"https://127.0.0.1:{port}/client.json#f",
        f"https://user@127.0.0.1:{port}/client.json",
        f"https://127.0.0.1:{port}/client json",
        f"https://127.0.0.1:0{port}\\@evil.example/",
        f"file://127.0.0.1:{port}/client.json",
        f"ftp://127.0.0.1:{port}/client.json",
    ]


@pytest.mark.requirement("S-034")
async def test_nothing_is_fetched_from_addresses_that_are_not_public(tmp_path: Path) -> None:
    async with running_canary() as canary, vault_with(tmp_path / "data", **GENEROUS) as (_, http):
        urls = addresses_inside(canary.port)
        query = {"response_type": "code", "redirect_uri": REDIRECT, "code_challenge": "A" * 43}
        answers = await asyncio.gather(
            *(
                http.get("/authorize", params=query | {"client_id": url, "code_challenge_method": "S256"})
                for url in urls
            )
        )
        assert not any(is_asked(answer) for answer in answers)
        assert len({answer.text for answer in answers}) == 1
        refused = await http.post("/token", data={"grant_type": "refresh_token", "client_id": urls[0]})
        assert error_of(refused) == "invalid_client"
    assert canary.arrivals == 0


@pytest.mark.requirement("S-035")
async def test_a_failure_tells_nothing_of_what_was_found_there(room: World, site: Site) -> None:
    closed = listening_socket()
    closed_port = closed.getsockname()[1]
    closed.close()
    site.documents["empty.json"] = JSONResponse({})

    async def time_request(address: str) -> tuple[float, int, str]:
        started = time.monotonic()
        answer = await room.ask(address)
        return time.monotonic() - started, answer.status_code, answer.text

    found = await asyncio.gather(
        time_request(f"http://127.0.0.1:{closed_port}/client.json"),
        time_request(site.address("absent-too.json")),
        time_request(site.address("empty.json")),
        time_request("https://10.0.0.1/client.json"),
        time_request("https://does-not-exist.invalid/client.json"),
    )
    seconds = [one[0] for one in found]
    assert len({one[1:] for one in found}) == 1
    assert min(seconds) > FETCH_TIME - 0.1
    assert max(seconds) - min(seconds) < 1.5
    assert max(seconds) < 30


@pytest.mark.requirement("S-036")
async def test_a_document_counts_as_long_as_its_headers_say_within_bounds(room: World, site: Site) -> None:
    short = site.publish(headers={"Cache-Control": "max-age=0"})
    long = site.publish(headers={"Cache-Control": "public, max-age=99999999"})
    middle = site.publish(headers={"Cache-Control": "max-age=600"})
    for address in (short, long, middle):
        assert is_asked(await room.ask(address))
    with room.clock_ahead(20):
        for address in (short, long, middle):
            await room.ask(address)
            assert site.count(address) == 1
    with room.clock_ahead(70):
        await room.ask(short)
        await room.ask(middle)
        assert (site.count(short), site.count(middle)) == (2, 1)
    with room.clock_ahead(610):
        await room.ask(middle)
        await room.ask(long)
        assert (site.count(middle), site.count(long)) == (2, 1)
    with room.clock_ahead(86_410):
        await room.ask(long)
        assert site.count(long) == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 3600),
        ({"cache-control": "no-store"}, 60),
        ({"cache-control": "no-cache, max-age=500"}, 60),
        ({"cache-control": "public,max-age=500"}, 500),
        ({"cache-control": "s-maxage=5"}, 3600),
        ({"expires": "Thu, 01 Jan 1970 00:10:00 GMT"}, 500),
        ({"expires": "0"}, 60),
        ({"expires": "Thu, 01 Jan 2099 00:00:00 GMT"}, 86400),
    ],
)
def test_freshness_follows_the_cache_headers(headers: dict[str, str], seconds: int) -> None:
    assert freshness(headers, now=100) == seconds


@pytest.mark.requirement("S-036")
async def test_a_changed_redirect_list_drops_consent_and_old_redirects(room: World, site: Site) -> None:
    first, second = "https://agent.example/first", "https://agent.example/second"
    client_id = site.publish("changing.json", redirect_uris=[first], headers={"Cache-Control": "max-age=60"})
    told = await room.allow_request(client_id, "A" * 43, redirect_uri=first)
    assert told["code"]
    code = await _redeem_code(room, client_id, first)
    assert code.status_code == 200
    assert "code=" in (await room.ask(client_id, redirect_uri=first)).headers["location"]  # consent is remembered
    site.publish("changing.json", redirect_uris=[first, second], headers={"Cache-Control": "max-age=60"})
    with room.clock_ahead(70):
        assert is_asked(await room.ask(client_id, redirect_uri=first))
    site.publish("changing.json", redirect_uris=[second], headers={"Cache-Control": "max-age=60"})
    with room.clock_ahead(140):
        assert not is_asked(await room.ask(client_id, redirect_uri=first))
        assert is_asked(await room.ask(client_id, redirect_uri=second))


async def _redeem_code(room: World, client_id: str, redirect_uri: str) -> httpx2.Response:
    code = await room.code(client_id, redirect_uri=redirect_uri)
    return await room.token(code.form(redirect_uri=redirect_uri))


async def test_an_outage_of_its_web_server_does_not_cost_a_client_its_tokens(room: World, site: Site) -> None:
    client_id = site.publish("outage.json", headers={"Cache-Control": "max-age=60"})
    issued = await room.tokens(client_id)
    del site.documents["outage.json"]
    with room.clock_ahead(300):
        refreshed, authorized = await asyncio.gather(
            room.refresh(client_id, issued["refresh_token"]), room.ask(client_id)
        )
        assert refreshed.status_code == 200
        assert not is_asked(authorized)
    with room.clock_ahead(90_000):
        late = await room.refresh(client_id, refreshed.json()["refresh_token"])
        assert (late.status_code, error_of(late)) == (401, "invalid_client")


async def test_a_document_client_can_prove_itself_with_a_key_behind_its_jwks_uri(room: World, site: Site) -> None:
    key, next_key = (RSAKey.generate_key(2048, parameters={"kid": name}) for name in ("old", "new"))
    site.documents["keys.json"] = JSONResponse({"keys": [key.as_dict(private=False)]})
    client_id = site.publish(token_endpoint_auth_method="private_key_jwt", jwks_uri=site.address("keys.json"))

    async def redeem(with_key: RSAKey) -> httpx2.Response:
        code = await room.code(client_id)
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": room.url,
            "exp": room.now() + 60,
            "jti": secrets.token_hex(8),
        }
        sent = sign_jwt({"alg": "RS256", "kid": with_key.kid}, claims, with_key)
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        return await room.token(code.form(client_assertion=sent, client_assertion_type=kind))

    assert (await redeem(key)).status_code == 200
    assert (await redeem(key)).status_code == 200
    assert site.count(site.address("keys.json")) == 1
    site.documents["keys.json"] = JSONResponse({"keys": [next_key.as_dict(private=False)]})
    assert error_of(await redeem(next_key)) == "invalid_client"  # the next fetch is only a minute later
    with room.clock_ahead(61):
        assert (await redeem(next_key)).status_code == 200
    code = await room.code(client_id)
    assert error_of(await room.token(code.form())) == "invalid_client"


async def test_policy_decides_whose_documents_count(tmp_path: Path, site: Site) -> None:
    address = site.publish()
    challenge = {"code_challenge": "A" * 43, "code_challenge_method": "S256"}
    query = {"response_type": "code", "client_id": address, "redirect_uri": REDIRECT} | challenge
    for mode, hosts, counts in (
        ("closed", [], False),
        ("allow_list", ["agent.example"], False),
        ("allow_list", ["127.0.0.1"], True),
    ):
        registration = {"mode": mode, "allowed_hosts": hosts}
        folder = tmp_path / secrets.token_hex(4)
        async with vault_with(folder, sandbox=SANDBOX, registration=registration) as (_, http):
            assert is_asked(await http.get("/authorize", params=query)) == counts


@pytest.mark.requirement("S-027")
async def test_fetching_is_throttled_per_address(tmp_path: Path, site: Site) -> None:
    registration = {"per_address_hourly": 3, "total_hourly": 100}
    async with vault_with(tmp_path / "data", sandbox=SANDBOX, registration=registration) as (_, http):
        challenge = {"code_challenge": "A" * 43, "code_challenge_method": "S256"}
        addresses = [site.publish() for _ in range(5)]
        answers = [
            await http.get(
                "/authorize",
                params={"response_type": "code", "client_id": address, "redirect_uri": REDIRECT} | challenge,
            )
            for address in addresses
        ]
        assert [is_asked(answer) for answer in answers] == [True] * 3 + [False] * 2
        assert [site.count(address) for address in addresses] == [1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("url", "counts"),
    [
        ("https://agent.example/client.json", True),
        ("https://agent.example:8443/a/b?c=d", True),
        ("https://agent.example", False),
        ("https://agent.example/", False),
        ("https://agent.example/x", True),
        ("https://agent.example/../x", False),
        ("https://agent.example/x/.", False),
        ("https://agent.example/%2E%2e/x", False),
        ("https://user@agent.example/x", False),
        ("https:///x", False),
        ("https://:443/x", False),
        ("https://agent.example:0/x", False),
        ("https://agent.example:1/x", True),
        ("https://agent.example:65536/x", False),
        ("https://agent.example/x#f", False),
        ("http://agent.example/x", False),
        ("https://agent.example/x y", False),
        ("https://agent.example/" + "x" * 600, False),
        ("http://127.0.0.1:1/x", False),
    ],
)
def test_the_form_of_a_document_address(url: str, counts: bool) -> None:
    assert is_document_url(url, allow_loopback=False) == counts


@pytest.mark.parametrize(
    ("kind", "mode", "counts"),
    [(ClientKind.DYNAMIC, "closed", False), (ClientKind.DYNAMIC, "open", True), (ClientKind.MANUAL, "closed", True)],
)
async def test_a_strangers_key_address_counts_only_while_the_settings_allow_it(
    room: World, site: Site, kind: ClientKind, mode: str, *, counts: bool
) -> None:
    name = f"{secrets.token_hex(4)}.json"
    address, key = site.address(name), RSAKey.generate_key(2048)
    site.documents[name] = JSONResponse({"keys": [key.as_dict(private=False)]})
    client = Client("c", kind, "C", "private_key_jwt", (REDIRECT,), 0, metadata={"jwks_uri": address})
    settings = Settings.model_validate({"registration": {"mode": mode}, "sandbox": SANDBOX})
    deployment = replace(room.vault.deployment, settings=settings)
    found = await keys_of(deployment, client, kid=None, address="192.0.2.1", now=room.now())
    assert (bool(found), site.count(address)) == (counts, counts)


@pytest.mark.parametrize("metadata", [{}, {"jwks_uri": None}, {"jwks": None}], ids=str)
async def test_a_client_that_named_no_keys_has_none(room: World, metadata: dict[str, object]) -> None:
    client = Client("c", ClientKind.MANUAL, "C", "client_secret_post", (REDIRECT,), 0, metadata=metadata)
    assert await keys_of(room.vault.deployment, client, kid=None, address="192.0.2.1", now=room.now()) == ()


@pytest.mark.parametrize("kind", [ClientKind.MANUAL, ClientKind.METADATA])
async def test_an_address_names_no_client_that_an_operator_added(room: World, kind: ClientKind) -> None:
    client_id, metadata = f"https://agent.example/{kind}.json", {"fresh_until": room.now() + 60}
    async with room.vault.deployment.transaction() as transaction:
        await clients.save_client(
            transaction, Client(client_id, kind, "C", "none", (REDIRECT,), room.now(), metadata=metadata)
        )
    assert is_asked(await room.ask(client_id)) is (kind is ClientKind.METADATA)


async def test_simultaneous_first_requests_of_a_client_note_it_once(room: World, site: Site) -> None:
    client_id = site.publish()
    answers = await asyncio.gather(*(room.ask(client_id) for _ in range(3)))
    assert all(map(is_asked, answers))
    events = await read_events(room.vault.deployment, user_id=None)
    assert [one.kind for one in events if one.client_id == client_id] == ["client.registered"]
