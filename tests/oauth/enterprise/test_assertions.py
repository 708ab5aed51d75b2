"""Identity assertions (ID-JAG) at the token endpoint: who gets a token for one, and every reason to refuse one."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field

import httpx2
import pytest
from joserfc.jwk import ECKey, RSAKey
from pydantic import ValidationError

from server.oauth.enterprise.assertions import JWT_BEARER, JWT_DPOP, PROFILE, TYPE
from server.oauth.enterprise.refusals import REFUSALS
from server.settings import Settings
from tests.support.claims import with_claims
from tests.support.doubles.openid_double import OUTAGES
from tests.support.doubles.stopped_clock import stopped_clock
from tests.support.rooms.enterprise_room import Company, issuer_of, running_company
from tests.support.rooms.oauth_world import b64, claims_of, sign_jwt
from vault import replay, users
from vault.records import ClientKind, Role

KEY = ECKey.generate_key("P-256")
OTHER = ECKey.generate_key("P-256")
Claims = Mapping[str, object]


@pytest.fixture(scope="module")
async def company(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Company]:
    async with running_company(tmp_path_factory.mktemp("company") / "data") as found:
        yield found


def description_of(reason: str) -> str:
    return REFUSALS[reason].description


def check_refused(answer: httpx2.Response, reason: str) -> None:
    """Assert that it was refused for exactly this reason, with the registered code, and that nothing was issued."""
    assert answer.status_code in {400, 503}, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["error_description"] == description_of(reason), answer.text
    assert "access_token" not in answer.json()


def check_issued(answer: httpx2.Response) -> dict[str, object]:
    assert answer.status_code == 200, answer.text
    return answer.json()


def proof(company: Company, key: ECKey = KEY) -> dict[str, str]:
    claims = {
        "jti": secrets.token_urlsafe(12),
        "htm": "POST",
        "htu": f"{company.place.url}/token",
        "iat": company.now(),
    }
    return {"DPoP": sign_jwt({"typ": "dpop+jwt", "alg": "ES256", "jwk": key.as_dict(private=False)}, claims, key)}


async def test_an_assertion_becomes_a_token_for_the_linked_person(company: Company) -> None:
    answer = await company.ask()
    issued = check_issued(answer)
    claims = claims_of(str(issued["access_token"]))
    assert claims["sub"] == company.user.id
    assert claims["client_id"] == company.caller.client.id
    assert claims["aud"] == f"{company.place.url}/mcp"
    assert issued["scope"] == "connections tools"
    assert issued["token_type"] == "Bearer"
    assert "refresh_token" not in issued, "the client comes with another assertion"
    assert issued["expires_in"] == company.place.deployment.settings.tokens.access_lifetime, "soon"
    async with company.place.room.http() as http:
        http.headers["authorization"] = f"Bearer {issued['access_token']}"
        assert (await http.get("/userinfo")).status_code == 403, "it has no scope openid"
    assert answer.headers["cache-control"] == "no-store"


async def test_the_metadata_says_that_assertions_are_taken(company: Company) -> None:
    found = (await company.place.http.get("/.well-known/oauth-authorization-server")).json()
    assert JWT_BEARER in found["grant_types_supported"]
    assert found["authorization_grant_profiles_supported"] == [PROFILE]


@dataclass(frozen=True)
class Lie:
    """One wrong detail, and the same assertion without it."""

    reason: str
    claims: Callable[[Company], Claims] = lambda _: {}
    header: Claims = field(default_factory=dict[str, object])
    honest: Callable[[Company], Claims] | None = None


def at(**offsets: int) -> Callable[[Company], Claims]:
    return lambda company: {name: company.now() + offset for name, offset in offsets.items()}


def of(company: str, **claims: object) -> Callable[[Company], Claims]:
    return lambda _: {"iss": issuer_of(company), **claims}


LIES: dict[str, Lie] = {
    "wrong typ": Lie("typ", header={"typ": "JWT"}),
    "no typ": Lie("typ", header={"typ": None}),
    "access token": Lie("typ", header={"typ": "at+jwt"}),
    "long typ": Lie("typ", header={"typ": f"application/{TYPE}"}),
    "foreign issuer": Lie("issuer", with_claims(iss="https://evil.example")),
    "no issuer": Lie("issuer", with_claims(iss=None)),
    "issuer with a slash": Lie("issuer", lambda one: {"iss": f"{one.idp.url}/"}),
    "header jwk": Lie("header", header={"jwk": OTHER.as_dict(private=False)}),
    "header jku": Lie("header", header={"jku": "https://evil.example/keys"}),
    "header crit": Lie("header", header={"crit": ["exp"]}),
    "alg none": Lie("header", header={"alg": "none"}),
    "alg of a shared secret": Lie("header", header={"alg": "HS256"}),
    "another audience": Lie("audience", with_claims(aud="https://other.example")),
    "no audience": Lie("audience", with_claims(aud=None)),
    "two audiences": Lie(
        "audience",
        lambda one: {"aud": [one.place.url, "https://other.example"]},
        honest=lambda one: {"aud": [one.place.url]},
    ),
    "the token endpoint as audience": Lie("audience", lambda one: {"aud": f"{one.place.url}/token"}),
    "the resource as audience": Lie("audience", lambda one: {"aud": f"{one.place.url}/mcp"}),
    "another client": Lie("client", with_claims(client_id="another")),
    "no client": Lie("client", with_claims(client_id=None)),
    "no exp": Lie("lifetime", with_claims(exp=None)),
    "no iat": Lie("lifetime", with_claims(iat=None)),
    "too long": Lie("lifetime", at(exp=601), honest=at(exp=600)),
    "no time at all": Lie("lifetime", at(iat=20, exp=20), honest=at(iat=20, exp=21)),
    "backwards": Lie("lifetime", at(iat=20, exp=10), honest=at(iat=20, exp=30)),
    "expired": Lie("expired", at(iat=-60, exp=0), honest=at(iat=-60, exp=60)),
    "old": Lie("expired", at(iat=-4000, exp=-3700)),
    "of the future": Lie("future", at(iat=31, exp=200), honest=at(iat=30, exp=200)),
    "not before": Lie("future", at(nbf=60), honest=at(nbf=0)),
    "unreadable nbf": Lie("future", with_claims(nbf="soon")),
    "no jti": Lie("jti", with_claims(jti=None)),
    "empty jti": Lie("jti", with_claims(jti="")),
    "long jti": Lie("jti", with_claims(jti="j" * 257), honest=with_claims(jti="j" * 256)),
    "jti with NUL": Lie("jti", with_claims(jti="j\0")),
    "no sub": Lie("subject", with_claims(sub=None)),
    "empty sub": Lie("subject", with_claims(sub="")),
    "long sub": Lie("subject", of("creating", sub="s" * 256), honest=of("creating", sub="s" * 255)),
    "sub that is no text": Lie("subject", with_claims(sub=1)),
    "a tenant nobody named": Lie("tenant", with_claims(tenant="t-1")),
    "another tenant": Lie("tenant", of("tenant", tenant="t-3"), honest=of("tenant", tenant="t-1")),
    "no tenant": Lie("tenant", of("tenant"), honest=of("tenant", tenant="t-1")),
    "bound without a proof": Lie("key", with_claims(cnf={"jkt": KEY.thumbprint()})),
    "bound in another way": Lie("key", with_claims(cnf={"x5t#S256": "abc"})),
    "unreadable binding": Lie("key", with_claims(cnf="abc")),
    "details": Lie(
        "details", with_claims(authorization_details=[{"type": "x"}]), honest=with_claims(authorization_details=[])
    ),
    "another resource": Lie("resource", with_claims(resource="https://other.example/mcp")),
    "one of two resources is another's": Lie(
        "resource",
        lambda one: {"resource": [f"{one.place.url}/mcp", "https://other.example/mcp"]},
        honest=lambda one: {"resource": [f"{one.place.url}/mcp"]},
    ),
    "no resource in the list": Lie("resource", with_claims(resource=[]), honest=with_claims(resource=None)),
    "the Admin API": Lie("resource", lambda one: {"resource": f"{one.place.url}/admin/v1"}),
    "scopes of another": Lie("scope", with_claims(scope="chat.read"), honest=with_claims(scope="chat.read tools")),
    "admin scopes": Lie("scope", with_claims(scope="admin:write")),
    "scope that is no text": Lie("scope", with_claims(scope=["tools"])),
    "actor without a name": Lie("actor", with_claims(act={}), honest=with_claims(act={"sub": "orchestrator"})),
    "unknown person": Lie("person", with_claims(sub="employee-2")),
    "old sign-in": Lie(
        "age",
        lambda one: {"iss": issuer_of("stepped"), "acr": "phr", "auth_time": one.now() - 631},
        honest=lambda one: {"iss": issuer_of("stepped"), "acr": "phr", "auth_time": one.now() - 630},
    ),
    "no auth_time": Lie("age", of("stepped", acr="phr"), honest=lambda one: STEPPED(one) | {"acr": "phr"}),
    "weak sign-in": Lie(
        "acr", lambda one: STEPPED(one) | {"acr": "pwd"}, honest=lambda one: STEPPED(one) | {"acr": "phrh"}
    ),
    "no acr": Lie("acr", lambda one: STEPPED(one), honest=lambda one: STEPPED(one) | {"acr": "phr"}),
    "no confirmed address": Lie("address", of("matching", sub="m-1", email="alice@acme.example")),
}


def STEPPED(company: Company) -> dict[str, object]:  # noqa: N802 -- a constant but for the time
    return {"iss": issuer_of("stepped"), "auth_time": company.now()}


@pytest.mark.parametrize("name", LIES)
async def test_an_assertion_that_is_wrong_in_one_thing_is_refused(company: Company, name: str) -> None:
    lie = LIES[name]
    check_refused(await company.ask(company.assertion(header=lie.header, **lie.claims(company))), lie.reason)
    honest = {} if lie.honest is None else lie.honest(company)
    check_issued(await company.ask(company.assertion(**honest)))


EXACT: list[tuple[dict[str, int], str]] = [  # seconds from now, and the reason for the refusal
    ({"exp": 1}, ""),
    ({"iat": -10, "exp": 0}, "expired"),
    ({"iat": 30}, ""),
    ({"iat": 31}, "future"),
    ({"nbf": 30}, ""),
    ({"nbf": 31}, "future"),
    ({"auth_time": -630}, ""),
    ({"auth_time": -631}, "age"),
]


@pytest.mark.parametrize(("times", "reason"), EXACT, ids=str)
async def test_an_assertion_counts_at_exactly_these_seconds(
    company: Company, times: dict[str, int], reason: str
) -> None:
    stepped: Claims = {"iss": issuer_of("stepped"), "acr": "phr"} if "auth_time" in times else {}
    with stopped_clock(company.place.deployment.database) as now:
        claims = {name: now + value for name, value in times.items()}
        answer = await company.ask(company.assertion(**{**stepped, **claims}))
    if reason:
        check_refused(answer, reason)
    else:
        check_issued(answer)


async def test_only_the_issuers_keys_count(company: Company) -> None:
    """A foreign key under the issuer's key id, an unknown key id, the public key as a shared secret, no signature."""
    own = company.idp.key
    foreign = RSAKey.generate_key(2048, {"kid": own.kid})
    good = company.assertion()
    content = f"{b64({'alg': 'HS256', 'typ': TYPE, 'kid': own.kid})}.{b64(company.claims())}"
    confused = f"{content}.{b64(hmac.digest(own.as_pem(private=False), content.encode(), 'sha256'))}"
    lies = {
        company.assertion(key=foreign): "signature",
        company.assertion(header={"kid": "foreign-1"}, key=foreign): "signature",
        good.rpartition(".")[0] + "." + good[-1:] + good.rpartition(".")[2][:-1]: "signature",
        company.assertion(header={"alg": "PS256"}, key=foreign): "signature",
        confused: "header",
        good.rpartition(".")[0] + ".": "unreadable",
        good.rpartition(".")[0]: "unreadable",
        f"{good}.AAAA.AAAA": "unreadable",
        "": "unreadable",
        "A" * 20_000: "unreadable",
    }
    for token, reason in lies.items():
        answer = await company.ask(token)
        if token:
            check_refused(answer, reason)
        else:
            assert answer.json()["error"] == "invalid_request", "an empty parameter counts as missing"
    check_issued(await company.ask(good))


