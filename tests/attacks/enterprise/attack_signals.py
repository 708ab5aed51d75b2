"""Signals: forged and foreign events, others' people, repeats at both endpoints, the last owner."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.attacks.enterprise.company import (
    CAEP,
    PUSH_TOKEN,
    REVOCATION_TOKEN,
    RISC,
    Company,
    Employee,
    is_signed_in,
)
from tests.attacks.target import PASSWORD, new_key
from tests.support.claims import offset, with_claims
from tests.support.rooms.oauth_world import b64

REVOKED, DISABLED = f"{CAEP}session-revoked", f"{RISC}account-disabled"
ATTACKER = new_key()
Claims = dict[str, object]


@pytest.fixture(scope="module")
async def victim(company: Company) -> Employee:
    """A person whose sessions no attack may end."""
    return await company.employee()


async def stays(company: Company, employee: Employee) -> None:
    assert await is_signed_in(employee.browser)
    assert (await company.facts(employee.id))["disabled"] is False


async def test_an_honest_event_ends_sessions(company: Company) -> None:
    """The twin of all attacks below."""
    employee = await company.employee()
    assert (await company.tell(REVOKED, company.subject_of(employee))).status_code == 202
    assert not await is_signed_in(employee.browser)


# Forged

TOKENS: dict[str, Callable[[Company, Claims], str]] = {
    "another key": lambda company, claims: company.sign(claims, key=ATTACKER, typ="secevent+jwt"),
    "a key in the header": lambda company, claims: company.sign(
        claims, key=ATTACKER, header={"jwk": ATTACKER.as_dict(private=False), "kid": None}, typ="secevent+jwt"
    ),
    "an address of keys": lambda company, claims: company.sign(
        claims, key=ATTACKER, header={"jku": "https://evil.example/k"}, typ="secevent+jwt"
    ),
    "the other company's key": lambda company, claims: company.sign(
        claims, key=company.keys["globex"], typ="secevent+jwt"
    ),
    "no algorithm": lambda _, claims: f"{b64({'alg': 'none', 'typ': 'secevent+jwt'})}.{b64(claims)}.",
    "a shared secret": lambda _, claims: f"{b64({'alg': 'HS256', 'typ': 'secevent+jwt'})}.{b64(claims)}.eHh4",
    "alg NONE": lambda company, claims: company.sign(claims, header={"alg": "NONE"}, typ="secevent+jwt"),
    "no type": lambda company, claims: company.sign(claims, header={"typ": None}),
    "type JWT": lambda company, claims: company.sign(claims, typ="JWT"),
    "type of an access token": lambda company, claims: company.sign(claims, typ="at+jwt"),
    "type of an assertion": lambda company, claims: company.sign(claims),
    "type of a revocation": lambda company, claims: company.sign(claims, typ="global-token-revocation+jwt"),
    "something critical": lambda company, claims: company.sign(
        claims, header={"crit": ["x"], "x": 1}, typ="secevent+jwt"
    ),
    "an empty signature": lambda company, claims: company.sign(claims, typ="secevent+jwt").rpartition(".")[0] + ".",
    "two tokens": lambda company, claims: f"{company.sign(claims, typ='secevent+jwt')} {company.sign(claims)}",
    "no token": lambda *_: "x",
    "nothing": lambda *_: "",
    "too much": lambda company, claims: company.sign({**claims, "x": "x" * 70_000}, typ="secevent+jwt"),
    "deep": lambda *_: f"{b64({'alg': 'ES256', 'typ': 'secevent+jwt'})}.{'W1tb' * 10_000}.x",
}


@pytest.mark.parametrize("name", TOKENS)
async def test_a_forged_event_changes_nothing(company: Company, victim: Employee, name: str) -> None:
    answer = await company.push(TOKENS[name](company, company.event(REVOKED, company.subject_of(victim))))
    assert answer.status_code in {400, 413}, answer.text
    await stays(company, victim)


LIES: dict[str, Callable[[Company], Claims]] = {
    "the other company as issuer": lambda company: {"iss": company.issuer("globex")},
    "the issuer with a slash": lambda company: {"iss": company.issuer() + "/"},
    "the issuer with a look-alike letter": lambda company: {"iss": company.issuer().replace("acme", "аcme")},
    "issuers in a list": lambda company: {"iss": [company.issuer()]},
    "no issuer": with_claims(iss=None),
    "another door as audience": lambda company: {"aud": f"{company.target.url}/signals/globex"},
    "the vault as audience": lambda company: {"aud": company.target.url},
    "the door with a part more": lambda company: {"aud": f"{company.target.url}/signals/acme/x"},
    "no audience": with_claims(aud=None),
    "an old one": offset(iat=-3700),
    "one of the future": offset(iat=400),
    "no time": with_claims(iat=None),
    "a time as text": lambda _: {"iat": str(int(time.time()))},
    "an endless time": with_claims(iat=1e400),
    "an end": offset(exp=60),
    "a subject as claim": with_claims(sub="x"),
    "no name": with_claims(jti=None),
    "an empty name": with_claims(jti=""),
    "an endless name": with_claims(jti="x" * 300),
    "half a pair as name": with_claims(jti="\ud800"),
    "a number as name": with_claims(jti=1),
    "no event": with_claims(events={}),
    "events in a list": with_claims(events=[REVOKED]),
    "an event that is none": with_claims(events={REVOKED: True}),
    "too many events": with_claims(events={f"{REVOKED}{n}": {} for n in range(9)}),
}


@pytest.mark.parametrize("name", LIES)
async def test_an_event_that_says_something_else_is_refused(company: Company, victim: Employee, name: str) -> None:
    claims = {**company.event(REVOKED, company.subject_of(victim)), **LIES[name](company)}
    honest = {key: one for key, one in claims.items() if one is not None}
    answer = await company.push(company.sign(honest, typ="secevent+jwt"))
    assert answer.status_code == 400, answer.text
    assert answer.json()["err"] in {"invalid_request", "invalid_issuer", "invalid_audience", "invalid_key"}
    await stays(company, victim)


SUBJECTS: dict[str, Callable[[Company, Employee], object]] = {
    "of the other company": lambda company, one: {
        "format": "iss_sub",
        "iss": company.issuer("globex"),
        "sub": one.subject,
    },
    "of an unknown issuer": lambda _, one: {"format": "iss_sub", "iss": "https://evil.example", "sub": one.subject},
    "of the issuer with a slash": lambda company, one: {
        "format": "iss_sub",
        "iss": company.issuer() + "/",
        "sub": one.subject,
    },
    "in capitals": lambda company, one: {
        "format": "iss_sub",
        "iss": company.issuer(),
        "sub": "X" + one.subject.upper(),
    },
    "by the vault's id": lambda company, one: {"format": "iss_sub", "iss": company.issuer(), "sub": one.id},
    "by the vault's name": lambda _, one: {"format": "opaque", "id": one.name},
    "by the vault as issuer": lambda company, one: {"format": "iss_sub", "iss": company.target.url, "sub": one.id},
    "by an address": lambda _, one: {"format": "email", "email": f"{one.name}@acme.example"},
    "by a wildcard": lambda company, _: {"format": "iss_sub", "iss": company.issuer(), "sub": "%"},
    "of no format": lambda company, one: {"iss": company.issuer(), "sub": one.subject},
    "of an unknown format": lambda company, one: {"format": "x", "iss": company.issuer(), "sub": one.subject},
    "nested aliases": lambda company, one: {
        "format": "aliases",
        "identifiers": [{"format": "aliases", "identifiers": [company.subject_of(one)]}],
    },
    "two complex ones": lambda company, one: {
        "format": "complex",
        "user": {"format": "complex", "user": company.subject_of(one)},
    },
    "a tenant alone": lambda company, one: {"format": "complex", "tenant": company.subject_of(one)},
    "text": lambda _, one: one.subject,
    "a list": lambda company, one: [company.subject_of(one)],
    "nothing": lambda *_: None,
    "with NUL": lambda company, one: {"format": "iss_sub", "iss": company.issuer(), "sub": one.subject + "\0"},
    "half a pair": lambda company, _: {"format": "iss_sub", "iss": company.issuer(), "sub": "\ud800"},
    "endless": lambda company, _: {"format": "iss_sub", "iss": company.issuer(), "sub": "x" * 20_000},
}


@pytest.mark.parametrize("name", SUBJECTS)
async def test_a_subject_that_is_nobody_here_ends_nobody(company: Company, victim: Employee, name: str) -> None:
    answer = await company.tell(DISABLED, SUBJECTS[name](company, victim))
    assert answer.status_code in {202, 400}, answer.text
    assert victim.name not in answer.text
    await stays(company, victim)


async def test_two_people_in_one_event_are_none(company: Company) -> None:
    one, other = await company.employee(), await company.employee()
    both = {"format": "aliases", "identifiers": [company.subject_of(one), company.subject_of(other)]}
    assert (await company.tell(DISABLED, both)).status_code == 202
    await stays(company, one)
    await stays(company, other)
    same = {"format": "aliases", "identifiers": [company.subject_of(one), company.subject_of(one)]}  # the twin
    assert (await company.tell(DISABLED, same)).status_code == 202
    assert (await company.facts(one.id))["disabled"] is True


@pytest.mark.parametrize("door", ["globex", "acme", "strict", "unknown"])
async def test_people_of_another_company_are_not_ended(company: Company, door: str) -> None:
    """The subject is the same at both companies; each company's event affects only its own person."""
    name = secrets.token_hex(8)
    one, other = await company.employee(subject=name), await company.employee("globex", subject=name)
    claims = company.event(DISABLED, {"format": "opaque", "id": name}, "globex")
    answer = await company.push(
        company.sign(claims, "globex", typ="secevent+jwt"), door, authorization=f"Bearer {PUSH_TOKEN}"
    )
    assert answer.status_code == {"globex": 202, "unknown": 404}.get(door, 400), answer.text
    await stays(company, one)
    assert (await company.facts(other.id))["disabled"] is (door == "globex")


