"""Identity assertions: forged, foreign, old, repeated; the wrong person; more than a company's rules grant."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import Callable, Mapping

import pytest

from tests.attacks.enterprise.company import Company, is_signed_in
from tests.attacks.target import Agent, new_key
from tests.support.claims import offset, with_claims
from tests.support.rooms.oauth_world import b64, claims_of, sign_jwt

Claims = Mapping[str, object]
ATTACKER = new_key()


def check_refused(answer_status: int, content: Mapping[str, object]) -> None:
    assert answer_status in {400, 401, 403, 413}, content
    assert "access_token" not in content


async def refusal_code(company: Company, assertion: str, **form: str) -> str:
    """Check that the request is refused and nothing issued; return the error."""
    answer = await company.redeem(assertion, **form)
    check_refused(answer.status_code, answer.json())
    assert answer.headers["cache-control"] == "no-store"
    return str(answer.json()["error"])


@pytest.fixture(scope="module")
async def subject(company: Company) -> str:
    """A person who is linked to acme, for whom the honest assertion works."""
    employee = await company.employee()
    answer = await company.ask(employee.subject)
    assert answer.status_code == 200, answer.text
    assert claims_of(answer.json()["access_token"])["sub"] == employee.id
    return employee.subject


# Forged


def unsigned_token(company: Company, claims: Claims) -> str:
    return f"{b64({'alg': 'none', 'typ': 'oauth-id-jag+jwt'})}.{b64(claims)}."


def by_public_key(company: Company, claims: Claims) -> str:
    """Sign with HS256 and the public key as the secret."""
    import hmac

    head = b64({"alg": "HS256", "typ": "oauth-id-jag+jwt", "kid": "acme"})
    key = json.dumps(company.published["acme"][0]).encode()
    mac = hmac.digest(key, f"{head}.{b64(claims)}".encode(), "sha256")
    return f"{head}.{b64(claims)}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def head(**members: object) -> Callable[[Company, Claims], str]:
    return lambda company, claims: company.sign(claims, header=members)


def own_key(**members: object) -> Callable[[Company, Claims], str]:
    return lambda company, claims: company.sign(claims, key=ATTACKER, header=members)


FORGED: dict[str, Callable[[Company, Claims], str]] = {
    "another key": own_key(),
    "another key without a name": own_key(kid=None),
    "another key of an unknown name": own_key(kid="x"),
    "a key in the header": own_key(jwk=ATTACKER.as_dict(private=False)),
    "an address of keys": own_key(jku="https://evil.example/jwks"),
    "a certificate": own_key(x5c=["MIIB"], x5u="https://evil.example/c"),
    "the key of the other company": lambda company, claims: company.sign(claims, key=company.keys["globex"]),
    "the name of the other company's key": lambda company, claims: company.sign(
        claims, key=company.keys["globex"], header={"kid": "globex"}
    ),
    "a path as name of a key": own_key(kid="../../../../dev/null"),
    "an injected name of a key": own_key(kid="acme' or '1'='1"),
    "a list as name of a key": own_key(kid=["acme"]),
    "no algorithm": lambda company, claims: unsigned_token(company, claims),
    "a shared secret": by_public_key,
    "alg None": head(alg="None"),
    "alg as a list": head(alg=["ES256"]),
    "another type": head(typ="JWT"),
    "an access token's type": head(typ="at+jwt"),
    "a security event's type": head(typ="secevent+jwt"),
    "a type with a prefix": head(typ="application/oauth-id-jag+jwt"),
    "a type in capitals": head(typ="OAUTH-ID-JAG+JWT"),
    "no type": head(typ=None),
    "something critical": head(crit=["exp"], exp=1),
    "unencoded": head(b64=False, crit=["b64"]),
    "compressed": head(zip="DEF"),
    "an empty signature": lambda company, claims: company.sign(claims).rpartition(".")[0] + ".",
    "a signature of zeros": lambda company, claims: company.sign(claims).rpartition(".")[0] + "." + "A" * 86,
    "another signature": lambda company, claims: (
        company.sign(claims).rpartition(".")[0] + "." + company.sign({**claims, "jti": "x"}).rpartition(".")[2]
    ),
    "four parts": lambda company, claims: company.sign(claims) + ".x",
    "two signatures": lambda company, claims: json.dumps({"payload": b64(claims), "signatures": []}),
    "claims twice": lambda company, claims: f"{company.sign(claims)},{company.sign(claims)}",
    "padding": lambda company, claims: company.sign(claims) + "==",
    "line breaks": lambda company, claims: company.sign(claims).replace(".", ".\n", 1),
    "an endless one": lambda company, claims: company.sign({**claims, "x": "x" * 200_000}),
    "a deep one": lambda company, claims: f"{b64({'alg': 'ES256', 'typ': 'oauth-id-jag+jwt'})}.{'W1tb' * 20000}.x",
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_assertion_is_worth_nothing(company: Company, subject: str, name: str) -> None:
    claims = company.claims(subject)
    await refusal_code(company, FORGED[name](company, claims))
    assert (await company.redeem(company.sign(claims))).status_code == 200  # the twin: the refusal used nothing up


LIES: dict[str, Callable[[Company], Claims]] = {
    "the issuer with a slash": lambda company: {"iss": company.issuer() + "/"},
    "the issuer in capitals": lambda company: {"iss": company.issuer().upper()},
    "the issuer with a query": lambda company: {"iss": company.issuer() + "?x"},
    "the issuer with a fragment": lambda company: {"iss": company.issuer() + "#x"},
    "the issuer at localhost": lambda company: {"iss": company.issuer().replace("127.0.0.1", "localhost")},
    "the issuer with a part more": lambda company: {"iss": company.issuer() + "/.well-known/../"},
    "the issuer with a look-alike letter": lambda company: {"iss": company.issuer().replace("acme", "аcme")},
    "the issuer encoded": lambda company: {"iss": company.issuer().replace("acme", "%61cme")},
    "the server of the issuer": lambda company: {"iss": company.server.url},
    "the issuer in a list": lambda company: {"iss": [company.issuer()]},
    "the vault as issuer": lambda company: {"iss": company.target.url},
    "the other company as issuer": lambda company: {"iss": company.issuer("globex")},
    "no issuer": with_claims(iss=None),
    "another audience": with_claims(aud="https://other.example"),
    "the token endpoint as audience": lambda company: {"aud": f"{company.target.url}/token"},
    "the MCP endpoint as audience": lambda company: {"aud": f"{company.target.url}/mcp"},
    "two audiences": lambda company: {"aud": [company.target.url, "https://other.example"]},
    "an audience that begins so": lambda company: {"aud": company.target.url + ".evil.example"},
    "no audience": with_claims(aud=None),
    "another client": with_claims(client_id="x"),
    "the client of somebody else": lambda company: {"client_id": company.target.clients["backend"]["client_id"]},
    "the client's name": with_claims(client_id="Invoices"),
    "clients in a list": lambda company: {"client_id": [company.target.clients["Invoices"]["client_id"]]},
    "no client": with_claims(client_id=None),
    "an end that has passed": offset(iat=-400, exp=-60),
    "an end far away": offset(exp=86_400),
    "no end": with_claims(exp=None),
    "no beginning": with_claims(iat=None),
    "an end as text": lambda _: {"exp": str(int(time.time()) + 60)},
    "an end that is true": with_claims(exp=True),
    "an endless end": with_claims(exp=1e400),
    "an end before the beginning": offset(iat=200, exp=100),
    "the future": offset(iat=500, exp=600),
    "not yet": offset(nbf=400),
    "no name": with_claims(jti=None),
    "an empty name": with_claims(jti=""),
    "a number as name": with_claims(jti=7),
    "an endless name": with_claims(jti="x" * 300),
    "a name with NUL": with_claims(jti="a\0b"),
    "half a pair as name": with_claims(jti="\ud800"),
    "half a pair as subject": with_claims(sub="\ud800"),
    "no subject": with_claims(sub=None),
    "an empty subject": with_claims(sub=""),
    "a list of subjects": lambda _: {"sub": ["x"]},
    "an endless subject": with_claims(sub="x" * 300),
    "a tenant": with_claims(tenant="t"),
    "a key that it is bound to": lambda _: {"cnf": {"jkt": "x"}},
    "another kind of binding": lambda _: {"cnf": {"x5t#S256": "x"}},
    "another resource": with_claims(resource="https://other.example/mcp"),
    "the Admin API": lambda company: {"resource": f"{company.target.url}/admin/v1"},
    "two resources": lambda company: {"resource": [f"{company.target.url}/mcp", "https://other.example/mcp"]},
    "no scope of the vault": with_claims(scope="admin:read admin:people"),
    "an empty scope": with_claims(scope=""),
    "scopes in a list": lambda _: {"scope": ["tools"]},
    "details": lambda _: {"authorization_details": [{"type": "x"}]},
    "an endless chain of actors": lambda _: {"act": {"sub": "a", "act": {"sub": "b", "act": {"sub": "c", "act": {
        "sub": "d", "act": {"sub": "e"}}}}}},
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
async def test_an_assertion_that_says_something_else_is_refused(company: Company, subject: str, name: str) -> None:
    claims = company.claims(subject)
    changed = {key: one for key, one in {**claims, **LIES[name](company)}.items() if one is not None}
    await refusal_code(company, company.sign(changed))
    assert (await company.redeem(company.sign(claims))).status_code == 200  # the twin


OTHER_TOKENS = ("access token", "ID token", "security event", "admin token", "DPoP proof", "client's own")


@pytest.mark.parametrize("kind", OTHER_TOKENS)
async def test_another_token_is_no_assertion(company: Company, subject: str, kind: str) -> None:
    target = company.target
    match kind:
        case "access token":
            token = (await target.agent(target.alice)).token
        case "ID token":
            found = await target.agent(target.alice, scope="openid tools")
            token = str(found.more.get("id_token", found.token))
        case "security event":
            token = company.sign(company.event("x", {"format": "opaque", "id": subject}), typ="secevent+jwt")
        case "admin token":
            await company.api("GET", "/me")
            kept = target.kept["admin token"]
            assert isinstance(kept, dict)
            token = str(kept["token"])
        case "DPoP proof":
            token = company.sign(company.claims(subject), typ="dpop+jwt")
        case _:
            token = sign_jwt({"alg": "ES256", "typ": "oauth-id-jag+jwt"}, company.claims(subject), ATTACKER)
    await refusal_code(company, token)


FORMS: dict[str, dict[str, str]] = {
    "more scopes": {"scope": "tools connections exchange offline_access openid"},
    "an admin's scope": {"scope": "admin:read"},
    "the Admin API": {"resource": "ADMIN"},
    "another resource": {"resource": "https://other.example"},
    "a wrong secret": {"client_secret": "wrong"},
    "no secret": {"client_secret": ""},
    "the grant for bound ones": {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-dpop"},
}


@pytest.mark.parametrize("name", FORMS)
async def test_a_request_gets_no_more_than_was_asserted(company: Company, subject: str, name: str) -> None:
    form = {key: one.replace("ADMIN", f"{company.target.url}/admin/v1") for key, one in FORMS[name].items()}
    answer = await company.redeem(company.sign(company.claims(subject)), **form)
    if name == "more scopes" and answer.status_code == 200:
        assert set(answer.json()["scope"].split()) <= {"tools", "connections"}
        assert "refresh_token" not in answer.json()
    else:
        check_refused(answer.status_code, answer.json())


async def test_a_client_that_nobody_chose_gets_in_with_no_assertion(company: Company, subject: str) -> None:
    """One client registered itself under the agent's name; an admin registered another."""
    target = company.target
    own = await target.register(client_name="Invoices", token_endpoint_auth_method="client_secret_post")
    target.clients["look-alike"] = {key: str(own[key]) for key in ("client_id", "client_secret")}
    for client in ("look-alike", "backend", "Secret agent"):
        claims = company.claims(subject, client_id=target.clients[client]["client_id"])
        answer = await company.redeem(company.sign(claims), client=client)
        check_refused(answer.status_code, answer.json())