async def test_an_assertion_counts_once(company: Company) -> None:
    token = company.assertion(jti="once")
    check_issued(await company.ask(token))
    check_refused(await company.ask(token), "replayed")
    check_refused(await company.ask(company.assertion(jti="once")), "replayed")
    check_issued(await company.ask(company.assertion(jti="once", iss=issuer_of("public"))))
    check_issued(await company.ask(company.assertion(jti="twice")))


async def test_an_assertion_is_refused_again_until_its_last_second(company: Company) -> None:
    database = company.place.deployment.database
    with stopped_clock(database) as now:
        once, other = (company.assertion(jti=jti, iat=now, exp=now + 60) for jti in ("until the end", "unused"))
        check_issued(await company.ask(once))
    with stopped_clock(database, at=now + 59):
        check_refused(await company.ask(once), "replayed")
        check_issued(await company.ask(other))


@pytest.mark.parametrize(("seconds", "reason"), [(30, "replayed"), (31, "")])
async def test_after_a_restore_an_assertion_counts_if_it_was_surely_made_later(
    company: Company, seconds: int, reason: str
) -> None:
    """The clock of who made it may be 30 seconds ahead."""
    database = company.place.deployment.database
    with stopped_clock(database) as now:
        async with database.transaction() as transaction:
            await replay.note_restore(transaction, now=now - 60)
        try:
            answer = await company.ask(company.assertion(iat=now - 60 + seconds, exp=now + 60))
        finally:
            async with database.transaction() as transaction:
                await transaction.execute("delete from seen where purpose = 'restored'", {})
    if reason:
        check_refused(answer, reason)
    else:
        check_issued(answer)