AUTHORIZATIONS = (
    "",
    "Bearer",
    "Bearer x",
    f"Basic {PUSH_TOKEN}",
    PUSH_TOKEN,
    f"Bearer {REVOCATION_TOKEN}",
    f"Bearer {PUSH_TOKEN} x",
)


@pytest.mark.parametrize("sent", AUTHORIZATIONS)
async def test_a_door_with_a_token_opens_by_it_only(company: Company, victim: Employee, sent: str) -> None:
    aud = f"{company.target.url}/signals/strict"
    token = company.sign(company.event(REVOKED, company.subject_of(victim), aud=aud), typ="secevent+jwt")
    answer = await company.push(token, "strict", **({"authorization": sent} if sent else {}))
    assert answer.json()["err"] == "authentication_failed"
    await stays(company, victim)
    harmless = company.event(REVOKED, {"format": "opaque", "id": "x"}, aud=aud)
    answer = await company.push(
        company.sign(harmless, typ="secevent+jwt"), "strict", authorization=f"Bearer {PUSH_TOKEN}"
    )
    assert answer.status_code == 202  # the twin


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/jwt", ""])
async def test_an_event_of_another_content_type_is_not_read(company: Company, victim: Employee, kind: str) -> None:
    token = company.sign(company.event(REVOKED, company.subject_of(victim)), typ="secevent+jwt")
    answer = await company.target.http.post("/signals/acme", content=token, headers={"content-type": kind})
    assert answer.status_code == 400
    await stays(company, victim)


