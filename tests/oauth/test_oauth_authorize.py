"""The authorization endpoint: OAuth 2.1 §4.1, RFC 7636, RFC 8252, RFC 8707, RFC 9207 and consent."""

from __future__ import annotations

import secrets
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from server.oauth import authorize
from server.oauth.authorization_request import stored_request
from server.oauth.redirect_uris import without_loopback_port
from tests.support.doubles.canary import running_canary
from tests.support.harness import PASSWORD
from tests.support.inspection import read_events, session_of
from tests.support.rooms.oauth_world import REDIRECT, WEB, World, pkce, query_of, vault_with
from vault import clients, grants, users
from vault.records import Client, ClientKind
from vault.refusals import TransitionRefused

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]


def redirected_error(answer: httpx2.Response, world: World, *, state: str | None = None) -> str:
    """The error code that reached the client at its redirect URI; also checks the URI's form."""
    assert answer.status_code == 303, answer.text[:300]
    location = answer.headers["location"]
    assert location.startswith(REDIRECT + "?")
    told = query_of(location)
    assert told["iss"] == world.url
    assert "code" not in told
    if state is not None:
        assert told["state"] == state
    return told["error"]


def assert_page(answer: httpx2.Response) -> None:
    """Assert an error page that leads the browser nowhere else."""
    assert 400 <= answer.status_code < 500
    assert "location" not in answer.headers
    assert "refresh" not in answer.headers
    assert "http-equiv" not in answer.text.lower()
    assert answer.headers["content-type"].startswith("text/html")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.requirement("S-040")
@pytest.mark.parametrize("method", ["none", "client_secret_basic"])
@pytest.mark.parametrize(
    "challenge", [None, "", "short", "A" * 42, "A" * 44, "A" * 42 + "+", "A" * 42 + "=", "A" * 128]
)
async def test_no_code_without_a_challenge(world: World, method: str, challenge: str | None) -> None:
    client_id = await world.public_client(token_endpoint_auth_method=method)
    answer = await world.ask(client_id, code_challenge=challenge, state="s")
    assert redirected_error(answer, world, state="s") == "invalid_request"
    assert (await world.ask(client_id)).headers["location"].startswith("/consent")


@pytest.mark.requirement("S-041")
@pytest.mark.parametrize("method", ["plain", None, "", "s256", "S512", "none", "S256 plain"])
async def test_no_challenge_method_but_s256(world: World, method: str | None) -> None:
    client_id = await world.public_client()
    assert redirected_error(await world.ask(client_id, code_challenge_method=method), world) == "invalid_request"


MUTATIONS = [
    "https://client.example/cb/",
    "https://client.example/CB",
    "https://client.example/cb?",
    "https://client.example/cb?a=1",
    "https://client.example/cb#f",
    "https://client.example/cb%2F",
    "https://client.example/c%62",
    "https://client.example//cb",
    "https://client.example/./cb",
    "https://client.example/x/../cb",
    "https://client.example/cb/..",
    "https://client.example/cb;x",
    "https://client.example/cb.evil",
    "https://client.example:443/cb",
    "https://client.example:8443/cb",
    "https://CLIENT.example/cb",
    "https://client.example./cb",
    "https://client.example.evil.example/cb",
    "https://evil.client.example/cb",
    "https://evil.example/cb",
    "https://user@client.example/cb",
    "https://client.example@evil.example/cb",
    "https://client.example\\@evil.example/cb",
    "https://evil.example/https://client.example/cb",
    "http://client.example/cb",
    "HTTPS://client.example/cb",
    "//client.example/cb",
    "/cb",
    "javascript:alert(1)",
    " https://client.example/cb",
    "https://client.example/cb ",
    "https://client.example/cb\n",
    "https://client.example/cb\thttps://evil.example",
    "https://client.example",
]