async def test_a_refused_assertion_is_not_used_up(company: Company) -> None:
    token = company.assertion(jti="kept")
    check_refused(await company.ask(token, scope="openid"), "request")
    check_issued(await company.ask(token))


async def test_scopes_narrow_and_never_grow(company: Company) -> None:
    """MCP Enterprise-Managed Authorization §7.2.1."""
    cases = {
        (None, None): "connections tools",
        ("tools", None): "tools",
        ("tools connections exchange openid", None): "connections tools",
        (None, "tools"): "tools",
        ("tools", "tools connections"): "tools",
        ("tools connections", "tools exchange"): "tools",
        ("tools connections admin:write", None): "connections tools",
    }
    for (asserted, asked), given in cases.items():
        issued = check_issued(await company.ask(company.assertion(scope=asserted), scope=asked))
        assert issued["scope"] == given, (asserted, asked)
    check_refused(await company.ask(company.assertion(scope="tools"), scope="connections"), "request")


async def test_the_request_may_name_another_of_our_endpoints_only(company: Company) -> None:
    for asked in (f"{company.place.url}/mcp", company.place.url, f"{company.place.url}/sse"):
        issued = check_issued(await company.ask(resource=asked))
        assert claims_of(str(issued["access_token"]))["aud"] == asked
    check_refused(await company.ask(resource="https://other.example"), "resource")
    check_refused(await company.ask(resource=f"{company.place.url}/admin/v1"), "resource")