# Once


async def test_an_assertion_counts_once_however_often_it_is_sent_at_once(company: Company, subject: str) -> None:
    assertion = company.sign(company.claims(subject))
    answers = await asyncio.gather(*(company.redeem(assertion) for _ in range(12)))
    assert sorted(one.status_code for one in answers) == [200, *[400] * 11]
    await refusal_code(company, assertion)


async def test_a_name_that_was_used_counts_for_nobody_else(company: Company, subject: str) -> None:
    """Another assertion with the same `jti`, for another person or with another expiry, still counts as a repeat."""
    other, name = await company.employee(), secrets.token_hex(8)
    assert (await company.ask(subject, jti=name)).status_code == 200
    await refusal_code(company, company.sign(company.claims(other.subject, jti=name)))
    await refusal_code(company, company.sign(company.claims(subject, jti=name, exp=int(time.time()) + 590)))
    foreign = await company.employee("globex")
    assert (await company.ask(foreign.subject, "globex", jti=name)).status_code == 200  # the twin


async def test_a_refusal_is_not_undone_by_a_race(company: Company) -> None:
    """The person is disabled meanwhile: whatever was issued is worthless afterward."""
    employee = await company.employee()
    asking = [asyncio.ensure_future(company.ask(employee.subject)) for _ in range(10)]
    await company.call_api("PATCH", f"/people/{employee.id}", {"disabled": True})
    answers = await asyncio.gather(*asking)
    for one in answers:
        if one.status_code == 200:
            agent = Agent(company.target.clients["Invoices"]["client_id"], one.json()["access_token"])
            assert not await company.may_call(agent)
    check_refused((last := await company.ask(employee.subject)).status_code, last.json())
    await company.call_api("PATCH", f"/people/{employee.id}", {"disabled": False})
    assert (await company.ask(employee.subject)).status_code == 200  # the twin