# Repeats


async def test_an_event_counts_once_at_all_doors(company: Company) -> None:
    """Somebody who kept the event can't sign anybody out again."""
    employee = await company.employee()
    doors = [f"{company.target.url}/signals/{one}" for one in ("acme", "strict")]
    token = company.sign(company.event(REVOKED, company.subject_of(employee), aud=doors), typ="secevent+jwt")
    bearer = {"authorization": f"Bearer {PUSH_TOKEN}"}
    answers = await asyncio.gather(*(company.push(token) for _ in range(6)), company.push(token, "strict", **bearer))
    assert {one.status_code for one in answers} == {202}
    assert not await is_signed_in(employee.browser)
    assert (await employee.browser.sign_in(employee.name, PASSWORD)).status_code == 200
    assert (await company.push(token)).status_code == 202
    assert (await company.push(token, "strict", **bearer)).status_code == 202
    await stays(company, employee)


async def test_a_late_event_ends_no_session_begun_since(company: Company) -> None:
    employee = await company.employee()
    before = int(time.time()) - 1800
    events = {REVOKED: {"event_timestamp": before}}
    assert (await company.tell(REVOKED, company.subject_of(employee), iat=before, events=events)).status_code == 202
    await stays(company, employee)


async def test_repeats_of_one_event_do_not_shut_out_the_next(company: Company) -> None:
    """Somebody who has seen an event can send it again, but doesn't use up the transmitter's rate limit."""
    employee = await company.employee("globex")
    seen = company.sign(company.event(REVOKED, {"format": "opaque", "id": "x"}, "globex"), "globex", typ="secevent+jwt")
    for _ in range(14):
        answers = await asyncio.gather(*(company.push(seen, "globex") for _ in range(50)))
        assert {one.status_code for one in answers} <= {202, 429}
    event = company.event(REVOKED, company.subject_of(employee, "globex"), "globex")
    headers = {"content-type": "application/secevent+jwt", "host": urlsplit(company.target.url).netloc}
    transmitter = httpx2.AsyncHTTPTransport(local_address="127.0.0.2")  # the stranger's address has sent too much
    async with httpx2.AsyncClient(transport=transmitter, timeout=30) as http:
        answer = await http.post(
            f"http://127.0.0.1:{urlsplit(company.target.url).port}/signals/globex",
            content=company.sign(event, "globex", typ="secevent+jwt"),
            headers=headers,
        )
    assert answer.status_code == 202, answer.text
    assert not await is_signed_in(employee.browser)