@pytest.mark.requirement("S-042", "S-044")
@pytest.mark.parametrize("asked", MUTATIONS)
async def test_a_redirect_that_is_not_exactly_registered_is_never_followed(world: World, asked: str) -> None:
    registered = "https://client.example/cb"
    client_id = await world.public_client(redirect_uris=[registered])
    assert_page(await world.ask(client_id, redirect_uri=asked))
    honest = await world.ask(client_id, redirect_uri=registered)
    assert honest.headers["location"].startswith("/consent")


@pytest.mark.requirement("S-043")
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_on_loopback_the_port_is_free_and_nothing_else(world: World, host: str) -> None:
    client_id = await world.public_client(redirect_uris=[f"http://{host}:1234/cb"])
    for port in ("", ":1", ":1234", ":65535"):
        answer = await world.ask(client_id, redirect_uri=f"http://{host}{port}/cb")
        assert answer.headers["location"].startswith("/consent")
    others = {"127.0.0.1", "[::1]", "localhost"} - {host}
    wrong = [f"http://{other}:1234/cb" for other in (*others, "127.0.0.2", f"{host}.evil.example", "evil.example")]
    wrong += [f"http://{host}:{port}/cb" for port in ("0", "65536", "99999", "x", "12@evil.example")]
    wrong += [
        f"https://{host}:1234/cb",
        f"http://{host}:1234/cb/",
        f"http://{host}:1234/cb?x=1",
        f"http://{host}:1234/",
    ]
    for asked in wrong:
        assert_page(await world.ask(client_id, redirect_uri=asked))


async def test_the_port_that_was_asked_gets_the_answer(world: World) -> None:
    verifier, challenge = pkce()
    client_id = await world.public_client()
    asked = "http://127.0.0.1:50123/callback"
    page = await world.alice.open(world.authorize_url(client_id, challenge, redirect_uri=asked))
    answer = await world.alice.submit(page, form="/consent", button=("decision", "allow"))
    assert answer.headers["location"].startswith(asked + "?")
    form = {
        "grant_type": "authorization_code",
        "client_id": client_id,
        "code": query_of(answer.headers["location"])["code"],
    }
    wrong = await world.token(form | {"code_verifier": verifier, "redirect_uri": REDIRECT})
    assert wrong.json()["error"] == "invalid_grant"
    assert (await world.token(form | {"code_verifier": verifier, "redirect_uri": asked})).status_code == 200


async def test_an_installed_app_gets_its_answer_at_its_own_scheme(world: World) -> None:
    cursor = "cursor://anysphere.cursor-mcp/oauth/callback"
    client_id = await world.public_client(redirect_uris=[cursor, "http://localhost:8787/callback"])
    page = await world.alice.open(world.authorize_url(client_id, "A" * 43, redirect_uri=cursor))
    assert "cursor:" in page.text
    assert "cursor:" in page.headers["content-security-policy"]
    answer = await world.alice.submit(page, form="/consent", button=("decision", "allow"))
    assert answer.headers["location"].startswith(cursor + "?code=")


@pytest.mark.requirement("S-044")
async def test_unknown_clients_and_missing_redirects_get_a_page(world: World) -> None:
    one, two = await world.public_client(), await world.public_client(redirect_uris=[REDIRECT, "https://a.example/cb"])
    for answer in (
        await world.ask("nobody"),
        await world.ask("nobody", redirect_uri="https://evil.example/"),
        await world.ask(""),
        await world.ask("x" * 5000),
        await world.ask(one, redirect_uri=None),  # the port on loopback can't be guessed
        await world.ask(two, redirect_uri=None),
        await world.ask(one, redirect_uri="https://evil.example/", response_type="token"),
        await world.alice.http.get("/authorize"),
        await world.alice.http.get("/authorize?client_id=%ff"),
        await world.alice.http.get(world.authorize_url(one, "A" * 43) + "&redirect_uri=https://evil.example/"),
        await world.alice.http.get(world.authorize_url(one, "A" * 43) + "&client_id=nobody"),
    ):
        assert_page(answer)