# Whose person


async def test_one_subject_at_two_issuers_is_two_people(company: Company) -> None:
    name = secrets.token_hex(8)
    one, other = await company.employee(subject=name), await company.employee("globex", subject=name)
    for company_name, employee in (("acme", one), ("globex", other)):
        answer = await company.ask(name, company_name)
        assert claims_of(answer.json()["access_token"])["sub"] == employee.id


@pytest.mark.parametrize("change", ["UPPER", "{} ", " {}", "{}\u200b"])
async def test_a_subject_that_looks_alike_is_somebody_else(company: Company, change: str) -> None:
    own = (await company.employee("globex", subject=f"a{secrets.token_hex(6)}")).subject
    answer = await company.ask(own.upper() if change == "UPPER" else change.format(own), "globex")
    check_refused(answer.status_code, answer.json())
    assert (await company.ask(own, "globex")).status_code == 200  # the twin


async def add_person(company: Company, address: str) -> str:
    """A person with this name who isn't linked to any company."""
    made = await company.call_api("POST", "/people", {"name": address})
    person = made["person"]
    assert isinstance(person, dict)
    return str(person["id"])  # pyright: ignore[reportUnknownArgumentType] -- parsed JSON


ADDRESSES: dict[str, Callable[[str], Claims]] = {
    "unconfirmed": lambda one: {"email": f"{one}@acme.example", "email_verified": False},
    "without a word on it": lambda one: {"email": f"{one}@acme.example"},
    "confirmed by a word": lambda one: {"email": f"{one}@acme.example", "email_verified": "yes"},
    "confirmed by a number": lambda one: {"email": f"{one}@acme.example", "email_verified": 1},
    "of another domain": lambda one: {"email": f"{one}@acme.example.evil.example", "email_verified": True},
    "of a part of the domain": lambda one: {"email": f"{one}@sub.acme.example", "email_verified": True},
    "with two signs": lambda one: {"email": f"{one}@acme.example@evil.example", "email_verified": True},
    "with a part more": lambda one: {"email": f"{one}+x@acme.example", "email_verified": True},
    "with a dot": lambda one: {"email": f"{one[:3]}.{one[3:]}@acme.example", "email_verified": True},
    "with wide letters": lambda one: {"email": f"{chr(0xFF41)}{one[1:]}@acme.example", "email_verified": True},
    "with a sharp s": lambda one: {"email": f"{one.replace('ss', 'ß')}@acme.example", "email_verified": True},
    "with a Kelvin": lambda one: {"email": f"{one.replace('k', chr(0x212A))}@acme.example", "email_verified": True},
    "with a ligature": lambda one: {"email": f"{one.replace('fi', chr(0xFB01))}@acme.example", "email_verified": True},
    "with a blank": lambda one: {"email": f" {one}@acme.example ", "email_verified": True},
    "in a list": lambda one: {"email": [f"{one}@acme.example"], "email_verified": True},
    "with a comment": lambda one: {"email": f"{one}(x)@acme.example", "email_verified": True},
    "in quotes": lambda one: {"email": f'"{one}"@acme.example', "email_verified": True},
    "as a name": lambda one: {"preferred_username": f"{one}@acme.example", "name": f"{one}@acme.example"},
}  # fmt: skip