async def test_groups_choose_the_rules(company: Company) -> None:
    granted = {"connections tools": ["staff"], "connections exchange tools": ["engineering", "staff"]}
    for scope, groups in granted.items():
        issued = check_issued(await company.ask(company.assertion(groups=groups, scope=None)))
        assert issued["scope"] == scope
    for groups in ("engineering", ["x", 1, "engineering"]):
        issued = check_issued(await company.ask(company.assertion(groups=groups, scope="tools exchange")))
        assert issued["scope"] == "exchange tools"


async def test_an_agent_that_no_rule_names_gets_nothing(company: Company) -> None:
    place = company.place
    stranger = await place.caller()
    async with place.deployment.transaction() as transaction:
        await transaction.execute("update clients set name = 'Nobody' where id = :id", {"id": stranger.client.id})
    token = company.assertion(client_id=stranger.client.id)
    check_refused(await company.ask(token, caller=stranger), "agent")
    async with place.deployment.transaction() as transaction:
        await transaction.execute("update clients set name = 'Secret agent' where id = :id", {"id": stranger.client.id})
    check_refused(await company.ask(token, caller=stranger), "group")
    allowed = company.assertion(client_id=stranger.client.id, groups=["secret service"])
    check_issued(await company.ask(allowed, caller=stranger))