async def test_a_single_web_redirect_may_be_left_out(world: World) -> None:
    client_id = await world.public_client(redirect_uris=["https://client.example/cb"])
    verifier, challenge = pkce()
    told = await world.allow_request(client_id, challenge, redirect_uri=None)
    form = {"grant_type": "authorization_code", "client_id": client_id, "code": told["code"], "code_verifier": verifier}
    assert (await world.token(form | {"redirect_uri": "https://evil.example/"})).status_code == 400
    assert (await world.token(form)).status_code == 200


@pytest.mark.requirement("S-045")
@pytest.mark.parametrize(
    "name",
    ["response_type", "scope", "state", "code_challenge", "code_challenge_method", "resource", "nonce", "unknown"],
)
async def test_repeated_parameters_are_refused_in_both_orders(world: World, name: str) -> None:
    client_id = await world.public_client()
    url = world.authorize_url(client_id, "A" * 43, nonce="n", unknown="u")
    path, query = url.split("?")
    for repeated in (f"{path}?{name}=other&{query}", f"{url}&{name}=other", f"{url}&{name}="):
        answer = await world.alice.http.get(repeated)
        assert redirected_error(answer, world) == ("invalid_target" if name == "resource" else "invalid_request")


@pytest.mark.requirement("S-046")
@pytest.mark.parametrize(
    "resource",
    ["https://other.example/mcp", "{}/mcp/evil", "{}.evil.example/mcp", "{}/mcp#f", "{}/mcp?a=1", "mcp", "{}/", "{}"],
)
async def test_only_known_resources_are_tokens_made_for(world: World, resource: str) -> None:
    client_id = await world.public_client()
    answer = await world.ask(client_id, resource=resource.format(world.url))
    if resource in {"{}", "{}/"}:  # the twin: our origin in either spelling
        assert answer.headers["location"].startswith("/consent")
    else:
        assert redirected_error(answer, world) == "invalid_target"


@pytest.mark.requirement("S-047")
async def test_unknown_and_privileged_scopes_are_dropped_and_the_answer_says_so(world: World) -> None:
    issued = await world.tokens(scope="tools admin exchange openid slack:write")
    assert issued["scope"] == "openid tools"
    for scope in ("admin", "exchange", "TOOLS", "*"):
        answer = await world.ask(await world.public_client(), scope=scope)
        assert redirected_error(answer, world) == "invalid_scope"
    assert (await world.tokens(scope=None))["scope"] == "connections tools"


@pytest.mark.requirement("S-048")
async def test_request_objects_are_refused_and_never_fetched(world: World) -> None:
    async with running_canary() as canary:
        client_id = await world.public_client()
        answer = await world.ask(client_id, request="eyJhbGciOiJub25lIn0.e30.")
        assert redirected_error(answer, world) == "request_not_supported"
        answer = await world.ask(client_id, request_uri=f"{canary.url}/r")
        assert redirected_error(answer, world) == "request_uri_not_supported"
    assert canary.arrivals == 0


@pytest.mark.requirement("S-049")
async def test_consent_is_remembered_for_exactly_what_was_agreed(world: World) -> None:
    both = [WEB, "https://client.example/cb"]
    client_id = await world.public_client(redirect_uris=both)

    async def is_asked(**changes: str | None) -> bool:
        asked = str(changes.pop("client_id", client_id))
        answer = await world.ask(asked, "A" * 43, **({"redirect_uri": WEB} | changes))
        location = answer.headers["location"]
        assert location.startswith("/consent") or "code=" in location
        return location.startswith("/consent")

    assert await is_asked()
    await world.tokens(client_id, scope="tools openid", redirect_uri=WEB)
    assert not await is_asked(scope="tools openid")
    assert not await is_asked(scope="tools")
    assert await is_asked(scope="tools connections")
    assert await is_asked(scope="tools", redirect_uri="https://client.example/cb")
    assert await is_asked(scope="tools", resource=f"{world.url}/sse")
    assert await is_asked(scope="tools", prompt="consent")
    assert await is_asked(scope="tools", client_id=await world.public_client(redirect_uris=both))
    url = world.authorize_url(client_id, "A" * 43, scope="tools", redirect_uri=WEB)
    async with world.vault.person() as bob:
        await world.vault.add_user("bob")
        await bob.sign_in("bob", PASSWORD)
        answer = await bob.http.get(url)
        assert answer.headers["location"].startswith("/consent")
    async with world.vault.person() as anonymous:
        answer = await anonymous.http.get(url)
        assert answer.headers["location"].startswith("/consent")
        page = await anonymous.open(answer.headers["location"])
        assert "/sign-in" in str(page.url)


