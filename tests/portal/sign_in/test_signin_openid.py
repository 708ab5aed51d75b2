"""Sign-in through an OpenID Connect provider: every check of OpenID Connect Core §3.1.3.7, each with what passes."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import Callable

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from server.openid_settings import OpenIDSettings
from tests.support.doubles.openid_double import CLIENT_ID, Claims, OpenIDDouble
from tests.support.person import Person, without_own_markup
from tests.support.rooms.oauth_world import claims_of, sign_jwt
from tests.support.rooms.openid_room import (
    begin,
    callback_of,
    provider,
    room,
    shared_openid_room,
    sign_in,
    user_of,
    whoami,
)
from tests.support.rooms.portal_room import Room, query_of, running_room

__all__ = ["provider", "room", "shared_openid_room"]  # fixtures


@pytest.mark.requirement("S-134")
async def test_a_person_signs_in_and_is_the_same_user_the_next_time(room: Room, provider: OpenIDDouble) -> None:
    provider.subject = "same-person"
    first, second = await room.browser(), await room.browser()
    page = await first.open("/sign-in?return_to=/activity")
    assert "Continue with Company sign-in" in page.text
    page = await sign_in(first)
    assert page.url.path == "/activity"
    provider.person = {"preferred_username": "renamed", "email": "renamed@example.com"}
    await sign_in(second)
    assert await whoami(first) == await whoami(second)
    user = await user_of(room, provider)
    assert user is not None
    assert not user.is_admin
    assert await room.kinds(user) == ["user.created", "session.started", "session.started"]


@pytest.mark.requirement("S-134")
async def test_the_request_carries_state_nonce_and_pkce_of_this_browser(room: Room, provider: OpenIDDouble) -> None:
    queries = [query_of(await begin(await room.browser())) for _ in range(2)]
    for query in queries:
        assert query["redirect_uri"] == f"{room.url}/sign-in/openid/company/callback"
        assert query["response_type"] == "code"
        assert query["client_id"] == CLIENT_ID
        assert query["code_challenge_method"] == "S256"
        assert query["scope"].split()[0] == "openid"
        assert all(len(query[name]) >= 43 for name in ("state", "nonce", "code_challenge"))
    for name in ("state", "nonce", "code_challenge"):
        assert queries[0][name] != queries[1][name]


async def test_who_must_sign_in_again_must_do_so_at_the_provider_too(room: Room, provider: OpenIDDouble) -> None:
    person, client = await room.browser(), await room.agent()
    await sign_in(person)
    provider.change_claims = _claim("auth_time", room.deployment.now())
    for prompt in ("login", "consent"):
        page = await person.open(room.authorize_path(client, prompt=prompt))
        if prompt == "login":
            link = page.text.partition('href="/sign-in/openid/company')[2].partition('"')[0]
            begun = await person.http.get("/sign-in/openid/company" + html.unescape(link))
            asked = query_of(begun.headers["location"])
            assert (asked["prompt"], asked["max_age"]) == ("login", "0")
            page = await person.open(await callback_of(begun.headers["location"]))
        assert page.url.path == "/consent"
        assert "Allow this agent?" in page.text
    assert not {"prompt", "max_age"} & query_of(await begin(await room.browser())).keys()


async def _begin_again(person: Person, return_to: str) -> str:
    """Our redirect to the provider for a person who must sign in again."""
    answer = await person.http.get("/sign-in/openid/company", params={"return_to": return_to, "again": "1"})
    return answer.headers["location"]


@pytest.mark.requirement("S-136")
@pytest.mark.parametrize(("age", "counts"), [(None, False), (1000, False), (0, True), (30, True)])
async def test_a_fresh_sign_in_is_one_that_the_provider_says_was_fresh(
    room: Room, provider: OpenIDDouble, age: int | None, counts: bool
) -> None:
    """Silent single sign-on does not satisfy `prompt=login`."""
    person, client = await room.browser(), await room.agent()
    await sign_in(person)
    page = await person.open(room.authorize_path(client, prompt="login"))
    assert page.url.path == "/sign-in"
    wanted = query_of(str(page.url))["return_to"]
    provider.change_claims = _claim("auth_time", None if age is None else room.deployment.now() - age)
    page = await person.open(await callback_of(await _begin_again(person, wanted)))
    assert (page.url.path == "/consent") == counts
    if not counts:
        assert page.status_code == 403
        assert "didn&#39;t ask you again" in page.text
        assert (await person.open(wanted)).url.path == "/sign-in"


@pytest.mark.requirement("S-136")
@pytest.mark.parametrize("age", [None, 40])
async def test_an_id_token_says_when_the_person_signed_in_only_where_that_is_known(
    room: Room, provider: OpenIDDouble, age: int | None
) -> None:
    known = None if age is None else room.deployment.now() - age
    provider.subject = f"somebody-{age}"
    provider.change_claims = _claim("auth_time", known)
    person = await room.browser()
    await sign_in(person)
    client_id = str((await room.vault.register())["client_id"])
    answer, verifier = await room.vault.authorize(person, client_id, scope="openid tools")
    claims = claims_of((await room.vault.redeem(client_id, answer["code"], verifier)).json()["id_token"])
    assert claims.get("auth_time") == known


async def test_a_new_session_does_not_make_an_old_sign_in_at_the_provider_fresh(
    room: Room, provider: OpenIDDouble
) -> None:
    """The provider knows the person already and asks nothing, although it was told to."""
    client = await room.agent()
    for age, is_fresh in ((1000, False), (5, True), (-1000, True), (None, False)):
        auth_time = None if age is None else room.deployment.now() - age
        provider.change_claims = _claim("auth_time", auth_time)
        person = await room.browser()
        await sign_in(person)
        page = await person.open(room.authorize_path(client, max_age="300"))
        assert (page.url.path == "/consent") == is_fresh, age
        assert (page.url.path == "/sign-in") != is_fresh, age
        if not is_fresh:
            page = await person.open(await callback_of(await begin(person)))
            page = await person.open(room.authorize_path(client, max_age="300"))
            assert page.url.path == "/sign-in", "not by asking the same provider again"
            provider.change_claims = _claim("auth_time", room.deployment.now())
            await sign_in(person)
            page = await person.open(room.authorize_path(client, max_age="300"))
            assert page.url.path == "/consent"


@pytest.mark.requirement("S-134")
async def test_the_same_name_or_address_is_not_the_same_person(room: Room, provider: OpenIDDouble) -> None:
    alice = await room.user("alice")
    provider.subject = "not-alice"
    provider.person = {"preferred_username": "alice", "email": "alice@example.com", "email_verified": True}
    person = await room.browser()
    await sign_in(person)
    found = await user_of(room, provider)
    assert found is not None
    assert found.id != alice.id
    assert found.name != "alice"
    assert (await whoami(person)).startswith("alice (")
    provider.subject = "not-alice-2"
    await sign_in(await room.browser())
    other = await user_of(room, provider)
    assert other is not None
    assert other.id not in {alice.id, found.id}


def _claim(name: str, value: object) -> Callable[[Claims], Claims]:
    return lambda claims: {**claims, name: value}


def _later(name: str, seconds: int) -> Callable[[Claims], Claims]:
    return lambda claims: {**claims, name: int(str(claims["iat"])) + seconds}


LIES: dict[str, Callable[[Claims], Claims]] = {
    "another issuer": _claim("iss", "https://evil.example"),
    "issuer with a slash": lambda claims: {**claims, "iss": f"{claims['iss']}/"},
    "no issuer": _claim("iss", None),
    "another audience": _claim("aud", "somebody-else"),
    "no audience": _claim("aud", None),
    "empty audience": _claim("aud", []),
    "several audiences without azp": _claim("aud", [CLIENT_ID, "somebody-else"]),
    "azp of another client": lambda claims: {**claims, "azp": "somebody-else"},
    "expired": _later("exp", -61),
    "no expiry": _claim("exp", None),
    "expiry as text": _claim("exp", "9999999999"),
    "issued in the future": _later("iat", 3600),
    "not valid yet": _later("nbf", 3600),
    "another nonce": _claim("nonce", "x" * 43),
    "no nonce": _claim("nonce", None),
    "no subject": _claim("sub", None),
    "empty subject": _claim("sub", ""),
    "subject as a number": _claim("sub", 7),
    "time of sign-in as a word": _claim("auth_time", "lately"),
    "time of sign-in before time": _claim("auth_time", -1),
}


@pytest.mark.requirement("S-134")
@pytest.mark.parametrize("lie", LIES)
async def test_an_id_token_with_a_wrong_claim_signs_nobody_in(room: Room, provider: OpenIDDouble, lie: str) -> None:
    provider.subject = f"claims {lie}"
    provider.change_claims = LIES[lie]
    person = await room.browser()
    page = await sign_in(person)
    assert page.status_code == 403
    assert "can&#39;t be trusted" in page.text
    assert (await person.http.get("/connections")).status_code == 303
    assert await user_of(room, provider) is None
    event = (await room.events())[-1]
    assert (event.kind, event.outcome) == ("session.refused", "refused")
    provider.change_claims = lambda claims: claims
    assert (await sign_in(person)).url.path == "/activity"


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": [CLIENT_ID]},
        {"aud": [CLIENT_ID, "api"], "azp": CLIENT_ID},
        {"azp": CLIENT_ID},
        {"nbf": 1},
        {"amr": ["pwd"], "auth_time": 5},
    ],
)
async def test_an_id_token_within_the_rules_signs_in(room: Room, provider: OpenIDDouble, claims: Claims) -> None:
    provider.change_claims = lambda given: {**given, **claims}
    assert (await sign_in(await room.browser())).url.path == "/activity"


@pytest.mark.requirement("S-134")
@pytest.mark.parametrize("forgery", ["none", "None", "NONE", "hmac", "other key", "stripped", "bent", "garbage"])
async def test_an_id_token_that_the_provider_did_not_sign_signs_nobody_in(
    room: Room, provider: OpenIDDouble, forgery: str
) -> None:
    provider.subject = f"forged {forgery}"
    other = RSAKey.generate_key(2048, {"kid": provider.key.kid or ""})

    def with_other_key(claims: Claims) -> str:
        own, provider.key = provider.key, other
        try:
            return provider.sign_claims(claims)
        finally:
            provider.key = own

    def bent(claims: Claims) -> str:
        head, body, signature = provider.sign_claims(claims).split(".")
        return f"{head}.{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"

    forgeries: dict[str, Callable[[Claims], str]] = {
        "hmac": provider.signed_with_hmac_of_the_public_key,
        "other key": with_other_key,
        "stripped": lambda claims: provider.sign_claims(claims).rpartition(".")[0] + ".",
        "bent": bent,
        "garbage": lambda claims: "a.b.c",
    }
    provider.sign = forgeries.get(forgery, lambda claims: provider.unsigned_token(claims, algorithm=forgery))
    person = await room.browser()
    assert (await sign_in(person)).status_code == 403
    assert await user_of(room, provider) is None
    provider.sign = None
    assert (await sign_in(person)).url.path == "/activity"


@pytest.mark.requirement("S-134")
@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("PS256", RSAKey.generate_key(2048, {"kid": "k"})),
        ("ES256", ECKey.generate_key("P-256", {"kid": "k"})),
        ("ES384", ECKey.generate_key("P-384", {"kid": "k"})),
        ("EdDSA", OKPKey.generate_key("Ed25519", {"kid": "k"})),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_new_key_of_the_provider_signs_people_in_whatever_its_kind(
    room: Room, provider: OpenIDDouble, algorithm: str, key: RSAKey | ECKey | OKPKey
) -> None:
    """Without a restart, ten seconds after the last fetch; from then on, signatures of the old key are refused."""
    assert (await sign_in(await room.browser())).url.path == "/activity"
    old, provider.key, provider.algorithm = provider.key, key, algorithm
    try:
        room.deployment.database.clock_offset += 10
        assert (await sign_in(await room.browser())).url.path == "/activity"
        provider.sign = lambda claims: jwt.encode({"alg": "RS256", "kid": old.kid}, dict(claims), old)
        assert (await sign_in(await room.browser())).status_code == 403
    finally:
        provider.key = old


async def test_the_providers_keys_are_kept_between_sign_ins(room: Room, provider: OpenIDDouble) -> None:
    room.deployment.database.clock_offset += 300
    for _ in range(3):
        assert (await sign_in(await room.browser())).url.path == "/activity"
    assert provider.fetched.count("/jwks") == 1


@pytest.mark.parametrize(("member", "is_passed_over"), [("jku", True), ("x5c", True), ("crit", False), ("b64", False)])
async def test_an_id_token_that_says_where_its_key_is_is_read_with_the_providers_own_keys(
    room: Room, provider: OpenIDDouble, member: str, is_passed_over: bool
) -> None:
    value: object = {"jku": f"{provider.url}/other", "x5c": ["AAAA"], "crit": ["exp"], "b64": True}[member]
    own = provider.key
    assert isinstance(own, RSAKey)
    header = {"alg": "RS256", "kid": own.kid, member: value}
    provider.sign = lambda claims: sign_jwt(header, claims, own)
    page = await sign_in(await room.browser())
    assert (page.url.path == "/activity") == is_passed_over
    assert "/other" not in provider.fetched


@pytest.mark.requirement("S-134")
@pytest.mark.parametrize("change", ["another browser", "no cookie", "forged", "twice", "late", "another provider"])
@pytest.mark.requirement("S-061")
async def test_an_answer_counts_once_in_the_browser_that_asked(room: Room, provider: OpenIDDouble, change: str) -> None:
    person = await room.browser()
    callback = await callback_of(await begin(person))
    match change:
        case "another browser":
            victim = await room.browser()
            await begin(victim)
            assert (await victim.open(callback)).status_code == 403
            assert (await victim.http.get("/connections")).status_code == 303
        case "no cookie":
            assert (await (await room.browser()).open(callback)).status_code == 403
        case "forged":
            forged = callback.replace(query_of(callback)["state"], "A" * 43)
            assert (await person.open(forged)).status_code == 403
        case "another provider":
            assert (await person.open(callback.replace("/company/", "/other/"))).status_code == 403
        case "late":
            room.deployment.database.clock_offset += 600
            assert (await person.open(callback)).status_code == 403
            return
        case _:
            pass
    assert (await person.open(callback)).url.path == "/activity"
    assert (await person.open(callback)).status_code == 403


@pytest.mark.requirement("S-134")
@pytest.mark.parametrize("issuer", ["https://evil.example", None])
async def test_an_answer_of_another_issuer_is_refused_before_the_code_is_sent(
    room: Room, provider: OpenIDDouble, issuer: str | None
) -> None:
    provider.change_callback = lambda query: {
        name: value for name, value in {**query, "iss": issuer}.items() if value is not None
    }
    person = await room.browser()
    assert (await sign_in(person)).status_code == 403
    assert len(provider.codes) > 0
    provider.change_callback = lambda query: query
    assert (await sign_in(person)).url.path == "/activity"


async def test_a_provider_that_never_sends_its_issuer_needs_none(room: Room, provider: OpenIDDouble) -> None:
    provider.sends_issuer = False
    provider.change_metadata = lambda facts: {**facts, "authorization_response_iss_parameter_supported": False}
    assert (await sign_in(await room.browser())).url.path == "/activity"


@pytest.mark.requirement("S-134")
@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("issuer", "https://evil.example"),
        ("issuer", None),
        ("authorization_endpoint", "javascript:alert(1)"),
        ("authorization_endpoint", "http://evil.example/authorize"),
        ("authorization_endpoint", "https:///authorize"),
        ("authorization_endpoint", "https://evil@op.example/authorize"),
        ("authorization_endpoint", "https://op.example/authorize#evil"),
        ("authorization_endpoint", None),
        ("token_endpoint", None),
        ("jwks_uri", 5),
    ],
)
async def test_a_discovery_document_that_lies_is_refused(
    room: Room, provider: OpenIDDouble, member: str, value: object
) -> None:
    provider.change_metadata = lambda facts: {**facts, member: value}
    answer = await (await room.browser()).http.get("/sign-in/openid/company")
    assert answer.status_code == 403
    assert "evil" not in answer.text
    provider.change_metadata = lambda facts: facts
    assert "location" in (await (await room.browser()).http.get("/sign-in/openid/company")).headers


@pytest.mark.requirement("S-134")
@pytest.mark.parametrize("member", ["token_endpoint", "jwks_uri"])
@pytest.mark.parametrize(
    "address",
    ["http://10.0.0.1/x", "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd", "https://[fe80::1]/x"],
)
async def test_a_discovery_document_cannot_aim_us_at_the_inside(
    room: Room, provider: OpenIDDouble, member: str, address: str
) -> None:
    person = await room.browser()
    callback = await callback_of(await begin(person))
    provider.change_metadata = lambda facts: {**facts, member: address}
    started = time.perf_counter()
    assert (await person.open(callback)).status_code == 403
    assert time.perf_counter() - started < 10, "nothing was connected to"


@pytest.mark.requirement("S-134")
async def test_without_the_sandbox_switch_a_loopback_provider_is_not_spoken_to(
    tmp_path_factory: pytest.TempPathFactory, provider: OpenIDDouble
) -> None:
    overrides = {"sign_in": {"openid": {"company": provider.settings()}}}
    async with running_room(tmp_path_factory.mktemp("closed"), overrides=overrides) as room:
        answer = await (await room.browser()).http.get("/sign-in/openid/company")
    assert answer.status_code == 403
    assert provider.fetched == []


async def test_the_client_authenticates_the_way_that_the_provider_knows(room: Room, provider: OpenIDDouble) -> None:
    assert (await sign_in(await room.browser())).url.path == "/activity"
    assert provider.used_header
    provider.change_metadata = lambda facts: {**facts, "token_endpoint_auth_methods_supported": ["client_secret_post"]}
    assert (await sign_in(await room.browser())).url.path == "/activity"
    assert not provider.used_header
    provider.credentials = f"{CLIENT_ID}:"
    assert (await sign_in(await room.browser(), "public")).url.path == "/activity"
    assert (await sign_in(await room.browser())).status_code == 403, "a wrong secret"
    assert (await room.events())[-1].details["reason"] == "token: status 400"


@pytest.mark.parametrize("document", ["token", "keys"])
async def test_an_answer_that_is_no_answer_signs_nobody_in(room: Room, provider: OpenIDDouble, document: str) -> None:
    provider.broken = document
    room.deployment.database.clock_offset += 3600  # the earlier keys are no longer kept
    person = await room.browser()
    page = await sign_in(person)
    assert page.status_code == 403
    assert "an invalid answer" in page.text
    provider.broken = ""
    room.deployment.database.clock_offset += 10
    assert (await sign_in(person)).url.path == "/activity"


async def test_an_answer_that_comes_three_times_at_once_signs_in_once(room: Room, provider: OpenIDDouble) -> None:
    person = await room.browser()
    callback = await callback_of(await begin(person))
    answers = await asyncio.gather(*(person.http.get(callback) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [303, 403, 403]
    assert all("in this browser" in answer.text for answer in answers if answer.status_code == 403), "nothing was asked"


async def test_two_first_sign_ins_at_once_make_one_user(room: Room, provider: OpenIDDouble) -> None:
    provider.subject = "twice-at-once"
    people = [await room.browser() for _ in range(3)]
    pages = await asyncio.gather(*(sign_in(person) for person in people))
    assert {page.url.path for page in pages} == {"/activity"}
    assert len({await whoami(person) for person in people}) == 1


ERROR = {"error": "<script>alert(1)</script>", "error_description": "x" * 100}


@pytest.mark.parametrize(("has_code", "error"), [(False, ERROR), (True, ERROR), (False, {})])
async def test_a_provider_that_refuses_leaves_the_person_signed_out(
    room: Room, provider: OpenIDDouble, has_code: bool, error: dict[str, str]
) -> None:
    provider.change_callback = lambda query: {
        name: value for name, value in {**query, **error}.items() if name != "code" or has_code
    }
    person = await room.browser()
    page = await sign_in(person)
    assert page.status_code == 403
    assert "script" not in without_own_markup(page.text)
    assert "didn&#39;t sign you in" in page.text


async def test_the_way_back_after_sign_in_is_ours(room: Room, provider: OpenIDDouble) -> None:
    person = await room.browser()
    callback = await callback_of(await begin(person, return_to="https://evil.example/"))
    answer = await person.http.get(callback)
    assert answer.headers["location"] == "/"


async def test_starts_are_throttled_per_address(room: Room, provider: OpenIDDouble) -> None:
    person = await room.browser()
    statuses = [(await person.http.get("/sign-in/openid/company")).status_code for _ in range(31)]
    assert statuses == [303] * 30 + [429]


def test_secrets_of_a_sign_in_do_not_show() -> None:
    from server.sign_in.openid import SignInAnswer, SignInStart

    shown = repr(SignInAnswer(state="S1", code="S2", error="", issuer=None, browser="S3")) + repr(
        SignInStart("u", "S4")
    )
    assert not any(secret in shown for secret in ("S1", "S2", "S3", "S4"))
    assert "S5" not in repr(OpenIDSettings(issuer="i", client_id="c", client_secret="S5"))  # pyright: ignore[reportArgumentType]