async def test_a_client_must_authenticate_as_itself(company: Company) -> None:
    wrong = await company.ask(client_secret="x" * 43)
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
    other = await company.place.caller()
    check_refused(await company.ask(caller=other), "client")
    check_issued(await company.ask(company.assertion(client_id=other.client.id), caller=other))


async def test_a_client_that_registered_itself_cannot_use_one(company: Company) -> None:
    for kind, is_issued in ((ClientKind.DYNAMIC, False), (ClientKind.MANUAL, True)):
        caller = await company.place.caller(kind=kind)
        answer = await company.ask(company.assertion(client_id=caller.client.id), caller=caller)
        check_issued(answer) if is_issued else check_refused(answer, "registration")
        assert is_issued or answer.json()["error"] == "unauthorized_client"


async def test_a_public_client_needs_a_binding_or_the_operators_switch(company: Company) -> None:
    caller = await company.place.caller(public=True)
    named = {"client_id": caller.client.id}
    check_refused(await company.ask(company.assertion(**named), caller=caller), "public")
    check_issued(await company.ask(company.assertion(**named, iss=issuer_of("public")), caller=caller))
    own = company.idp.key
    assert isinstance(own, RSAKey)
    header, empty = {"alg": "RS256", "kid": own.kid, "typ": TYPE}, company.claims(**named) | {"cnf": None}
    check_refused(await company.ask(sign_jwt(header, empty, own), caller=caller), "public")
    bound = company.assertion(**named, cnf={"jkt": KEY.thumbprint()})
    issued = check_issued(await company.ask(bound, caller=caller, headers=proof(company)))
    assert issued["token_type"] == "DPoP"


async def test_the_grant_of_bound_assertions_takes_no_others(company: Company) -> None:
    """draft-parecki-oauth-jwt-dpop-grant-02."""
    bound = {"cnf": {"jkt": KEY.thumbprint()}}
    check_refused(await company.ask(grant_type=JWT_DPOP, headers=proof(company)), "unbound")
    check_refused(await company.ask(company.assertion(**bound), grant_type=JWT_DPOP), "key")
    answer = await company.ask(company.assertion(**bound), grant_type=JWT_DPOP, headers=proof(company))
    assert check_issued(answer)["token_type"] == "DPoP"


async def test_a_bound_assertion_needs_a_proof_of_its_key(company: Company) -> None:
    bound = company.assertion(cnf={"jkt": KEY.thumbprint()})
    check_refused(await company.ask(bound), "key")
    check_refused(await company.ask(bound, headers=proof(company, OTHER)), "key")
    issued = check_issued(await company.ask(bound, headers=proof(company)))
    assert issued["token_type"] == "DPoP"
    assert claims_of(str(issued["access_token"]))["cnf"] == {"jkt": KEY.thumbprint()}
    unbound = check_issued(await company.ask(headers=proof(company)))
    assert unbound["token_type"] == "DPoP", "a proof binds the token, whether or not the assertion was bound"


async def test_a_disabled_person_gets_nothing(company: Company) -> None:
    place = company.place
    async with place.deployment.transaction() as transaction:
        await users.disable_user(transaction, company.user.id, now=place.now())
    check_refused(await company.ask(), "disabled")
    async with place.deployment.transaction() as transaction:
        await users.enable_user(transaction, company.user.id, now=place.now())
    check_issued(await company.ask())


