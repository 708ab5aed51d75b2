"""JWTs of trusted external issuers: mapped to the user who is linked to that identity; they never create a user."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from server.oauth import tokens
from server.oauth.exchange.exchange import SHORTEST
from server.oauth.exchange.issuers import MAX_LIFETIME
from server.signatures.jose import TokenMalformed
from tests.support.doubles.openid_double import OpenIDDouble, running_openid
from tests.support.doubles.stopped_clock import stopped_clock
from tests.support.rooms.exchange_room import JWT, Caller, ExchangeRoom, exchange_room, refusal_code
from tests.support.rooms.oauth_world import claims_of, sign_jwt
from vault import handles, users
from vault.records import ClientKind, User

AUDIENCE = "api://vault"
TRUSTED_CLIENT = "trusted-client"
Key = RSAKey | ECKey


@dataclass
class Company:
    """A vault that trusts an issuer, which can be made to lie."""

    place: ExchangeRoom
    issuer: OpenIDDouble
    caller: Caller
    user: User

    def token(self, *, header: dict[str, object] | None = None, key: Key | None = None, **claims: object) -> str:
        now, own = self.place.now(), self.issuer.key
        assert not isinstance(own, OKPKey)
        body: dict[str, object] = {
            "iss": self.issuer.url,
            "sub": "employee-1",
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 200,
            "azp": "intranet",
            "scope": "tools profile",
        }
        head: dict[str, object] = {"alg": "RS256", "kid": self.issuer.key.kid, "typ": "at+jwt"} | (header or {})
        kept = {name: value for name, value in (body | claims).items() if value is not None}
        return sign_jwt({name: value for name, value in head.items() if value is not None}, kept, key or own)

    async def ask(self, token: str, caller: Caller | None = None, **more: str | None) -> httpx2.Response:
        wanted: dict[str, str | None] = {"scope": "chat:write"} | more
        return await self.place.exchange(caller or self.caller, token, kind=JWT, **wanted)


@pytest.fixture(scope="module")
async def company(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Company]:
    moment = [0]
    folder: Path = tmp_path_factory.mktemp("issuers") / "data"
    async with running_openid(lambda: moment[0]) as issuer:
        trusted = {
            "issuer": issuer.url,
            "audience": AUDIENCE,
        }
        async with exchange_room(
            folder,
            issuers={"company": trusted, "other": {**trusted, "issuer": "http://127.0.0.1:9/none"}},
            sandbox={"loopback_openid": True},
        ) as place:
            caller = await place.caller()
            agent = await place.agent(caller)
            await place.slack(agent)
            user = await place.user()
            async with place.deployment.transaction() as transaction:
                for subject in ("employee-1", "1"):
                    await users.link_identity(
                        transaction, issuer=issuer.url, subject=subject, user_id=user.id, now=place.now()
                    )
            yield Company(place, issuer, caller, user)


@pytest.fixture(autouse=True)
def honest(company: Company) -> Generator[None]:
    yield
    company.issuer.reset()


async def test_the_linked_user_is_who_the_token_is_about(company: Company) -> None:
    token = company.token()
    answer = await company.ask(token)
    assert answer.status_code == 200, answer.text
    found = await handles.find(
        company.place.deployment.database, answer.json()["access_token"], now=company.place.now()
    )
    assert found.principal.user_id == company.user.id
    assert found.principal.actors == (company.caller.client.id, "company:intranet")
    assert answer.json()["expires_in"] <= 200, "not longer than the subject"
    assert (await company.ask(token)).status_code == 200, "an access token may be presented again"


@pytest.mark.requirement("S-110", "S-111")
@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "api://other"},
        {"aud": None},
        {"aud": ["api://other"]},
        {"sub": "employee-2"},
        {"sub": None},
        {"sub": ""},
        {"sub": 1},
        {"exp": None},
        {"exp": 4},
        {"exp": 0},
        {"exp": -10},
        {"iat": None},
        {"iat": 31},
        {"exp": 86_401},
        {"nbf": 31},
        {"nbf": "tomorrow"},
        {"nbf": 2**53},
        {"may_act": {"sub": "somebody-else"}},
        {"may_act": "x"},
    ],
    ids=str,
)
async def test_a_token_that_is_not_right_is_refused(company: Company, claims: dict[str, object]) -> None:
    now, before = company.place.now(), len(await users.list_users(company.place.deployment.database))
    sent = {
        name: now + value if name in {"iat", "exp", "nbf"} and isinstance(value, int) else value
        for name, value in claims.items()
    }
    assert refusal_code(await company.ask(company.token(**sent))) == "invalid_request"
    assert len(await users.list_users(company.place.deployment.database)) == before, "nobody is made a user by it"
    good = [{"aud": [AUDIENCE, "api://other"]}, {"may_act": {"sub": company.caller.client.id}}, {"nbf": now + 30}]
    good += [{"iat": now + 30}, {"exp": now + 5}, {"exp": now + 86_400}, {"sub": "1"}]
    for one in good:
        assert (await company.ask(company.token(**one))).status_code == 200


@pytest.mark.parametrize(
    ("claims", "counts"),
    [
        ({"exp": SHORTEST}, True),
        ({"exp": SHORTEST - 1}, False),
        ({"iat": -100, "exp": MAX_LIFETIME - 100}, True),
        ({"iat": -100, "exp": MAX_LIFETIME - 99}, False),
        ({"iat": 30}, True),
        ({"iat": 31}, False),
        ({"nbf": 30}, True),
        ({"nbf": 31}, False),
    ],
    ids=str,
)
async def test_a_token_counts_at_exactly_these_seconds(
    company: Company, claims: dict[str, int], *, counts: bool
) -> None:
    with stopped_clock(company.place.deployment.database) as now:
        answer = await company.ask(company.token(**{name: now + value for name, value in claims.items()}))
    assert (answer.status_code, counts or refusal_code(answer)) == ((200, True) if counts else (400, "invalid_request"))


@pytest.mark.parametrize(
    ("scope", "code"), [("tools profile", ""), ("profile", "invalid_scope"), (None, "invalid_scope")]
)
async def test_a_token_without_a_scope_of_ours_becomes_none_of_ours(
    company: Company, scope: str | None, code: str
) -> None:
    answer = await company.ask(company.token(scope=scope), scope=None, audience=f"{company.place.url}/mcp")
    if code:
        assert refusal_code(answer) == code
    else:
        assert (answer.status_code, answer.json()["scope"]) == (200, "tools")


@pytest.mark.requirement("S-110")
async def test_only_the_issuers_own_keys_count(company: Company) -> None:
    other = RSAKey.generate_key(2048, {"kid": company.issuer.key.kid})
    bad = [
        company.token(key=other),
        company.token(header={"alg": "none"}),
        company.token(header={"typ": "dpop+jwt"}),
        company.token(header={"jku": "https://evil.example/keys"}),
        company.token(header={"crit": ["exp"]}),
        company.issuer.unsigned_token(claims_of(company.token())),
        company.issuer.unsigned_token(claims_of(company.token()), algorithm="HS256") + "AAAA",
    ]
    for token in bad:
        assert refusal_code(await company.ask(token)) == "invalid_request"
    for header in ({"typ": "JWT"}, {"typ": None}, {"kid": None}):
        assert (await company.ask(company.token(header=header))).status_code == 200


@pytest.mark.requirement("S-110")
async def test_a_new_key_of_the_issuer_counts_whatever_its_kind(company: Company) -> None:
    now, old = company.place.now(), company.issuer.key
    claims: dict[str, object] = {"iss": company.issuer.url, "sub": "employee-1", "aud": AUDIENCE, "iat": now}
    claims |= {"exp": now + 200, "scope": "tools profile"}
    assert (await company.ask(company.token())).status_code == 200
    company.issuer.key, company.issuer.algorithm = ECKey.generate_key("P-384", {"kid": "next"}), "ES384"
    try:
        company.place.deployment.database.clock_offset += 10
        assert (await company.ask(company.issuer.sign_claims(claims))).status_code == 200
        retired = company.token(key=old, header={"kid": old.kid})
        assert refusal_code(await company.ask(retired)) == "invalid_request"
    finally:
        company.issuer.key = old
        company.place.deployment.database.clock_offset += 10


async def test_a_client_that_registered_itself_cannot_present_them(company: Company) -> None:
    for kind, code in ((ClientKind.DYNAMIC, "invalid_request"), (ClientKind.METADATA, "invalid_request")):
        caller = await company.place.caller(kind=kind)
        await company.place.slack(await company.place.agent(caller))
        assert refusal_code(await company.ask(company.token(), caller)) == code
    public = await company.place.caller(public=True)
    assert refusal_code(await company.ask(company.token(), public)) == "invalid_request"
    assert (await company.ask(company.token())).status_code == 200


async def test_an_issuer_can_be_for_some_clients_only(company: Company, tmp_path: Path) -> None:
    trusted = {"issuer": company.issuer.url, "audience": AUDIENCE, "jwks_uri": f"{company.issuer.url}/jwks"}
    overrides = {
        "issuers": {
            "company": {
                **trusted,
                "clients": [TRUSTED_CLIENT],
                "subject_claim": "employee",
                "identity_issuer": "https://idp.example",
            }
        },
        "sandbox": {"loopback_openid": True},
    }
    async with exchange_room(tmp_path / "data", **overrides) as place:
        caller, user = await place.caller(), await place.user()
        async with place.deployment.transaction() as transaction:
            await users.link_identity(
                transaction, issuer="https://idp.example", subject="e-7", user_id=user.id, now=place.now()
            )
            await transaction.execute(
                "update clients set id = :named where id = :id", {"named": TRUSTED_CLIENT, "id": caller.client.id}
            )
        named = Caller(
            caller.client, {"client_id": TRUSTED_CLIENT, "client_secret": caller.credentials["client_secret"]}
        )
        there = Company(place, company.issuer, named, user)
        # found by another claim, with identities of another issuer and keys from a configured address; nothing is
        # connected
        answer = await there.ask(there.token(employee="e-7"))
        assert answer.json().get("reason") == "missing", answer.text
        other = await place.caller()
        assert refusal_code(await there.ask(there.token(employee="e-7"), other)) == "invalid_request"
        assert "reason" not in (await there.ask(there.token(employee="e-7"), other)).json()


async def test_an_issuer_that_does_not_answer_or_answers_for_another_is_refused(company: Company) -> None:
    unreachable = company.token(iss="http://127.0.0.1:9/none")
    assert refusal_code(await company.ask(unreachable)) == "invalid_request"


async def test_a_token_of_ours_for_an_api_carries_only_what_both_have(company: Company) -> None:
    answer = await company.ask(company.token(), audience=f"{company.place.url}/mcp", scope=None)
    assert answer.status_code == 200, answer.text
    claims = claims_of(answer.json()["access_token"])
    assert claims["scope"] == "tools"
    assert claims["act"] == {"sub": company.caller.client.id, "act": {"sub": "company:intranet"}}
    wider = await company.ask(company.token(), audience=f"{company.place.url}/mcp", scope="connections")
    assert refusal_code(wider) == "invalid_scope"


def _act(*actors: object) -> object:
    """A nested `act`, outermost first."""
    nested: object = None
    for actor in reversed(actors):
        nested = {"sub": actor} if nested is None else {"sub": actor, "act": nested}
    return nested


def test_a_token_names_four_actors_at_most() -> None:
    assert tokens.actors_of(_act("a", "b", "c", "d")) == ("a", "b", "c", "d")
    with pytest.raises(TokenMalformed):
        tokens.actors_of(_act("a", "b", "c", "d", "e"))


@pytest.mark.requirement("S-114")
@pytest.mark.parametrize(
    ("act", "is_good"),
    [
        (_act("a", "b", "c"), True),
        (_act("a", "b", "c", "d"), False),  # with the calling client, there would be five
        (_act("a", "b", "c", "d", "e"), False),
        (_act("a", "b", "c", "d", "e", "f", "g"), False),
        (_act("a", None, "c"), False),
        (_act("a", 7), False),
        (_act(""), False),
        ("a", False),
        ([], False),
    ],
)
async def test_a_chain_of_another_issuer_is_taken_whole_or_not_at_all(
    company: Company, act: object, is_good: bool
) -> None:
    """As with our own tokens: at most four may act, and nobody in a longer chain is silently dropped."""
    answer = await company.ask(company.token(act=act))
    if not is_good:
        assert refusal_code(answer) == "invalid_request"
        return
    assert answer.status_code == 200, answer.text
    found = await handles.find(
        company.place.deployment.database, answer.json()["access_token"], now=company.place.now()
    )
    assert found.principal.actors == (company.caller.client.id, "company:a", "company:b", "company:c")