async def test_the_last_owner_is_not_disabled_by_an_event(company: Company) -> None:
    """Nor are both of two owners whose events arrive at once."""
    target, subject, path = company.target, secrets.token_hex(6), "/people?limit=200"
    alice = str((await target.alice.http.get("/account/data")).json()["user"]["id"])
    while path:
        page = await company.call_api("GET", path)
        for one in cast("list[dict[str, object]]", page["items"]):
            if one["role"] == "owner" and one["id"] != alice:
                await company.call_api("PATCH", f"/people/{one['id']}", {"role": "member"})
        path = f"/people?limit=200&cursor={page['next_cursor']}" if page["next_cursor"] else ""
    second = await company.employee()
    await company.call_api("PATCH", f"/people/{second.id}", {"role": "owner"})
    await company.call_api("POST", f"/people/{alice}/identities", {"issuer": company.issuer(), "subject": subject})
    everybody = [{"format": "opaque", "id": one} for one in (subject, second.subject)]
    answers = await asyncio.gather(*(company.tell(DISABLED, one) for one in everybody))
    assert {one.status_code for one in answers} == {202}
    rows = json.loads(await target.command("users", "list", "--json"))
    left = [row["name"] for row in rows if row["role"] == "owner" and row["disabled_at"] is None]
    assert len(left) == 1, left
    await target.command("users", "enable", "alice")
    assert (await target.alice.sign_in("alice", PASSWORD)).status_code == 200
    target.kept.pop("admin token", None)
    for key in [one for one in target.kept if one.startswith("service ")]:
        del target.kept[key]  # what was ended with alice