@pytest.mark.requirement("S-049")
async def test_who_signs_in_for_a_request_is_not_asked_again_what_was_agreed(world: World) -> None:
    client_id = await world.public_client(redirect_uris=[WEB])
    await world.tokens(client_id, scope="tools openid", redirect_uri=WEB)

    async def is_asked(name: str = "alice", **changes: str | None) -> bool:
        wanted = {"scope": "tools", "redirect_uri": WEB} | changes
        async with world.vault.person() as newcomer:
            page = await newcomer.open(world.authorize_url(client_id, "A" * 43, **wanted))
            assert page.url.path == "/sign-in"
            answer = await newcomer.sign_in(name, PASSWORD, page=page)
            assert answer.url.path == "/consent"
            assert (answer.status_code == 200) or "code" in query_of(answer.headers["location"])
            return answer.status_code == 200

    assert not await is_asked()
    assert await is_asked(scope="tools connections")
    assert await is_asked(resource=f"{world.url}/sse")
    assert await is_asked(prompt="consent")
    assert await is_asked(prompt="select_account")
    await world.vault.add_user("carla")
    assert await is_asked("carla")
    async with world.vault.deployment.transaction() as transaction:
        await grants.revoke_all_client_grants(transaction, client_id, reason="test", now=world.now())
    assert await is_asked()


async def test_requests_that_wait_for_a_sign_in_are_bounded_per_address(tmp_path: Path) -> None:
    """Each one is stored; someone without an account must neither fill the store nor lock out people with one."""
    few = {"waiting_requests_per_address": 3}
    async with vault_with(tmp_path / "data", sign_in=few) as (vault, http), vault.person() as alice:
        world = World(vault, alice, http)
        url = world.authorize_url(await world.public_client(), "A" * 43)
        for _ in range(3):
            assert (await http.get(url)).headers["location"].startswith("/consent")
        for _ in range(2):
            refusal = await http.get(url)
            assert refusal.status_code == 429
            assert refusal.headers["retry-after"] == "600"
            assert "Too many agents are waiting" in refusal.text
            assert "location" not in refusal.headers
        silent = await http.get(f"{url}&prompt=none")
        assert redirected_error(silent, world) == "login_required", "nothing is kept, so nothing is counted"
        await alice.sign_in("alice", PASSWORD)
        assert (await alice.http.get(url)).headers["location"].startswith("/consent")
        with world.clock_ahead(1200):
            assert (await http.get(url)).headers["location"].startswith("/consent")


@pytest.mark.requirement("S-049")
async def test_a_revoked_grant_is_no_consent(world: World) -> None:
    issued = await world.tokens(await world.public_client(redirect_uris=[WEB]), redirect_uri=WEB)
    assert "code=" in (await world.ask(issued["client_id"], redirect_uri=WEB)).headers["location"]
    await world.http.post("/revoke", data={"client_id": issued["client_id"], "token": issued["refresh_token"]})
    assert (await world.ask(issued["client_id"], redirect_uri=WEB)).headers["location"].startswith("/consent")


