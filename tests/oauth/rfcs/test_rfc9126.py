"""RFC 9126: requests that clients push ahead, checked as at /authorize, valid for one minute and one use."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest

from server.oauth import pushed_requests
from server.oauth.parameters import Parameters
from server.oauth.rules import OAuthError
from tests.oauth.rfcs.test_rfc9449 import KEY, OTHER, proof
from tests.support.harness import PASSWORD
from tests.support.rooms.oauth_world import REDIRECT, SCOPE, Code, World, error_of, pkce, query_of, vault_with

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]


def request_of(world: World, client_id: str, challenge: str, **changes: str | None) -> dict[str, str]:
    form: dict[str, str | None] = {
        "client_id": client_id,
        "response_type": "code",
        "redirect_uri": REDIRECT,
        "scope": SCOPE,
        "state": "a state",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "resource": f"{world.url}/mcp",
    }
    return {name: value for name, value in (form | changes).items() if value is not None}


async def push(world: World, form: dict[str, str], **options: object) -> httpx2.Response:
    return await world.http.post("/par", data=form, **options)


async def allow_pushed_request(world: World, client_id: str, request_uri: str, **more: str) -> dict[str, str]:
    """Alice allows the pushed request; the parameters that reach the client."""
    page = await world.alice.open(
        f"/authorize?client_id={client_id}&request_uri={request_uri}&"
        + "&".join(f"{name}={value}" for name, value in more.items())
    )
    if page.status_code == 200:
        page = await world.alice.submit(page, form="/consent", button=("decision", "allow"))
    assert page.status_code == 303, page.text[:300]
    return query_of(page.headers["location"])


async def test_of_simultaneous_uses_of_a_pushed_request_one_counts(world: World) -> None:
    client_id = await world.public_client()
    deployment = world.vault.deployment
    request_uri = (await push(world, request_of(world, client_id, "A" * 43))).json()["request_uri"]
    pushed = await pushed_requests.find(deployment, Parameters({"client_id": client_id, "request_uri": request_uri}))
    assert pushed is not None

    async def use_up() -> None:
        async with deployment.transaction() as transaction:
            await pushed_requests.use_up(deployment, transaction, pushed)

    answers = await asyncio.gather(*(use_up() for _ in range(4)), return_exceptions=True)
    assert [one.code for one in answers if isinstance(one, OAuthError)] == ["invalid_request_uri"] * 3
    late = await world.alice.http.get("/authorize", params={"client_id": client_id, "request_uri": request_uri})
    assert (late.status_code, "location" in late.headers) == (400, False)


async def test_only_one_browser_of_several_at_once_gets_to_the_consent(world: World) -> None:
    client_id = await world.public_client()
    request_uri = (await push(world, request_of(world, client_id, "A" * 43))).json()["request_uri"]
    sent = {"client_id": client_id, "request_uri": request_uri}
    answers = await asyncio.gather(*(world.alice.http.get("/authorize", params=sent) for _ in range(5)))
    places = [one.headers.get("location", "").partition("?")[0] for one in answers]
    assert (sorted(places), sorted(one.status_code for one in answers)) == ([""] * 4 + ["/consent"], [303, *[400] * 4])


async def test_a_start_that_is_refused_leaves_the_pushed_request_usable(tmp_path: Path) -> None:
    few = {"waiting_requests_per_address": 3}
    async with vault_with(tmp_path, sign_in=few) as (vault, http), vault.person() as alice:
        world = World(vault, alice, http)
        client_id = await world.public_client()
        pushed = [(await push(world, request_of(world, client_id, "A" * 43))).json()["request_uri"] for _ in range(2)]
        first, second = ({"client_id": client_id, "request_uri": one} for one in pushed)
        assert (await http.get("/authorize", params=first)).headers["location"].startswith("/consent")
        busy = await http.get("/authorize", params=second)
        assert (busy.status_code, busy.headers["retry-after"]) == (429, "600")
        await alice.sign_in("alice", PASSWORD)
        assert (await alice.http.get("/authorize", params=first)).status_code == 400, "this one was used"
        assert "code" in await allow_pushed_request(world, client_id, pushed[1])


async def test_a_silent_attempt_that_fails_leaves_the_pushed_request_usable(world: World) -> None:
    client_id = await world.public_client()
    silent = request_of(world, client_id, "A" * 43, prompt="none")
    request_uri = (await push(world, silent)).json()["request_uri"]
    sent = {"client_id": client_id, "request_uri": request_uri}
    for browser, code in ((world.http, "login_required"), (world.alice.http, "consent_required")):
        answer = await browser.get("/authorize", params=sent)
        assert query_of(answer.headers["location"])["error"] == code


@pytest.mark.requirement("S-058")
async def test_a_pushed_request_leads_to_a_code(world: World) -> None:
    client_id = await world.public_client()
    verifier, challenge = pkce()
    pushed = await push(world, request_of(world, client_id, challenge))
    assert pushed.status_code == 201, pushed.text
    assert pushed.headers["cache-control"] == "no-store"
    content = pushed.json()
    assert content.keys() == {"request_uri", "expires_in"}
    assert content["request_uri"].startswith("urn:ietf:params:oauth:request_uri:")
    assert content["expires_in"] == 60
    # parameters that the browser adds are ignored
    back = await allow_pushed_request(world, client_id, content["request_uri"], scope="openid", state="forged")
    assert back["state"] == "a state"
    answer = await world.token(Code(client_id, back["code"], verifier).form())
    assert answer.json()["scope"] == "connections openid tools"


@pytest.mark.requirement("S-058")
async def test_a_pushed_request_counts_once_and_for_a_minute(world: World) -> None:
    client_id = await world.public_client()
    first = (await push(world, request_of(world, client_id, "A" * 43))).json()["request_uri"]
    await allow_pushed_request(world, client_id, first)
    late = (await push(world, request_of(world, client_id, "A" * 43))).json()["request_uri"]
    for request_uri, seconds in ((first, 0), (late, 61)):
        with world.clock_ahead(seconds):
            page = await world.alice.http.get("/authorize", params={"client_id": client_id, "request_uri": request_uri})
        assert page.status_code == 400
        assert "location" not in page.headers
    good = (await push(world, request_of(world, client_id, "A" * 43))).json()["request_uri"]
    await allow_pushed_request(world, client_id, good)


@pytest.mark.requirement("S-058")
async def test_another_clients_pushed_request_is_refused_and_stays_good(world: World) -> None:
    client_id, other = await world.public_client(), await world.public_client()
    request_uri = (await push(world, request_of(world, client_id, "A" * 43))).json()["request_uri"]
    for named in ({"client_id": other}, {}, {"client_id": [client_id, client_id]}):
        page = await world.alice.http.get("/authorize", params={**named, "request_uri": request_uri})
        assert page.status_code == 400
    unknown = "urn:ietf:params:oauth:request_uri:" + "x" * 43
    page = await world.alice.http.get("/authorize", params={"client_id": client_id, "request_uri": unknown})
    assert page.status_code == 400
    await allow_pushed_request(world, client_id, request_uri)


@pytest.mark.requirement("S-040", "S-041", "S-042")
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"redirect_uri": "https://evil.example/"}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"scope": "admin"}, "invalid_scope"),
        ({"resource": "https://evil.example/"}, "invalid_target"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"max_age": "x"}, "invalid_request"),
        ({"request": "a.b.c"}, "request_not_supported"),
        ({"request_uri": "urn:ietf:params:oauth:request_uri:x"}, "invalid_request"),
        ({"request_uri": "https://evil.example/"}, "invalid_request"),
    ],
    ids=str,
)
async def test_what_could_not_be_authorized_is_not_kept(
    world: World, changes: dict[str, str | None], code: str
) -> None:
    client_id = await world.public_client()
    assert error_of(await push(world, request_of(world, client_id, "A" * 43, **changes))) == code
    assert (await push(world, request_of(world, client_id, "A" * 43))).status_code == 201


async def test_a_confidential_client_proves_who_it_is(world: World) -> None:
    client = await world.register(token_endpoint_auth_method="client_secret_post")
    client_id = str(client["client_id"])
    form = request_of(world, client_id, "A" * 43)
    for secret in (None, "wrong"):
        answer = await push(world, form | ({} if secret is None else {"client_secret": secret}))
        assert (answer.status_code, error_of(answer)) == (401, "invalid_client")
    answer = await push(world, form | {"client_secret": str(client["client_secret"])})
    assert answer.status_code == 201
    await allow_pushed_request(world, client_id, answer.json()["request_uri"])
    assert error_of(await world.http.get("/par")) == "invalid_request"


async def test_a_proof_binds_the_code_to_its_key(world: World) -> None:
    client_id = await world.public_client()
    verifier, challenge = pkce()
    form = request_of(world, client_id, challenge)
    headers = {"DPoP": proof(world, "POST", "/par")}
    pushed = await push(world, form, headers=headers)
    assert error_of(await push(world, form, headers=headers)) == "invalid_dpop_proof"  # a proof is valid only once
    other = {"DPoP": proof(world, "POST", "/par", key=OTHER)}
    mixed = await push(world, form | {"dpop_jkt": KEY.thumbprint()}, headers=other)
    assert error_of(mixed) == "invalid_dpop_proof"
    back = await allow_pushed_request(world, client_id, pushed.json()["request_uri"])
    code = Code(client_id, back["code"], verifier)
    wrong = await world.token(code.form(), headers={"DPoP": proof(world, "POST", "/token", key=OTHER)})
    assert error_of(wrong) == "invalid_grant"
    right = await world.token(code.form(), headers={"DPoP": proof(world, "POST", "/token")})
    assert right.json()["token_type"] == "DPoP"


async def test_a_client_can_register_that_its_requests_must_be_pushed(world: World) -> None:
    client = await world.register(require_pushed_authorization_requests=True)
    assert client["require_pushed_authorization_requests"] is True
    client_id = str(client["client_id"])
    refused = await world.ask(client_id)
    assert query_of(refused.headers["location"])["error"] == "invalid_request"
    request_uri = (await push(world, request_of(world, client_id, "A" * 43))).json()["request_uri"]
    assert "code" in await allow_pushed_request(world, client_id, request_uri)


async def test_an_operator_can_require_it_of_everybody(tmp_path: Path) -> None:
    for required in (True, False):
        async with (
            vault_with(tmp_path / str(required), tokens={"require_pushed": required}) as (vault, http),
            vault.person() as alice,
        ):
            await alice.sign_in("alice", PASSWORD)
            world = World(vault, alice, http)
            document = (await http.get("/.well-known/oauth-authorization-server")).json()
            assert document["require_pushed_authorization_requests"] is required
            assert document["pushed_authorization_request_endpoint"] == f"{world.url}/par"
            client_id = await world.public_client()
            direct = await world.ask(client_id)
            assert ("error=invalid_request" in direct.headers["location"]) is required
            pushed = (await push(world, request_of(world, client_id, "A" * 43))).json()["request_uri"]
            assert "code" in await allow_pushed_request(world, client_id, pushed)