# Global Token Revocation


def revocation(company: Company, name: str = "acme", **changes: object) -> Claims:
    now = int(time.time())
    claims: Claims = {
        "iss": company.issuer(name),
        "aud": f"{company.target.url}/global-token-revocation",
        "jti": secrets.token_urlsafe(8),
        "iat": now,
        "exp": now + 120,
    }
    return {key: one for key, one in (claims | changes).items() if one is not None}


async def revoke(company: Company, bearer: str, subject: object, **more: str) -> httpx2.Response:
    headers = {"authorization": f"Bearer {bearer}"} | more
    answer = await company.target.http.post("/global-token-revocation", json={"sub_id": subject}, headers=headers)
    assert answer.status_code < 500, answer.text
    return answer


REVOCATIONS: dict[str, Callable[[Company], str]] = {
    "no token": lambda _: "-",
    "another token": lambda _: "x",
    "the push token": lambda _: PUSH_TOKEN,
    "the directory's token": lambda company: company.token,
    "the other company's": lambda company: company.sign(revocation(company, "globex"), "globex", typ=JWT_TYPE),
    "another key": lambda company: company.sign(revocation(company), key=ATTACKER, typ=JWT_TYPE),
    "a security event": lambda company: company.sign(revocation(company), typ="secevent+jwt"),
    "an assertion": lambda company: company.sign(revocation(company)),
    "another audience": lambda company: company.sign(revocation(company, aud=company.target.url), typ=JWT_TYPE),
    "an audience in a list": lambda company: company.sign(revocation(company, aud=["x"]), typ=JWT_TYPE),
    "an old one": lambda company: company.sign(
        revocation(company, iat=int(time.time()) - 500, exp=int(time.time()) - 90), typ=JWT_TYPE
    ),
    "one that lives long": lambda company: company.sign(revocation(company, exp=int(time.time()) + 5000), typ=JWT_TYPE),
    "no end": lambda company: company.sign(revocation(company, exp=None), typ=JWT_TYPE),
    "no name": lambda company: company.sign(revocation(company, jti=None), typ=JWT_TYPE),
    "no algorithm": lambda company: f"{b64({'alg': 'none', 'typ': JWT_TYPE})}.{b64(revocation(company))}.",
}
JWT_TYPE = "global-token-revocation+jwt"


@pytest.mark.parametrize("name", REVOCATIONS)
async def test_nobody_else_revokes(company: Company, victim: Employee, name: str) -> None:
    answer = await revoke(company, REVOCATIONS[name](company), company.subject_of(victim))
    assert answer.status_code in {401, 404}, answer.text
    await stays(company, victim)


async def test_a_revocation_counts_once_and_for_its_own_people(company: Company) -> None:
    employee, other = await company.employee(), await company.employee("globex")
    agent = await company.target.agent(employee.browser)
    for subject in (
        company.subject_of(other, "globex"),
        {"format": "opaque", "id": other.subject},
        {"format": "x"},
        "x",
        None,
    ):
        assert (await revoke(company, REVOCATION_TOKEN, subject)).status_code in {400, 404}
    assert await is_signed_in(other.browser)
    token = company.sign(revocation(company), typ=JWT_TYPE)
    answers = await asyncio.gather(*(revoke(company, token, company.subject_of(employee)) for _ in range(6)))
    assert sorted(one.status_code for one in answers) == [204, *[401] * 5]
    assert not await company.may_call(agent)
    assert not await is_signed_in(employee.browser)
    assert (await employee.browser.sign_in(employee.name, PASSWORD)).status_code == 200
    assert (await revoke(company, token, company.subject_of(employee))).status_code == 401
    await stays(company, employee)