@pytest.mark.parametrize("how", ADDRESSES)
async def test_an_address_that_is_not_exactly_theirs_makes_nobody_them(company: Company, how: str) -> None:
    local = f"akssfi{secrets.token_hex(4)}"
    victim = await add_person(company, f"{local}@acme.example")
    answer = await company.ask(secrets.token_hex(8), **ADDRESSES[how](local))
    if answer.status_code == 200:
        assert claims_of(answer.json()["access_token"])["sub"] != victim
    assert (await company.facts(victim))["identities"] == []
    answer = await company.ask(secrets.token_hex(8), email=f"{local}@acme.example", email_verified=True)  # the twin
    assert claims_of(answer.json()["access_token"])["sub"] == victim
    answer = await company.ask(secrets.token_hex(8), email=f"{local}@acme.example", email_verified=True)
    check_refused(answer.status_code, answer.json())  # another subject with their address


@pytest.mark.parametrize("how", ["administrator", "auditor", "by a group"])
async def test_who_may_administer_is_not_found_by_an_address(company: Company, how: str) -> None:
    address = f"{secrets.token_hex(5)}@acme.example"
    person = await add_person(company, address)
    if how == "by a group":
        group = await admin_group(company)
        await company.call_api("PUT", f"/groups/{group}/people/{person}")
    else:
        await company.call_api("PATCH", f"/people/{person}", {"role": how})
    answer = await company.ask(secrets.token_hex(8), email=address, email_verified=True)
    check_refused(answer.status_code, answer.json())
    if how == "by a group":
        await company.call_api("DELETE", f"/groups/{group}/people/{person}")
    else:
        await company.call_api("PATCH", f"/people/{person}", {"role": "member"})
    assert (await company.ask(secrets.token_hex(8), email=address, email_verified=True)).status_code == 200  # the twin


