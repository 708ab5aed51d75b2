"""OpenID Connect Core: ID token and UserInfo."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from tests.support.harness import PASSWORD
from tests.support.person import Person
from tests.support.rooms.oauth_world import WEB, Code, World, claims_of, pkce, query_of

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]


async def test_an_id_token_names_the_person_to_this_client(world: World) -> None:
    issued = await world.tokens(nonce="n-0S6_WzA2Mj")
    keys = KeySet.import_key_set((await world.http.get("/.well-known/jwks.json")).json())
    read = jwt.decode(issued["id_token"], keys, algorithms=["RS256"])
    claims = read.claims
    assert read.header["typ"] == "JWT"
    assert claims["iss"] == world.url
    assert claims["aud"] == claims["azp"] == issued["client_id"]
    assert claims["sub"] == claims_of(issued["access_token"])["sub"]
    assert claims["nonce"] == "n-0S6_WzA2Mj"
    assert claims["preferred_username"] == "alice"
    half = hashlib.sha256(issued["access_token"].encode()).digest()[:16]
    assert claims["at_hash"] == base64.urlsafe_b64encode(half).rstrip(b"=").decode()
    assert claims["exp"] > claims["iat"]


async def test_without_openid_there_is_no_id_token_and_no_userinfo(world: World) -> None:
    issued = await world.tokens(scope="tools")
    assert "id_token" not in issued
    assert await world.probe(issued["access_token"]) == 403


async def test_a_refresh_brings_an_id_token_without_the_old_nonce(world: World) -> None:
    issued = await world.tokens(nonce="once")
    again = (await world.refresh(issued["client_id"], issued["refresh_token"])).json()
    claims = claims_of(again["id_token"])
    assert "nonce" not in claims
    assert claims["sub"] == claims_of(issued["id_token"])["sub"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_userinfo_tells_who_the_person_is(world: World, method: str) -> None:
    issued = await world.tokens()
    answer = await world.http.request(
        method, "/userinfo", headers={"Authorization": f"Bearer {issued['access_token']}"}
    )
    assert answer.json() == {"sub": claims_of(issued["id_token"])["sub"], "preferred_username": "alice"}
    assert answer.headers["cache-control"] == "no-store"


async def test_userinfo_says_what_a_request_lacks_and_no_error_without_a_token(world: World) -> None:  # RFC 6750 §3
    narrow = (await world.tokens(scope="tools"))["access_token"]
    for token, expected in ((None, ""), ("wrong", "invalid_token"), (narrow, "insufficient_scope")):
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        answer = await world.http.get("/userinfo", headers=headers)
        told = f'error="{expected}", ' if expected else ""
        assert answer.headers["www-authenticate"] == f'Bearer {told}scope="openid"'
        assert answer.json() == {"error": expected or "unauthorized"}


# How fresh a sign-in is (§3.1.2.1, §15.1)


@asynccontextmanager
async def signed_in(world: World) -> AsyncGenerator[Person]:
    """A separate browser in which alice signs in now."""
    async with world.vault.person() as person:
        assert (await person.sign_in("alice", PASSWORD)).status_code == 200
        yield person


def is_sign_in(page: httpx2.Response) -> bool:
    return page.status_code == 200 and page.url.path == "/sign-in"


async def redeem_id_token(world: World, client_id: str, answer: httpx2.Response, verifier: str) -> dict[str, object]:
    """The claims of the ID token that an authorization response leads to."""
    assert answer.status_code == 303, f"{answer.status_code} at {answer.url}"
    redirect_uri, _, query = answer.headers["location"].partition("?")
    code = Code(client_id, query_of(f"?{query}")["code"], verifier, redirect_uri)
    return claims_of((await world.token(code.form())).json()["id_token"])


async def test_the_id_token_says_when_the_person_signed_in_and_a_refresh_does_not_say_it_anew(world: World) -> None:
    client_id = await world.public_client()
    verifier, challenge = pkce()
    started = world.now()
    async with signed_in(world) as person:
        with world.clock_ahead(100):
            page = await person.open(world.authorize_url(client_id, challenge))
            answer = await person.submit(page, form="/consent", button=("decision", "allow"))
            code = Code(client_id, query_of(answer.headers["location"])["code"], verifier)
            issued = (await world.token(code.form())).json()
            again = (await world.refresh(client_id, issued["refresh_token"])).json()
    auth_time = claims_of(issued["id_token"])["auth_time"]
    assert isinstance(auth_time, int)
    assert started <= auth_time < started + 50
    assert "auth_time" not in claims_of(again["id_token"])


@pytest.mark.parametrize("asked", [{"max_age": "60"}, {"max_age": "0"}, {"prompt": "login"}])
async def test_a_client_that_wants_a_fresh_sign_in_gets_one_before_the_consent_page(
    world: World, asked: dict[str, str]
) -> None:
    client_id = await world.public_client()
    verifier, challenge = pkce()
    async with signed_in(world) as person:
        with world.clock_ahead(100):
            page = await person.open(world.authorize_url(client_id, challenge, **asked))
            assert is_sign_in(page)
            assert "and asks you to sign in again. Sign in, then decide." in page.text
            assert is_sign_in(await person.open(str(page.url))), "being signed in is no way around it"
            wrong = await person.sign_in("alice", "not the password of alice", page=page)
            assert (wrong.status_code, wrong.url.path) == (401, "/sign-in")
            page = await person.sign_in("alice", PASSWORD, page=page)
            assert page.url.path == "/consent"
            answer = await person.submit(page, form="/consent", button=("decision", "allow"))
            claims = await redeem_id_token(world, client_id, answer, verifier)
            assert isinstance(claims["auth_time"], int)
            assert world.now() - claims["auth_time"] < 50


@pytest.mark.parametrize("asked", [{"max_age": "200"}, {}])
async def test_a_sign_in_that_is_fresh_enough_is_not_repeated(world: World, asked: dict[str, str]) -> None:
    client_id = await world.public_client()
    async with signed_in(world) as person:
        with world.clock_ahead(100):
            page = await person.open(world.authorize_url(client_id, "A" * 43, **asked))
            assert page.url.path == "/consent"
            with world.clock_ahead(150):  # a person who takes long to decide isn't sent away again
                answer = await person.submit(page, form="/consent", button=("decision", "allow"))
        assert "code" in query_of(answer.headers["location"])


async def test_the_session_that_was_not_fresh_cannot_answer_the_request(world: World) -> None:
    client_id, other = await world.public_client(), await world.public_client()
    async with signed_in(world) as person, signed_in(world) as elsewhere:
        sent = await person.http.get(world.authorize_url(client_id, "A" * 43, prompt="login"))
        handle = query_of(sent.headers["location"])["request"]
        page = await person.open(world.authorize_url(other, "A" * 43))
        for changes in ({"request": handle}, {}):  # the twin answers the other request with the same form
            answer = await person.submit(page, {**changes}, form="/consent", button=("decision", "allow"))
            assert is_sign_in(answer) == bool(changes)
        with world.clock_ahead(5):
            late = await elsewhere.http.get(world.authorize_url(client_id, "A" * 43, prompt="login"))
            # a sign-in from before the request doesn't count either, in any browser
            assert is_sign_in(await person.open(late.headers["location"]))


async def test_a_fresh_sign_in_leads_on_to_what_was_allowed_before(world: World) -> None:
    client_id = await world.public_client(redirect_uris=[WEB])
    async with signed_in(world) as person:
        for round_ in range(2):
            verifier, challenge = pkce()
            page = await person.open(world.authorize_url(client_id, challenge, prompt="login", redirect_uri=WEB))
            assert is_sign_in(page)
            answer = await person.sign_in("alice", PASSWORD, page=page)
            assert (answer.status_code == 200) == (round_ == 0), "consent is asked once"
            if answer.status_code == 200:
                answer = await person.submit(answer, form="/consent", button=("decision", "allow"))
            assert "auth_time" in await redeem_id_token(world, client_id, answer, verifier)
        page = await person.open(world.authorize_url(client_id, "A" * 43, prompt="login consent", redirect_uri=WEB))
        page = await person.sign_in("alice", PASSWORD, page=page)
        assert page.url.path == "/consent", "prompt=consent asks although it was allowed"


async def test_no_page_is_shown_to_a_client_that_wants_none(world: World) -> None:
    issued = await world.tokens(await world.public_client(redirect_uris=[WEB]), redirect_uri=WEB)
    async with signed_in(world) as person:
        for age, outcome in (("60", "error"), ("200", "code")):
            with world.clock_ahead(100):
                wanted = {"prompt": "none", "max_age": age, "redirect_uri": WEB}
                url = world.authorize_url(issued["client_id"], "A" * 43, **wanted)
                query = query_of((await person.http.get(url)).headers["location"])
            assert outcome in query
            assert query.get("error") in {None, "login_required"}


@pytest.mark.parametrize("max_age", ["-1", "1.5", "soon", "+5", "\u0665", "9" * 11])
async def test_an_age_that_is_no_number_of_seconds_is_refused(world: World, max_age: str) -> None:
    answer = await world.ask(await world.public_client(), max_age=max_age)
    assert query_of(answer.headers["location"])["error"] == "invalid_request"