@pytest.mark.requirement("S-062")
@pytest.mark.parametrize("kind", [ClientKind.MANUAL, ClientKind.DYNAMIC, ClientKind.METADATA])
@pytest.mark.parametrize(
    ("redirect_uri", "asked", "method", "is_asked"),
    [
        (REDIRECT, REDIRECT, "none", True),
        (REDIRECT, "http://127.0.0.1:999/callback", "none", True),  # the port of another program
        ("cursor://callback", "cursor://callback", "none", True),
        (WEB, WEB, "none", False),
        (REDIRECT, "http://127.0.0.1:999/callback", "client_secret_post", False),  # no use without the secret
    ],
)
async def test_a_client_that_any_local_program_can_claim_to_be_is_asked_about_each_time(
    world: World, kind: ClientKind, redirect_uri: str, asked: str, method: str, is_asked: bool
) -> None:
    """RFC 8252 §8.6: whoever knows the ID of a public client could fetch a code silently, at its own port.

    An ID that was made for one installation is known only to that installation.
    """
    client = Client(
        id=f"https://client.example/{secrets.token_hex(8)}" if kind is ClientKind.METADATA else secrets.token_hex(8),
        kind=kind,
        name="An installed app",
        auth_method=method,
        redirect_uris=(redirect_uri,),
        created_at=world.now(),
        metadata={"fresh_until": world.now() + 1000},
    )
    alice = await users.find_user(world.vault.deployment.database, "alice")
    assert alice is not None
    is_asked = is_asked and kind is not ClientKind.DYNAMIC
    async with world.vault.deployment.transaction() as transaction:
        await clients.save_client(transaction, client)
        await grants.create_grant(
            transaction,
            user_id=alice.id,
            client_id=client.id,
            scopes=frozenset({"tools", "openid"}),
            resource=f"{world.url}/mcp",
            redirect_uri=without_loopback_port(redirect_uri),
            now=world.now(),
        )
    answer = await world.ask(client.id, scope="tools", redirect_uri=asked)
    assert answer.headers["location"].startswith("/consent") == is_asked
    silent = query_of(
        (await world.ask(client.id, scope="tools", redirect_uri=asked, prompt="none")).headers["location"]
    )
    assert (silent.get("error") == "consent_required") == is_asked
    assert ("code" in silent) != is_asked


async def test_prompt_none_answers_without_a_page(world: World) -> None:
    client_id = await world.public_client()
    assert redirected_error(await world.ask(client_id, prompt="none"), world) == "consent_required"
    async with world.vault.person() as anonymous:
        answer = await anonymous.http.get(world.authorize_url(client_id, "A" * 43, prompt="none"))
        assert redirected_error(answer, world) == "login_required"
    web = await world.public_client(redirect_uris=[WEB])
    await world.tokens(web, redirect_uri=WEB)
    assert "code=" in (await world.ask(web, prompt="none", redirect_uri=WEB)).headers["location"]
    assert redirected_error(await world.ask(client_id, prompt="none login"), world) == "invalid_request"


@pytest.mark.requirement("S-051")
async def test_posted_fields_cannot_change_what_was_asked(world: World) -> None:
    client_id, other = await world.public_client(), await world.public_client()
    verifier, challenge = pkce()
    page = await world.alice.open(world.authorize_url(client_id, challenge, scope="tools", state="mine"))
    swapped: dict[str, str | list[str] | None] = {
        "scope": "tools connections openid",
        "redirect_uri": "https://evil.example/",
        "client_id": other,
        "user_id": "someone",
        "user": "bob",
        "state": "theirs",
        "code_challenge": "B" * 43,
        "code_challenge_method": "plain",
        "resource": "https://evil.example",
    }
    answer = await world.alice.submit(page, swapped, form="/consent", button=("decision", "allow"))
    told = query_of(answer.headers["location"])
    assert answer.headers["location"].startswith(REDIRECT + "?")
    assert told["state"] == "mine"
    form = {
        "grant_type": "authorization_code",
        "code": told["code"],
        "redirect_uri": REDIRECT,
        "code_verifier": verifier,
    }
    assert (await world.token(form | {"client_id": other})).json()["error"] == "invalid_grant"
    assert (await world.token(form | {"client_id": client_id})).json()["scope"] == "tools"


