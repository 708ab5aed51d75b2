"""A trusted issuer's token at /oauth/token, as Auth0's Custom Token Exchange accepts it: for an API or for `/me/`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

import httpx2
import pytest
from joserfc.jwk import OKPKey

from server.oauth.rules import TOKEN_EXCHANGE
from tests.auth0.application import Application
from tests.support.doubles.openid_double import OpenIDDouble, running_openid
from tests.support.inspection import read_events, until_waiting
from tests.support.rooms.oauth_world import claims_of, sign_jwt
from tests.support.rooms.portal_room import Room, running_room
from vault import apis, grants, users
from vault.exchange.exchange import thumbprint

API, AUDIENCE = "https://api.example/vault", "api://vault"
READ = "read:me:connected_accounts"
CLIENTS = ["bringing", "plain", "managing", "late", "kept"]


@dataclass
class ForeignApplication:
    """An application that brings the tokens of a company's issuer."""

    application: Application
    issuer: OpenIDDouble

    def token(self, **changes: object) -> str:
        now = self.application.room.deployment.now()
        claims = {
            "iss": self.issuer.url,
            "sub": self.application.user.id,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 600,
        }
        assert not isinstance(self.issuer.key, OKPKey)
        return sign_jwt({"alg": "RS256", "kid": self.issuer.key.kid}, claims | changes, self.issuer.key)

    async def exchange(self, changes: Mapping[str, str | None] | None = None) -> httpx2.Response:
        form: dict[str, str | None] = {
            "grant_type": TOKEN_EXCHANGE,
            **self.application.credentials,
            "subject_token": self.token(),
            "subject_token_type": "urn:company:token",
            "audience": API,
            "scope": "read:vault",
            **(changes or {}),
        }
        sent = {name: value for name, value in form.items() if value is not None}
        return await self.application.http.post("/oauth/token", data=sent)


@pytest.fixture(scope="module")
async def issuer() -> AsyncGenerator[OpenIDDouble]:
    async with running_openid(lambda: 0) as running:
        yield running


@pytest.fixture(scope="module")
async def room(issuer: OpenIDDouble, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    overrides = {
        "auth0": {"enabled": True},
        "server": {"issuer_slash": True},
        "issuers": {
            "company": {"issuer": issuer.url, "audience": AUDIENCE, "clients": CLIENTS},
            "for all": {"issuer": issuer.url, "audience": AUDIENCE},
        },
        "sandbox": {"loopback_openid": True},
    }
    async with running_room(tmp_path_factory.mktemp("foreign") / "data", overrides=overrides) as opened:
        async with opened.deployment.transaction() as transaction:
            now = opened.deployment.now()
            await apis.add_api(transaction, API, name="Vault API", now=now, scopes=frozenset({"read:vault"}))
        yield opened


async def register_bringing(
    room: Room, http: httpx2.AsyncClient, issuer: OpenIDDouble, **changes: object
) -> ForeignApplication:
    made = await Application.register(room, http, **{"resources": (API,), **changes})
    async with room.deployment.transaction() as transaction:
        await users.link_identity(
            transaction, issuer=issuer.url, subject=made.user.id, user_id=made.user.id, now=room.deployment.now()
        )
    return ForeignApplication(made, issuer)


@pytest.fixture(scope="module")
async def one(room: Room, issuer: OpenIDDouble) -> AsyncGenerator[ForeignApplication]:
    async with httpx2.AsyncClient(base_url=room.url, timeout=20, trust_env=False) as http:
        yield await register_bringing(room, http, issuer, id="bringing")


async def test_a_foreign_token_gets_one_for_an_api_and_one_for_the_accounts(one: ForeignApplication) -> None:
    answer = await one.exchange()
    assert answer.status_code == 200, answer.text
    found = answer.json()
    claims = claims_of(found["access_token"])
    assert (claims["aud"], claims["sub"]) == (API, one.application.user.id)
    assert (found["scope"], found["issued_token_type"].rpartition(":")[2]) == ("read:vault", "access_token")
    assert claims["scope"] == "exchange read:vault", "to be exchanged for an account's"
    assert found["expires_in"] <= 600, "not longer than what it is made of"
    me = await one.exchange({"audience": f"{one.application.room.url}/me/", "scope": f"{READ} openid"})
    token = me.json()["access_token"]
    assert set(str(claims_of(token)["scope"]).split()) == {READ, "openid"}
    listed = await one.application.me("GET", "accounts", token=token)
    assert (listed.status_code, listed.json()) == (200, {"accounts": []})
    issued = [event for event in await read_events(one.application.room.deployment) if event.kind == "token.issued"]
    thumbprints = [event.details["token_thumbprint"] for event in issued[-2:]]
    assert thumbprints == [thumbprint(found["access_token"]), thumbprint(token)]
    assert {event.details["issuer"] for event in issued[-2:]} == {"company"}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"subject_token": "a.b.c"}, "invalid_request"),
        ({"audience": "https://other.example"}, "invalid_target"),
        ({"audience": None}, "invalid_request"),
        ({"scope": "unknown:scope"}, "invalid_scope"),
        ({"client_secret": "wrong"}, "invalid_client"),
    ],
    ids=["no token", "another API", "no audience", "scope", "secret"],
)
async def test_each_fault_of_the_request_is_refused(
    one: ForeignApplication, changes: dict[str, str | None], error: str
) -> None:
    assert (await one.exchange(changes)).json()["error"] == error
    assert (await one.exchange()).status_code == 200