async def admin_group(company: Company) -> str:
    """The group whose members are administrators."""
    found = await company.call_api("GET", "/groups?limit=200")
    items = found["items"]
    assert isinstance(items, list)
    ids = [str(one["id"]) for one in items if one["name"] == "Vault administrators"]
    return ids[0] if ids else await company.group(name="Vault administrators")


async def test_an_address_at_a_company_without_domains_is_nobodys(company: Company) -> None:
    address = f"{secrets.token_hex(5)}@acme.example"
    person = await add_person(company, address)
    answer = await company.ask(secrets.token_hex(8), "globex", email=address, email_verified=True)
    check_refused(answer.status_code, answer.json())
    assert (await company.facts(person))["identities"] == []


async def test_the_directorys_id_counts_of_its_own_company_and_once(company: Company) -> None:
    oid = secrets.token_hex(8)
    made = await company.provision_person(externalId=oid)
    answer = await company.ask(secrets.token_hex(8), "globex", oid=oid)
    check_refused(answer.status_code, answer.json())
    for bent in ([oid], {"x": oid}, oid.upper() + " ", oid + "\0", "", None, 7):
        answer = await company.ask(secrets.token_hex(8), oid=bent, email="x@evil.example", email_verified=True)
        check_refused(answer.status_code, answer.json())
    subjects = [secrets.token_hex(8) for _ in range(6)]
    answers = await asyncio.gather(*(company.ask(one, oid=oid) for one in subjects))
    assert sorted(one.status_code for one in answers) == [200, *[400] * 5]
    (right,) = [one for one in answers if one.status_code == 200]
    assert claims_of(right.json()["access_token"])["sub"] == made["id"]
    twice = [await company.provision_person(externalId="twice") for _ in range(2)]
    answer = await company.ask(secrets.token_hex(8), oid="twice", email="x@evil.example", email_verified=True)
    check_refused(answer.status_code, answer.json())
    assert len(twice) == 2