async def test_an_answered_request_cannot_be_answered_again(world: World) -> None:
    page = await world.alice.open(world.authorize_url(await world.public_client(), "A" * 43))
    first = await world.alice.submit(page, form="/consent", button=("decision", "deny"))
    assert query_of(first.headers["location"])["error"] == "access_denied"
    second = await world.alice.submit(page, form="/consent", button=("decision", "allow"))
    assert second.status_code == 410
    assert "location" not in second.headers


async def test_a_request_ends_when_its_agent_loses_the_redirect_uri(world: World) -> None:
    client = await world.register()
    page = await world.alice.open(world.authorize_url(str(client["client_id"]), "A" * 43))
    await world.http.put(
        f"/register/{client['client_id']}",
        headers={"Authorization": f"Bearer {client['registration_access_token']}"},
        json={"redirect_uris": ["https://elsewhere.example/cb"]},
    )
    late = await world.alice.submit(page, form="/consent", button=("decision", "allow"))
    assert late.status_code == 410
    assert "location" not in late.headers


async def test_allowing_nothing_is_not_allowing(world: World) -> None:
    deployment = world.vault.deployment
    answer = await world.ask(await world.public_client(), scope="tools")
    handle = query_of(answer.headers["location"])["request"]
    alice = await users.find_user(deployment.database, "alice")
    assert alice is not None
    session = await session_of(deployment, world.alice)
    for scopes in (frozenset[str](), frozenset({"openid"})):
        with pytest.raises(TransitionRefused):
            await authorize.approve(deployment, handle, user=alice, session=session, scopes=scopes)
    assert await authorize.load_pending(deployment, handle) is not None
    url = await authorize.approve(deployment, handle, user=alice, session=session, scopes=frozenset({"tools"}))
    assert "code=" in url


@pytest.mark.parametrize(
    ("kind", "redirect_uri", "words"),
    [
        (ClientKind.MANUAL, WEB, ""),
        (ClientKind.DYNAMIC, REDIRECT, "registered itself"),
        (ClientKind.METADATA, REDIRECT, "Any program on this computer"),
        (ClientKind.MANUAL, "cursor://callback", "app installed on this computer"),
    ],
)
async def test_a_person_is_warned_of_what_nobody_verified(
    world: World, kind: ClientKind, redirect_uri: str, words: str
) -> None:
    deployment, now = world.vault.deployment, world.now()
    client_id = ("https://agent.example/" if kind is ClientKind.METADATA else "") + secrets.token_hex(8)
    client = Client(client_id, kind, "Agent", "none", (redirect_uri,), now, metadata={"fresh_until": now + 3600})
    async with deployment.transaction() as transaction:
        await clients.save_client(transaction, client)
    answer = await world.ask(client_id, redirect_uri=redirect_uri)
    pending = await authorize.load_pending(deployment, query_of(answer.headers["location"])["request"])
    assert pending is not None
    assert (len(pending.warnings), words in "".join(pending.warnings)) == (bool(words), True)


async def test_a_client_without_the_code_grant_gets_no_code(world: World) -> None:
    machine = Client(
        id="machine",
        kind=ClientKind.MANUAL,
        name="Machine",
        auth_method="client_secret_basic",
        redirect_uris=(REDIRECT,),
        created_at=world.now(),
        grant_types=frozenset({"refresh_token"}),
    )
    async with world.vault.deployment.transaction() as transaction:
        await clients.save_client(transaction, machine)
    assert redirected_error(await world.ask("machine"), world) == "unauthorized_client"


def test_a_stored_request_that_cannot_be_read_is_a_refusal() -> None:
    with pytest.raises(TransitionRefused):
        stored_request({"client_id": "x"})


async def test_a_request_expires_after_ten_minutes(world: World) -> None:
    page = await world.alice.open(world.authorize_url(await world.public_client(), "A" * 43))
    with world.clock_ahead(601):
        late = await world.alice.submit(page, form="/consent", button=("decision", "allow"))
    assert late.status_code == 410