async def test_a_person_whose_agents_are_stopped_gets_nothing(company: Company) -> None:
    place = company.place
    async with place.deployment.transaction() as transaction:
        now = place.now()
        await users.stop_agents(transaction, company.user.id, by=company.idp.url, at=now, now=now)
    check_refused(await company.ask(), "stopped")
    async with place.deployment.transaction() as transaction:
        await users.lift_stop(transaction, company.user.id, by=company.idp.url, signed_in_at=place.now() + 1)
    check_issued(await company.ask())


async def test_keys_that_cannot_be_read_are_no_verdict(company: Company) -> None:
    """The issuer's outage is temporary: the same assertion works once its keys are available again."""
    place, idp, token = company.place, company.idp, company.assertion()
    place.deployment.database.clock_offset += 10_000  # what was fetched before is too old to count
    token = company.assertion()
    idp.broken = next(iter(OUTAGES))
    try:
        check_refused(await company.ask(token), "keys")
    finally:
        idp.broken = ""
    place.deployment.database.clock_offset += 60
    check_issued(await company.ask(token))


async def test_the_activity_tells_who_acted_where_somebody_did(company: Company) -> None:
    for act, actors in (({"sub": "https://desk.example"}, ["https://desk.example"]), (None, None)):
        assert (await company.ask(company.assertion(act=act))).status_code == 200
        event = (await company.place.events("token.issued"))[-1]
        assert event.details.get("actors") == actors
        assert event.details["company"] == "acme"


async def test_refusals_of_a_trusted_issuer_are_in_the_activity(company: Company) -> None:
    caller = await company.place.caller()  # repeated refusals of another agent would only be counted
    mine = {"client_id": caller.client.id}
    foreign = company.assertion(**mine, iss="https://evil.example")
    check_refused(await company.ask(foreign, caller=caller), "issuer")
    check_refused(await company.ask(company.assertion(**mine, aud="x"), caller=caller), "audience")
    found = [one for one in await company.place.events("assertion.refused") if one.client_id == caller.client.id]
    reasons = [(one.details["company"], one.details["reason"]) for one in found]
    assert reasons == [("acme", "audience")], "anybody can send foreign ones"
    check_issued(await company.ask(company.assertion(**mine), caller=caller))


async def test_people_are_matched_by_a_confirmed_address_once(company: Company) -> None:
    place = company.place
    carol = await place.user("carol@acme.example")
    mine = {"iss": issuer_of("matching"), "sub": "m-1", "email": "Carol@acme.example"}
    check_refused(await company.ask(company.assertion(**mine)), "address")
    for said in (False, 1, "yes"):
        check_refused(await company.ask(company.assertion(**mine, email_verified=said)), "address")
    other = mine | {"email": "carol@other.example"}
    check_refused(await company.ask(company.assertion(**other, email_verified=True)), "address")
    for local in ("ｃarol", "carol\u00ad", "CAROL\u200b"):  # names are compared without compatibility forms
        alike = mine | {"email": f"{local}@acme.example"}
        check_refused(await company.ask(company.assertion(**alike, email_verified=True)), "address")
    issued = check_issued(await company.ask(company.assertion(**mine, email_verified=True)))
    assert claims_of(str(issued["access_token"]))["sub"] == carol.id
    moved = {**mine, "email": "carol@elsewhere.example"}
    issued = check_issued(await company.ask(company.assertion(**moved)))
    assert claims_of(str(issued["access_token"]))["sub"] == carol.id, "the link counts from now on"
    inherited = mine | {"sub": "m-2", "email_verified": True}
    check_refused(await company.ask(company.assertion(**inherited)), "linked")
    nobody = {"iss": issuer_of("matching"), "sub": "m-3", "email": "dan@acme.example", "email_verified": True}
    check_refused(await company.ask(company.assertion(**nobody)), "person")