async def test_a_newcomer_is_a_member_and_nobody_who_is_here(company: Company) -> None:
    name = f"{secrets.token_hex(5)}@acme.example"
    claims = {"email": name, "email_verified": True, "name": "alice", "role": "owner", "roles": ["owner"]}
    answers = await asyncio.gather(*(company.ask("newcomer " + name, **claims) for _ in range(5)))
    people = {claims_of(one.json()["access_token"])["sub"] for one in answers if one.status_code == 200}
    assert len(people) == 1
    facts = await company.facts(str(people.pop()))
    assert (facts["admin"], facts["role"], facts["name"]) == (False, "member", name)
    assert await is_signed_in(company.target.alice)


# No more than the rules give


GROUPS: tuple[object, ...] = (
    ["Vault administrators"], ["finance department"], ["Fin", "ance"], "Finance, x", {"Finance": True}, [["Finance"]],
    [{"value": "Finance"}], ["Finance\0"], ["*"], [""], None, ["Secret service"], [f"g{n}" for n in range(400)],
    [None, True, 1], "everyone",
)  # fmt: skip


@pytest.mark.parametrize("named_groups", GROUPS, ids=lambda one: str(one)[:24])
async def test_a_claim_of_groups_gives_what_their_rule_says_only(
    company: Company, subject: str, named_groups: object
) -> None:
    answer = await company.ask(subject, groups=named_groups, roles=["owner"], scope="tools connections exchange")
    assert answer.status_code == 200, answer.text
    assert answer.json()["scope"] == "tools"
    answer = await company.ask(subject, groups=["FINANCE "])  # the twin
    assert set(answer.json()["scope"].split()) == {"tools", "connections"}


async def test_a_group_that_was_left_gives_nothing_with_the_next_assertion(company: Company, subject: str) -> None:
    first = await company.ask(subject, groups=["Finance"])
    assert set(first.json()["scope"].split()) == {"tools", "connections"}
    assert (await company.ask(subject, groups=[])).json()["scope"] == "tools"


async def test_an_assertion_gives_no_role(company: Company, subject: str) -> None:
    answer = await company.ask(subject, groups=["Vault administrators"])
    headers = {"authorization": f"Bearer {answer.json()['access_token']}"}
    for path in ("/admin/v1/people", "/scim/v2/Users", "/userinfo"):
        assert (await company.target.http.get(path, headers=headers)).status_code in {401, 403}
    person = claims_of(answer.json()["access_token"])["sub"]
    items = (await company.call_api("GET", "/groups?limit=200"))["items"]
    assert isinstance(items, list)
    for one in items:
        if one["name"] == "Vault administrators":
            members = (await company.call_api("GET", f"/groups/{one['id']}"))["people"]
            assert isinstance(members, list)
            assert person not in [member["person_id"] for member in members]


async def test_an_agent_of_a_secret_group_is_for_that_group_only(company: Company, subject: str) -> None:
    client = company.target.clients["Secret agent"]["client_id"]
    for named_groups in (None, ["Finance"], ["secret  service"]):
        claims = company.claims(subject, client_id=client, groups=named_groups)
        answer = await company.redeem(company.sign(claims), client="Secret agent")
        check_refused(answer.status_code, answer.json())
    claims = company.claims(subject, client_id=client, groups=["secret service"])
    assert (await company.redeem(company.sign(claims), client="Secret agent")).status_code == 200  # the twin


async def test_a_person_who_is_linked_twice_gets_each_companys_rules_apart(company: Company) -> None:
    """One company's assertion doesn't grant what the other company's groups allow."""
    employee = await company.employee()
    await company.call_api(
        "POST", f"/people/{employee.id}/identities", {"issuer": company.issuer("globex"), "subject": employee.subject}
    )
    assert set((await company.ask(employee.subject, groups=["Finance"])).json()["scope"].split()) == {
        "tools",
        "connections",
    }
    assert (await company.ask(employee.subject, "globex")).json()["scope"] == "tools"


# Keys


async def test_a_key_that_its_issuer_withdrew_ends_and_a_flood_of_names_fetches_no_flood(
    company: Company, subject: str
) -> None:
    before = len(company.server.arrivals)
    for n in range(40):
        await refusal_code(company, company.sign(company.claims(subject), key=ATTACKER, header={"kid": f"k{n}"}))
    assert len(company.server.arrivals) - before <= 5
    assert (await company.ask(subject)).status_code == 200  # the twin