@pytest.mark.requirement("S-006")
async def test_the_issuer_is_named_in_success_and_error(world: World) -> None:
    client_id = await world.public_client()
    assert (await world.allow_request(client_id, "A" * 43))["iss"] == world.url
    page = await world.alice.open(world.authorize_url(client_id, "A" * 43, prompt="consent", state="s"))
    denied = await world.alice.submit(page, form="/consent", button=("decision", "deny"))
    assert redirected_error(denied, world, state="s") == "access_denied"


@pytest.mark.requirement("S-056")
@pytest.mark.parametrize(
    "state",
    [
        "plain",
        "a b&c=d#e?f/g%20h+i",
        "\r\nSet-Cookie: x=1\r\n\r\n<html>",
        '"><script>alert(1)</script>',
        "код=x&code=stolen&iss=https://evil.example",
        "=" * 50 + "%00%0d%0a",
        "x" * 4000,
    ],
)
async def test_state_comes_back_as_it_was_and_injects_nothing(world: World, state: str) -> None:
    client_id = await world.public_client()
    for told in (
        await world.allow_request(client_id, "A" * 43, state=state),
        query_of((await world.ask(client_id, state=state, code_challenge=None)).headers["location"]),
    ):
        assert told["state"] == state
        assert told["iss"] == world.url
        assert told.keys() <= {"state", "iss", "code", "error", "error_description"}
    assert redirected_error(await world.ask(client_id, state="x" * 5000), world) == "invalid_request"


@pytest.mark.requirement("S-054")
async def test_after_a_form_the_browser_fetches_with_get(world: World) -> None:
    page = await world.alice.open(world.authorize_url(await world.public_client(), "A" * 43))
    assert (await world.alice.submit(page, form="/consent", button=("decision", "allow"))).status_code == 303


@pytest.mark.requirement("S-059")
@pytest.mark.parametrize("mode", ["fragment", "form_post", "web_message", "query.jwt", "jwt"])
async def test_no_response_mode_but_query(world: World, mode: str) -> None:
    client_id = await world.public_client()
    assert redirected_error(await world.ask(client_id, response_mode=mode), world) == "invalid_request"
    assert (await world.ask(client_id, response_mode="query")).headers["location"].startswith("/consent")


@pytest.mark.requirement("S-077")
async def test_the_authorization_endpoint_has_no_cors_at_all(world: World) -> None:
    client_id = await world.public_client()
    asked = await world.ask(client_id)
    preflight = await world.http.options("/authorize", headers={"Access-Control-Request-Method": "GET"})
    for answer in (asked, preflight):
        assert not any(name.startswith("access-control-") for name in answer.headers)
    foreign = await world.http.get(world.authorize_url(client_id, "A" * 43), headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in foreign.headers


async def test_both_spellings_and_both_methods_work(world: World) -> None:
    client_id = await world.public_client()
    path, query = world.authorize_url(client_id, "A" * 43).split("?")
    assert (await world.alice.http.get(f"{path}/?{query}")).headers["location"].startswith("/consent")
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": world.url}
    posted = await world.alice.http.post(path, content=query, headers=headers)
    assert posted.headers["location"].startswith("/consent")
    assert posted.headers["cache-control"] == "no-store"


async def test_error_pages_reflect_nothing(world: World) -> None:
    mark = "zq<script>zq"
    answer = await world.alice.http.get("/authorize", params={"client_id": mark, "redirect_uri": mark, "state": mark})
    assert_page(answer)
    assert "zq" not in answer.text


async def test_consent_is_an_event_without_a_secret(world: World) -> None:
    issued = await world.tokens()
    events = await read_events(world.vault.deployment, newest_first=True, limit=20)
    mine = {event.kind: event for event in events if event.client_id == issued["client_id"]}
    assert {"client.registered", "consent.given", "grant.created"} <= mine.keys()
    consent = mine["consent.given"]
    assert (consent.outcome, consent.details["redirect_host"]) == ("ok", urlsplit(REDIRECT).hostname)
    assert "method" not in consent.details
    assert all(issued[name] not in repr(events) for name in ("access_token", "refresh_token", "id_token"))