async def test_no_foreign_token_gives_access_to_the_admin_api(
    room: Room, issuer: OpenIDDouble, one: ForeignApplication
) -> None:
    admin_api = f"{room.url}/admin/v1"
    trusted = await register_bringing(room, one.application.http, issuer, id="managing", resources=(API, admin_api))
    refused = await trusted.exchange({"audience": admin_api, "scope": "admin:read"})
    assert refused.json()["error"] == "invalid_target"
    assert "Admin API" in refused.json()["error_description"]
    assert (await trusted.exchange()).status_code == 200


@pytest.mark.parametrize(
    "claims",
    [{"iss": "https://evil.example"}, {"aud": "api://other"}, {"sub": "nobody"}, {"exp": 1}, {"iat": None}],
    ids=str,
)
async def test_each_fault_of_the_token_is_refused(one: ForeignApplication, claims: dict[str, object]) -> None:
    refused = await one.exchange({"subject_token": one.token(**claims)})
    assert refused.json()["error"] == "invalid_request"
    assert (await one.exchange({"subject_token": one.token()})).status_code == 200


async def test_an_issuer_has_to_name_the_client(room: Room, issuer: OpenIDDouble, one: ForeignApplication) -> None:
    other = await register_bringing(room, one.application.http, issuer)
    assert "issuers.NAME.clients" in (await other.exchange()).json()["error_description"]
    plain = await register_bringing(room, one.application.http, issuer, id="plain", metadata={})
    refused = await plain.exchange()
    assert refused.json()["error"] == "invalid_request", "a client of another wire names a type that we know"
    assert (await one.exchange()).status_code == 200


async def test_a_jwt_for_an_api_keeps_to_the_foreign_tokens_scopes(one: ForeignApplication) -> None:
    kind = {"subject_token_type": "urn:ietf:params:oauth:token-type:jwt"}
    assert (await one.exchange(kind)).json()["error"] == "invalid_scope"
    named = {**kind, "subject_token": one.token(scope="read:vault")}
    assert (await one.exchange(named)).json()["scope"] == "read:vault"
    me = {**kind, "audience": f"{one.application.room.url}/me/", "scope": READ}
    assert (await one.exchange(me)).json()["scope"] == READ


async def test_tokens_of_a_person_who_was_stopped_end(
    room: Room, issuer: OpenIDDouble, one: ForeignApplication
) -> None:
    token = (await one.exchange({"audience": f"{room.url}/me/", "scope": READ})).json()["access_token"]
    assert (await one.application.me("GET", "accounts", token=token)).status_code == 200
    for disabled_at, status in ((1, 401), (None, 200)):
        async with room.deployment.transaction() as transaction:
            which = {"at": disabled_at, "id": one.application.user.id}
            await transaction.execute("update users set disabled_at = :at where id = :id", which)
        assert (await one.application.me("GET", "accounts", token=token)).status_code == status
        assert (await one.exchange()).status_code == (400 if disabled_at else 200)


@pytest.mark.parametrize(("is_removed", "client_id"), [(True, "late"), (False, "kept")])
async def test_an_api_that_is_removed_meanwhile_gets_no_grant(
    room: Room, issuer: OpenIDDouble, one: ForeignApplication, *, is_removed: bool, client_id: str
) -> None:
    api, deployment = f"https://passing.example/{client_id}", room.deployment
    async with deployment.transaction() as transaction:
        await apis.add_api(transaction, api, name="Passing", now=deployment.now(), scopes=frozenset({"read:vault"}))
    late = await register_bringing(room, one.application.http, issuer, id=client_id, resources=(api,))
    assert (await one.exchange()).status_code == 200  # so that the issuer's keys are loaded
    async with deployment.database.transaction() as removing:
        if is_removed:
            assert await apis.remove_api(removing, api, now=deployment.now())
        asking = asyncio.create_task(late.exchange({"audience": api}))
        await until_waiting(removing, number=1, is_sqlite=True, unless=asking)
    answer = await asking
    assert (answer.status_code == 200) is not is_removed, answer.text
    held = await grants.list_grants(deployment.database, late.application.user.id)
    assert any(live.resource == api for live in held) is not is_removed
