"""OpenID CIBA Core 1.0 §7.1, §7.1.1: requests that the client signs, people's codes, and hints of another issuer."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncGenerator, Mapping
from html import unescape

import httpx2
import pytest
from joserfc.jwk import ECKey, OKPKey

from server.oauth.backchannel import authentication_request
from server.oauth.backchannel.clients import DETAILS_TYPES, SIGNING_ALG, USER_CODE
from server.oauth.clients.authentication import ASSERTION_TYPE
from tests.support.doubles.openid_double import OpenIDDouble, running_openid
from tests.support.doubles.stopped_clock import stopped_clock
from tests.support.rooms.ciba_room import PAYMENT, SECRET, Asker, Vault
from tests.support.rooms.oauth_world import GENEROUS, error_of, sign_jwt, vault_with
from vault import replay, users
from vault.approvals import approvals, user_codes
from vault.approvals.requests import request_of

AUDIENCE = "api://vault"


@pytest.fixture(scope="module")
async def issuer() -> AsyncGenerator[OpenIDDouble]:
    async with running_openid(lambda: 0) as running:
        yield running


@pytest.fixture(scope="module")
async def ciba_vault(issuer: OpenIDDouble, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Vault]:
    trusted = {"company": {"issuer": issuer.url, "audience": AUDIENCE}}
    async with vault_with(
        tmp_path_factory.mktemp("ciba"), issuers=trusted, sandbox={"loopback_openid": True}, **GENEROUS
    ) as opened:
        yield opened


# Requests that the client signs


class Signer:
    """A client that signs every request with its key and authenticates with the same key."""

    def __init__(self, asker: Asker, key: ECKey) -> None:
        self.asker, self.key = asker, key

    def claims(self, **changes: object) -> dict[str, object]:
        now = self.asker.world.now()
        honest: dict[str, object] = {
            "iss": self.asker.client.id,
            "aud": self.asker.world.url,
            "exp": now + 300,
            "nbf": now,
            "iat": now,
            "jti": secrets.token_hex(8),
            "scope": "openid tools",
            "login_hint": self.asker.person.id,
            "binding_message": "Order 4711",
        }
        return {name: value for name, value in (honest | changes).items() if value is not None}

    def sign(self, *, key: ECKey | None = None, header: Mapping[str, object] | None = None, **changes: object) -> str:
        head = {"alg": "ES256", "kid": self.key.kid, **(header or {})}
        return sign_jwt(head, self.claims(**changes), key or self.key)

    async def post(self, request: str | None, **beside: str) -> httpx2.Response:
        now, own = self.asker.world.now(), self.asker.client.id
        assertion = {"iss": own, "sub": own, "aud": self.asker.world.url, "jti": secrets.token_hex(8)}
        assertion |= {"iat": now, "exp": now + 60}
        form = {
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": sign_jwt({"alg": "ES256", "kid": self.key.kid}, assertion, self.key),
            **({} if request is None else {"request": request}),
            **beside,
        }
        return await self.asker.world.http.post("/bc-authorize", data=form)


@pytest.fixture
async def signer(asker: Asker) -> Signer:
    key = ECKey.generate_key("P-256", {"kid": "one"}, private=True)
    keys = {"keys": [key.as_dict(private=False)]}
    metadata = {SIGNING_ALG: "ES256", "jwks": keys, DETAILS_TYPES: ["payment"]}
    other = await asker.other(auth_method="private_key_jwt", secret_hash=None, metadata=metadata)
    return Signer(other, key)


async def test_a_signed_request_is_what_the_person_is_asked(signer: Signer) -> None:
    claims = {"requested_expiry": 120, "authorization_details": [PAYMENT], "binding_message": "Signed"}
    answer = await signer.post(signer.sign(**claims))
    assert answer.status_code == 200, answer.text
    assert answer.json()["expires_in"] == 120
    deployment, person = signer.asker.world.vault.deployment, signer.asker.person
    (asked,) = await approvals.list_pending(deployment.database, deployment.keys, person.id, now=deployment.now())
    found = request_of(asked)
    assert (found.message, list(found.details)) == ("Signed", [PAYMENT])
    assert (await signer.post(signer.sign(requested_expiry="90"))).json()["expires_in"] == 90


async def test_a_client_that_signs_signs_all_and_others_nothing(signer: Signer, asker: Asker) -> None:
    plain = {"scope": "openid tools", "login_hint": asker.person.id}
    assert error_of(await signer.post(None, **plain)) == "invalid_request"
    assert error_of(await signer.post(signer.sign(), **plain)) == "invalid_request"
    assert error_of(await asker.post({"request": signer.sign()})) == "request_not_supported"
    assert (await signer.post(signer.sign(), client_id=signer.asker.client.id)).status_code == 200


async def test_a_signed_request_works_once(signer: Signer) -> None:
    request = signer.sign()
    assert (await signer.post(request)).status_code == 200
    assert error_of(await signer.post(request)) == "invalid_request"


async def test_a_signed_request_is_refused_again_until_its_last_second(signer: Signer) -> None:
    database = signer.asker.world.vault.deployment.database
    with stopped_clock(database) as now:
        once, other = signer.sign(exp=now + 60), signer.sign(exp=now + 60)
        assert (await signer.post(once)).status_code == 200
    with stopped_clock(database, at=now + 60 + 29):
        assert error_of(await signer.post(once)) == "invalid_request"
        assert (await signer.post(other)).status_code == 200


async def test_after_a_restore_only_requests_from_before_it_are_refused(signer: Signer) -> None:
    """It is no longer known which of those were used."""
    deployment, now = signer.asker.world.vault.deployment, signer.asker.world.now()
    async with deployment.transaction() as transaction:
        await replay.note_restore(transaction, now=now - 120)
    try:
        assert error_of(await signer.post(signer.sign(nbf=now - 125))) == "invalid_request"
        assert (await signer.post(signer.sign())).status_code == 200
    finally:
        async with deployment.transaction() as transaction:
            await transaction.execute("delete from seen where purpose = 'restored'", {})


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "another"},
        {"iss": None},
        {"aud": "https://other.example"},
        {"aud": None},
        {"exp": None},
        {"exp": -30},
        {"exp": 3601},
        {"nbf": None},
        {"nbf": 31},
        {"iat": None},
        {"iat": 31},
        {"jti": None},
        {"jti": ""},
        {"jti": 7},
        {"sub": "somebody"},
        {"scope": ["openid"]},
        {"requested_expiry": True},
        {"binding_message": 7},
    ],
    ids=str,
)
async def test_a_signed_request_with_a_fault_is_refused(signer: Signer, changes: dict[str, object]) -> None:
    now = signer.asker.world.now()
    sent = {
        name: now + value if name in {"exp", "nbf", "iat"} and isinstance(value, int) else value
        for name, value in changes.items()
    }
    assert error_of(await signer.post(signer.sign(**sent))) == "invalid_request"
    assert (await signer.post(signer.sign(aud=[signer.asker.world.url], exp=now + 3600))).status_code == 200


@pytest.mark.parametrize(
    ("claims", "counts"),
    [
        ({"exp": -29}, True),
        ({"exp": -30}, False),
        ({"exp": 3600}, True),
        ({"exp": 3601}, False),
        ({"nbf": 30}, True),
        ({"nbf": 31}, False),
        ({"iat": 30}, True),
        ({"iat": 31}, False),
    ],
    ids=str,
)
async def test_a_signed_request_counts_at_exactly_these_seconds(
    signer: Signer, claims: dict[str, int], *, counts: bool
) -> None:
    with stopped_clock(signer.asker.world.vault.deployment.database) as now:
        answer = await signer.post(signer.sign(**{name: now + value for name, value in claims.items()}))
    assert (answer.status_code, counts or error_of(answer)) == ((200, True) if counts else (400, "invalid_request"))


async def test_the_signature_is_of_the_clients_key_and_algorithm(signer: Signer) -> None:
    stranger = ECKey.generate_key("P-256", {"kid": "one"}, private=True)
    assert error_of(await signer.post(signer.sign(key=stranger))) == "invalid_request"
    for header in ({"alg": "none"}, {"alg": "RS256"}, {"crit": ["exp"]}, {"kid": "two"}):
        assert error_of(await signer.post(signer.sign(header=header))) == "invalid_request", header
    assert error_of(await signer.post("a.b.c")) == "invalid_request"
    assert (await signer.post(signer.sign(header={"typ": "oauth-authz-req+jwt"}))).status_code == 200


# The person's own code


async def set_code(asker: Asker, code: str, action: str = "save") -> httpx2.Response:
    page = await asker.world.alice.open("/approvals")
    return await asker.world.alice.submit(page, {"code": code}, form="/approvals/code", button=("action", action))


def read(page: httpx2.Response) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page.text)).split())


async def test_only_who_knows_the_persons_code_can_ask_them(asker: Asker) -> None:
    other = await asker.other(metadata={USER_CODE: True})
    assert error_of(await other.post({"user_code": "tulip-4711"})) == "invalid_user_code", "none is set"
    assert "Code saved" in read(await set_code(asker, "tulip-4711"))
    assert error_of(await other.post()) == "missing_user_code"
    assert error_of(await other.post({"user_code": "tulip-4712"})) == "invalid_user_code"
    assert (await other.post({"user_code": "tulip-4711"})).status_code == 200
    assert (await asker.post()).status_code == 200, "other clients need none"


async def test_a_code_can_be_replaced_and_removed(asker: Asker) -> None:
    other = await asker.other(metadata={USER_CODE: True})
    await set_code(asker, "first-code")
    await set_code(asker, "second-code")
    assert error_of(await other.post({"user_code": "first-code"})) == "invalid_user_code"
    assert (await other.post({"user_code": "second-code"})).status_code == 200
    for _ in range(2):  # the second time, there is none
        assert "Code removed" in read(await set_code(asker, "", "remove"))
    assert error_of(await other.post({"user_code": "second-code"})) == "invalid_user_code"
    await set_code(asker, "x" * 64)
    assert (await other.post({"user_code": "x" * 64})).status_code == 200, "the longest one"
    assert [one.details["is_set"] for one in await asker.events("user_code.changed")] == [True, True, False, True]


@pytest.mark.parametrize("code", ["12345", "x" * 65, " 123456", "123456\t"])
async def test_a_code_that_can_not_be_used_is_refused(asker: Asker, code: str) -> None:
    assert (await set_code(asker, code)).status_code == 400
    assert not await user_codes.has_code(asker.world.vault.deployment.database, asker.person.id)
    assert (await set_code(asker, "123456")).status_code == 200


async def test_codes_can_not_be_guessed_for_long(asker: Asker) -> None:
    other = await asker.other(metadata={USER_CODE: True})
    await set_code(asker, "tulip-4711")
    for _ in range(3):
        assert (await other.post({"user_code": "tulip-4711"})).status_code == 200, "right ones don't count"
    with asker.world.clock_ahead(60):
        for _ in range(10):
            assert error_of(await other.post({"user_code": "wrong-one"})) == "invalid_user_code"
        assert (await other.post({"user_code": "tulip-4711"})).status_code == 429
    with asker.world.clock_ahead(7300):
        assert (await other.post({"user_code": "tulip-4711"})).status_code == 200


async def test_wrong_codes_use_up_nothing_that_other_clients_need(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication_request, "PER_PERSON", 2)
    other = await asker.other(metadata={USER_CODE: True})
    await set_code(asker, "tulip-4711")
    for _ in range(3):
        assert error_of(await other.post({"user_code": "wrong-one"})) == "invalid_user_code"
    assert (await asker.post()).status_code == 200
    assert (await other.post({"user_code": "tulip-4711"})).status_code == 200
    assert (await asker.post()).status_code == 429, "questions that reached the person count for all"


async def test_a_deleted_persons_code_is_gone(asker: Asker) -> None:
    await set_code(asker, "tulip-4711")
    deployment = asker.world.vault.deployment
    assert await user_codes.has_code(deployment.database, asker.person.id)
    async with deployment.transaction() as transaction:
        await users.delete_user(transaction, asker.person.id, now=deployment.now())
    assert not await user_codes.has_code(deployment.database, asker.person.id)


# Hints of another issuer


def hint(asker: Asker, issuer: OpenIDDouble, **changes: object) -> str:
    now = asker.world.now()
    claims = {"iss": issuer.url, "sub": "employee-1", "aud": AUDIENCE, "iat": now, "exp": now + 60} | changes
    assert not isinstance(issuer.key, OKPKey)
    return sign_jwt({"alg": "RS256", "kid": issuer.key.kid, "typ": "JWT"}, claims, issuer.key)


async def test_a_trusted_issuer_names_the_person(asker: Asker, issuer: OpenIDDouble) -> None:
    deployment, now = asker.world.vault.deployment, asker.world.now()
    subject = secrets.token_hex(4)
    named = {"login_hint": None, "login_hint_token": hint(asker, issuer, sub=subject)}
    assert error_of(await asker.post(named)) == "unknown_user_id", "nobody is linked yet"
    async with deployment.transaction() as transaction:
        await users.link_identity(transaction, issuer=issuer.url, subject=subject, user_id=asker.person.id, now=now)
    assert (await asker.post(named)).status_code == 200
    assert "Order 4711" in read(await asker.page())
    with stopped_clock(deployment.database) as now:
        for exp, status in ((now + 1, 200), (now, 400)):
            sent = {"login_hint": None, "login_hint_token": hint(asker, issuer, sub=subject, exp=exp)}
            assert (await asker.post(sent)).status_code == status
    for changes, error in (
        ({"exp": now - 1}, "expired_login_hint_token"),
        ({"exp": None}, "expired_login_hint_token"),
        ({"aud": "another"}, "invalid_request"),
        ({"iss": "https://other.example"}, "invalid_request"),
    ):
        wrong = {"login_hint": None, "login_hint_token": hint(asker, issuer, sub=subject, **changes)}
        assert error_of(await asker.post(wrong)) == error, changes


async def test_a_hint_that_is_no_token_is_refused(asker: Asker) -> None:
    unsigned = json.dumps({"login_hint_token": "x"})
    assert error_of(await asker.post({"login_hint": None, "login_hint_token": unsigned})) == "invalid_request"
    assert (await asker.post({"client_secret": SECRET})).status_code == 200