async def test_a_name_that_was_chosen_at_another_sign_in_matches_nobody(company: Company) -> None:
    place, named = company.place, [await company.place.user(f"{name}@acme.example") for name in ("gina", "hugo")]
    async with place.deployment.transaction() as transaction:
        await users.link_identity(
            transaction, issuer="https://other.example", subject="x", user_id=named[0].id, now=place.now()
        )
    for person in named:
        claims = {"iss": issuer_of("matching"), "sub": person.name, "email": person.name, "email_verified": True}
        answer = await company.ask(company.assertion(**claims))
        check_refused(answer, "linked") if person is named[0] else check_issued(answer)


async def test_two_companies_at_one_issuer_are_told_apart_by_their_tenant(company: Company) -> None:
    second = {"iss": issuer_of("tenant"), "tenant": "t-2", "sub": "second-1"}
    check_refused(await company.ask(company.assertion(**second)), "person")
    person = await company.place.user("second")
    async with company.place.deployment.transaction() as transaction:
        await users.link_identity(
            transaction, issuer=f"{issuer_of('tenant')}/t-2", subject="second-1", user_id=person.id, now=company.now()
        )
    issued = check_issued(await company.ask(company.assertion(**second)))
    assert claims_of(str(issued["access_token"]))["sub"] == person.id
    check_issued(await company.ask(company.assertion(iss=issuer_of("tenant"), tenant="t-1")))
    check_refused(await company.ask(company.assertion(iss=issuer_of("tenant"), tenant="t-3")), "tenant")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, "set a different tenant for each"),
        ({"tenant": "t-2"}, "set another identity_issuer for each"),
        ({"tenant": "t-2", "identity_issuer": "https://acme.example/t-2"}, ""),
    ],
)
def test_companies_at_one_issuer_must_differ(changes: dict[str, str], fault: str) -> None:
    one = {"issuer": "https://acme.example"}
    content = {"enterprise": {"one": one, "two": one | changes}}
    if fault:
        with pytest.raises(ValidationError, match=fault):
            Settings.model_validate(content)
    else:
        assert len(Settings.model_validate(content).enterprise) == 2


async def test_an_admin_is_not_matched_by_an_address(company: Company) -> None:
    place = company.place
    erin = await place.user("erin@acme.example")
    async with place.deployment.transaction() as transaction:
        await users.set_role(transaction, erin.id, Role.OWNER)
    claims = {"iss": issuer_of("matching"), "sub": "e-1", "email": "erin@acme.example", "email_verified": True}
    check_refused(await company.ask(company.assertion(**claims)), "admin")
    async with place.deployment.transaction() as transaction:
        await users.set_role(transaction, erin.id, Role.MEMBER)
    check_issued(await company.ask(company.assertion(**claims)))


async def test_people_are_created_only_where_the_operator_says_so(company: Company) -> None:
    database = company.place.deployment.database
    claims = {"iss": issuer_of("creating"), "sub": "new-1", "preferred_username": "alice"}
    issued = check_issued(await company.ask(company.assertion(**claims)))
    found = await users.find_by_identity(database, issuer=issuer_of("creating"), subject="new-1")
    assert found is not None
    assert claims_of(str(issued["access_token"]))["sub"] == found.id
    assert found.id != company.user.id, "a name never makes somebody an existing person"
    assert found.name.startswith("alice (")
    check_issued(await company.ask(company.assertion(**claims)))
    assert not found.is_admin
    joining = {"iss": issuer_of("joining"), "sub": "new-2", "email": "frank@acme.example"}
    check_refused(await company.ask(company.assertion(**joining)), "address")
    check_issued(await company.ask(company.assertion(**joining, email_verified=True)))
    frank = await users.find_by_identity(database, issuer=issuer_of("joining"), subject="new-2")
    assert frank is not None
    assert frank.name == "frank@acme.example"


def test_each_reason_has_a_lie() -> None:
    tested = {lie.reason for lie in LIES.values()}
    elsewhere = {
        *("unreadable", "signature", "replayed", "request", "agent", "group", "registration", "public", "disabled"),
        *("unbound", "keys", "linked", "admin", "stopped", "ended", "ended_by_admin"),
    }
    assert tested | elsewhere == set(REFUSALS)
    assert tested.isdisjoint(elsewhere)
    assert len(LIES) >= 25
