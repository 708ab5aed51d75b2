"""Agents that act for nobody: client credentials for the operator's own APIs (MCP OAuth Client Credentials)."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
import pytest
from joserfc.jwk import ECKey

from server.administration import agents, own_apis
from server.administration.actor import Actor, ChangeRefused
from server.administration.agents import BackchannelSpec, NewAgent, OwnApisSpec, RegisteredAgent, WorkerSpec
from server.administration.client_checks import check_client_tokens
from server.doctor.findings import Verdict
from server.oauth.client_tokens import issue_token
from server.oauth.clients.authentication import ASSERTION_TYPE
from server.oauth.parameters import Parameters
from server.oauth.resources import known_resource
from server.oauth.rules import TOKEN_EXCHANGE, OAuthError
from server.oauth.token_answers import answer_content
from server.oauth.token_request import TokenGrant, TokenRequest
from server.oauth.tokens import NO_GRANT
from server.settings import Settings
from tests.conftest import Store
from tests.support.commands import content, run
from tests.support.rooms.exchange_room import ExchangeRoom
from tests.support.rooms.mcp_room import modern, modern_headers, room
from tests.support.rooms.oauth_world import claims_of, error_of, sign_jwt
from vault import apis, clients
from vault.records import Client, ClientKind, Grant

API = "https://reports.example/v1"
OTHER = "https://other.example/"
PEOPLES = "https://brokerage.example"  # defined by a provider file: each person permits agents
SCOPES = ("reports.read", "reports.write")
EXAMPLES = Path(__file__).parents[2] / "providers" / "examples" / "providers"
KEY = ECKey.generate_key("P-256", auto_kid=True)


@dataclass
class Office(ExchangeRoom):
    """The vault with an API of the operator's, and that API's own client."""

    api: RegisteredAgent | None = None

    @property
    def operator(self) -> Actor:
        return Actor(self.deployment, None, "command_line")

    async def agent_for_nobody(self, *scopes: str, resources: tuple[str, ...] = (API,)) -> RegisteredAgent:
        wanted = NewAgent("Nightly", has_secret=True, resources=resources, by_itself=OwnApisSpec(frozenset(scopes)))
        return await agents.register(self.operator, wanted)

    async def ask(
        self, made: RegisteredAgent, *, path: str = "/token", headers: Mapping[str, str] | None = None, **form: str
    ) -> httpx2.Response:
        sent = {"grant_type": "client_credentials", **credentials(made), **form}
        return await self.http.post(path, data=sent, headers=dict(headers or {}))

    async def token(self, made: RegisteredAgent, **form: str) -> str:
        answer = await self.ask(made, **form)
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]

    async def introspect(self, made: RegisteredAgent, token: str) -> Mapping[str, object]:
        answer = await self.http.post("/introspect", data={**credentials(made), "token": token})
        assert answer.status_code == 200, answer.text
        return answer.json()


@dataclass(frozen=True)
class Place:
    """Where commands find the vault."""

    data: Path


def credentials(made: RegisteredAgent) -> dict[str, str]:
    return {"client_id": made.client.id, "client_secret": made.secret or ""}


def proof(office: Office) -> dict[str, str]:
    claims = {"jti": secrets.token_urlsafe(12), "htm": "POST", "htu": f"{office.url}/token", "iat": office.now()}
    return {"DPoP": sign_jwt({"typ": "dpop+jwt", "alg": "ES256", "jwk": KEY.as_dict(private=False)}, claims, KEY)}


@asynccontextmanager
async def running_office(folder: Path, *, database_url: str | None = None) -> AsyncGenerator[Office]:
    folders, few = [str(EXAMPLES)], {"per_agent_hourly": 60}
    async with (
        room(folder, database_url=database_url, provider_folders=folders, auth0={"enabled": True}, tokens=few) as it,
        httpx2.AsyncClient(base_url=it.url, timeout=20, trust_env=False) as http,
    ):
        office = Office(it, http)
        office.api = await agents.register(
            office.operator, NewAgent("Reports", has_secret=True, exchanges=True, resources=(OTHER,))
        )
        await own_apis.save(office.operator, API, name="Reports", scopes=SCOPES, linked=[office.api.client])
        await own_apis.save(office.operator, OTHER, name="Other", scopes=["other.read"])
        yield office


@pytest.fixture(scope="module")
async def office(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Office]:
    async with running_office(tmp_path_factory.mktemp("office") / "data") as opened:
        yield opened


@pytest.mark.parametrize(("asks_anew", "expected"), [(True, 60), (False, 120)])
async def test_a_token_that_can_be_had_anew_lives_as_briefly_as_those_that_are_refreshed(
    office: Office, *, asks_anew: bool, expected: int
) -> None:
    lifetimes = {"tokens": {"access_lifetime": 60, "access_lifetime_alone": 120}}
    deployment = replace(office.deployment, settings=Settings.model_validate(lifetimes))
    grant = Grant(NO_GRANT, "c", "c", frozenset(), API, "", office.now())
    issue = TokenGrant(grant, frozenset(), API, asks_anew=asks_anew, expires_at=office.now() + 300)
    content = await answer_content(deployment, issue, now=office.now(), key_thumbprint=None)
    assert content["expires_in"] == expected


async def test_an_agent_that_acts_for_itself_gets_no_longer_token_than_others(office: Office) -> None:
    deployment = replace(office.deployment, settings=Settings.model_validate({"tokens": {"access_lifetime": 60}}))
    made = await office.agent_for_nobody()
    asked = TokenRequest(made.client, Parameters({}), None, API, key_thumbprint=None, now=office.now())
    issue = await issue_token(deployment, asked)
    content = await answer_content(deployment, issue, now=asked.now, key_thumbprint=None)
    assert content["expires_in"] == 60


@pytest.mark.parametrize(("resource", "is_known"), [("https://brokerage.example", False), (API, True)])
async def test_an_api_that_needs_a_persons_permission_is_no_resource_of_a_client(
    office: Office, resource: str, *, is_known: bool
) -> None:
    deployment, now = office.deployment, office.now()
    async with deployment.transaction() as transaction:
        await apis.add_api(transaction, resource, name="Own", scopes=frozenset(SCOPES), now=now)
    client = Client("c", ClientKind.MANUAL, "Own", "none", ("https://c.example/cb",), now, resources=(resource,))
    if is_known:
        assert await known_resource(deployment, resource, client=client) == resource
    else:
        with pytest.raises(OAuthError):
            await known_resource(deployment, resource, client=client)


@pytest.mark.parametrize(
    ("kind", "is_bound", "may"),
    [(ClientKind.MANUAL, True, True), (ClientKind.MANUAL, False, False), (ClientKind.DYNAMIC, True, False)],
)
async def test_only_an_operators_client_that_is_bound_to_the_admin_api_gets_its_tokens(
    office: Office, kind: ClientKind, *, is_bound: bool, may: bool
) -> None:
    resource = f"{office.url}/admin/v1"
    bound = (resource,) if is_bound else ()
    client = Client("c", kind, "Console", "none", ("https://c.example/cb",), office.now(), resources=bound)
    if may:
        assert await known_resource(office.deployment, resource, client=client) == resource
    else:
        with pytest.raises(OAuthError):
            await known_resource(office.deployment, resource, client=client)


@pytest.mark.parametrize("is_strong", [True, False])
@pytest.mark.parametrize(("path", "is_admin"), [("/admin/v1", True), ("/mcp", False)])
async def test_only_tokens_for_the_admin_api_say_how_the_person_signed_in(
    office: Office, path: str, *, is_admin: bool, is_strong: bool
) -> None:
    resource, now = f"{office.url}{path}", office.now()
    grant = Grant("g", "u", "c", frozenset(), resource, "", now)
    issue = TokenGrant(grant, frozenset(), resource, auth_time=7, is_strong=is_strong)
    content = await answer_content(office.deployment, issue, now=now, key_thumbprint=None)
    claims = claims_of(str(content["access_token"]))
    assert claims.get("auth_time") == (7 if is_admin else None)
    assert ("amr" in claims) is (is_admin and is_strong)
    lifetimes = office.deployment.settings.tokens
    assert content["expires_in"] == (lifetimes.access_lifetime if is_admin else lifetimes.access_lifetime_alone)


async def test_a_token_for_nobody_lives_is_seen_and_ends(store: Store) -> None:
    async with running_office(store.data, database_url=store.url) as office:
        assert office.api is not None
        made = await office.agent_for_nobody()
        answer = await office.ask(made, resource=API)
        assert answer.json().keys() == {"access_token", "token_type", "expires_in", "scope"}, "no refresh token"
        assert (answer.json()["scope"], answer.json()["expires_in"]) == (" ".join(SCOPES), 300)
        token, second = answer.json()["access_token"], await office.token(made)
        claims = claims_of(token)
        assert claims["sub"] == claims["client_id"] == claims["azp"] == made.client.id
        assert (claims["aud"], claims["gid"]) == (API, "")
        facts = await office.introspect(office.api, token)
        assert (facts["active"], facts["sub"], facts["scope"]) == (True, made.client.id, " ".join(SCOPES))
        assert "username" not in facts
        stranger = await office.agent_for_nobody(resources=(OTHER,))
        assert await office.introspect(stranger, token) == {"active": False}
        for by, is_active in ((stranger, True), (made, False), (made, False)):
            revoked = await office.http.post("/revoke", data={**credentials(by), "token": token})
            assert revoked.status_code == 200
            assert (await office.introspect(office.api, token))["active"] is is_active
        issued, ended = await office.events("token.issued"), await office.events("token.revoked")
        assert [(one.user_id, one.client_id) for one in issued] == [(None, made.client.id)] * 2
        assert [(one.user_id, one.client_id) for one in ended] == [(None, made.client.id)]
        assert (await office.introspect(office.api, second))["active"] is True
        await agents.remove(office.operator, made.client)
        assert (await office.introspect(office.api, second)) == {"active": False}
        assert error_of(await office.ask(made)) == "invalid_client"


async def test_it_ends_with_its_api_and_when_the_api_loses_a_scope(office: Office) -> None:
    passing = f"https://{secrets.token_hex(4)}.example/"
    await own_apis.save(office.operator, passing, name="Passing", scopes=["a", "b"])
    made = await office.agent_for_nobody(resources=(passing,))
    both, one = await office.token(made), await office.token(made, scope="a")
    assert [(await office.introspect(made, token))["active"] for token in (both, one)] == [True, True]
    await own_apis.save(office.operator, passing, name="Passing", scopes=["a"])
    assert [(await office.introspect(made, token))["active"] for token in (both, one)] == [False, True]
    await own_apis.remove(office.operator, passing)
    assert [(await office.introspect(made, token))["active"] for token in (both, one)] == [False, False]
    assert error_of(await office.ask(made)) == "invalid_target"
    found = await check_client_tokens(office.deployment)
    assert [(one.verdict, passing in one.sentence) for one in found] == [(Verdict.PROBLEM, True)]
    await agents.remove(office.operator, made.client)
    await office.agent_for_nobody()
    assert [one.verdict for one in await check_client_tokens(office.deployment)] == [Verdict.OK]


async def test_scopes_narrow_and_never_grow(office: Office) -> None:
    made = await office.agent_for_nobody("reports.read")
    assert (await office.ask(made)).json()["scope"] == "reports.read"
    assert (await office.ask(made, scope="reports.read reports.write tools openid")).json()["scope"] == "reports.read"
    for scope in ("reports.write", "tools", "exchange", "openid", "admin:read"):
        assert error_of(await office.ask(made, scope=scope)) == "invalid_scope"
    assert (await office.ask(await office.agent_for_nobody(), scope="reports.write")).json()["scope"] == "reports.write"


async def test_it_is_for_own_apis_to_which_the_agent_is_bound(office: Office) -> None:
    made = await office.agent_for_nobody()
    mcp, admin = f"{office.url}/mcp", f"{office.url}/admin/v1"
    for resource in (
        OTHER,
        PEOPLES,
        mcp,
        office.url,
        f"{office.url}/",
        f"{office.url}/sse",
        admin,
        "https://no.example",
    ):
        assert error_of(await office.ask(made, resource=resource)) == "invalid_target", resource
    several = await office.agent_for_nobody(resources=(API, OTHER))
    assert error_of(await office.ask(several)) == "invalid_target", "which of them?"
    assert claims_of(await office.token(several, resource=OTHER))["aud"] == OTHER


async def test_nothing_of_the_vault_takes_such_a_token(office: Office) -> None:
    made = await office.agent_for_nobody()
    token = await office.token(made)
    bearer = {"authorization": f"Bearer {token}"}
    called = await office.http.post(
        "/mcp", json=modern("tools/list"), headers={**modern_headers("tools/list"), **bearer}
    )
    assert called.status_code == 401
    for path in ("/userinfo", "/me/v1/connected-accounts/accounts", "/admin/v1/me"):
        assert (await office.http.get(path, headers=bearer)).status_code == 401, path
    person = await office.agent(await office.caller(resources=(API,)), audience=API)
    assert office.api is not None
    for subject, expected in ((token, 400), (person.token, 200)):
        form = {
            "grant_type": TOKEN_EXCHANGE,
            **credentials(office.api),
            "subject_token": subject,
            "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "audience": OTHER,
        }
        answer = await office.http.post("/token", data=form)
        assert answer.status_code == expected, answer.text
        assert ("belongs to an agent, not a person" in answer.text) is (subject is token)


async def test_only_an_operator_lets_an_agent_in_by_itself(office: Office) -> None:
    made = await agents.register(
        office.operator, NewAgent("Backend", redirect_uris=("https://a.example/",), has_secret=True, resources=(API,))
    )
    assert error_of(await office.ask(made)) == "unauthorized_client"
    body = {
        "redirect_uris": ["https://a.example/"],
        "grant_types": ["client_credentials", "authorization_code"],
        "token_endpoint_auth_method": "client_secret_basic",
        "client_credentials": {"scopes": []},
        "resources": [API],
    }
    answer = (await office.http.post("/register", json=body)).json()
    assert answer["grant_types"] == ["authorization_code"]
    own = await clients.get_client(office.deployment.database, answer["client_id"])
    assert own is not None
    assert error_of(await office.ask(RegisteredAgent(own, answer["client_secret"]))) == "unauthorized_client"
    assert (await office.ask(await office.agent_for_nobody())).status_code == 200


async def test_its_key_works_like_a_secret_and_only_with_proofs_where_it_is_bound(office: Office) -> None:
    jwks = {"keys": [KEY.as_dict(private=False)]}
    made = await agents.register(
        office.operator, NewAgent("Signing", jwks=jwks, resources=(API,), by_itself=OwnApisSpec())
    )

    def form(key: ECKey) -> dict[str, str]:
        now = office.now()
        claims = {"iss": made.client.id, "sub": made.client.id, "aud": office.url, "iat": now, "exp": now + 60}
        claims["jti"] = secrets.token_urlsafe(8)
        assertion = sign_jwt({"alg": "ES256", "kid": KEY.kid}, claims, key)
        said = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion, "resource": API}
        return {"grant_type": "client_credentials", **said}

    assert (await office.http.post("/token", data=form(ECKey.generate_key("P-256")))).status_code == 401
    answer = await office.http.post("/token", data=form(KEY), headers=proof(office))
    assert (answer.status_code, answer.json()["token_type"]) == (200, "DPoP"), answer.text
    assert "cnf" in claims_of(answer.json()["access_token"])
    plain = await office.http.post("/token", data=form(KEY))
    assert plain.json()["token_type"] == "Bearer"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"resources": ()}, "resources"),
        ({"resources": ("{url}/mcp",)}, "resources"),
        ({"resources": ("{url}/admin/v1",)}, "resources"),
        ({"resources": (PEOPLES,)}, "resources"),
        ({"has_secret": False}, "confidential"),
        ({"redirect_uris": ("https://a.example/",)}, "client_credentials"),
        ({"exchanges": True}, "client_credentials"),
        ({"by_device": True}, "client_credentials"),
        ({"origins": ("https://a.example",)}, "client_credentials"),
        ({"release": "proxy"}, "client_credentials"),
        ({"asking": BackchannelSpec()}, "client_credentials"),
        ({"worker": WorkerSpec(("10.0.0.1",), ("slack",), ("chat:write",))}, "client_credentials"),
        ({"by_itself": OwnApisSpec(frozenset({"tools"}))}, "client_credentials.scopes"),
        ({"by_itself": OwnApisSpec(frozenset({"two words"}))}, "client_credentials.scopes"),
        ({}, ""),
    ],
)
async def test_an_agent_for_nobody_has_nothing_of_people(
    office: Office, changes: Mapping[str, object], field: str
) -> None:
    fields: dict[str, object] = {"has_secret": True, "resources": (API,), "by_itself": OwnApisSpec(), **changes}
    resources = fields["resources"]
    assert isinstance(resources, tuple)
    fields["resources"] = tuple(str(one).replace("{url}", office.url) for one in resources)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- of the table above
    wanted = NewAgent("Odd", **fields)  # pyright: ignore[reportArgumentType] -- of the table above
    if not field:
        assert (await agents.register(office.operator, wanted)).secret
        return
    with pytest.raises(ChangeRefused) as refused:
        await agents.register(office.operator, wanted)
    assert refused.value.field == field


async def test_the_agent_starts_with_a_scope_that_its_api_lacks(office: Office) -> None:
    later = f"https://{secrets.token_hex(4)}.example/"
    made = await office.agent_for_nobody("x", resources=(later,))
    assert (await office.ask(made)).json()["scope"] == ""
    found = await check_client_tokens(office.deployment)
    assert [one.verdict for one in found] == [Verdict.NOTE]
    assert "none of its scopes" in found[0].sentence
    await own_apis.save(office.operator, later, name=None, scopes=["x"])
    assert (await office.ask(made)).json()["scope"] == "x"
    assert [one.verdict for one in await check_client_tokens(office.deployment)] == [Verdict.OK]


async def test_auth0s_spelling_names_the_api_as_audience(office: Office) -> None:
    made = await office.agent_for_nobody(resources=(API, OTHER))
    answer = await office.ask(made, path="/oauth/token", audience=OTHER)
    assert claims_of(answer.json()["access_token"])["aud"] == OTHER
    assert error_of(await office.ask(made, path="/oauth/token", audience=OTHER, resource=API)) == "invalid_target"


async def test_each_agent_has_a_number_of_tokens_an_hour(office: Office) -> None:
    made, second = await office.agent_for_nobody(), await office.agent_for_nobody()
    assert (await office.ask(made)).status_code == 200
    while not office.deployment.token_requests.spend("", made.client.id, now=time.monotonic()):
        pass
    assert error_of(await office.ask(made)) == "temporarily_unavailable"
    assert (await office.ask(second)).status_code == 200


async def test_commands_register_and_explain_it(office: Office) -> None:
    place = Place(office.deployment.data)
    (place.data / "config.toml").write_text("", encoding="utf-8")
    refused = await run(place, "clients", "add", "Nightly", "--confidential", "--client-credentials")
    assert "--resource: name your own APIs" in refused.output
    added = await content(
        place, "clients", "add", "Nightly", "--confidential", "--client-credentials", "--client-scope", "reports.read",
        "--resource", API,
    )  # fmt: skip
    assert isinstance(added, dict)
    assert added["client_credentials"] == {"scopes": ["reports.read"]}
    await office.user("alice")
    explained = await run(place, "explain", "--user", "alice", "--client", str(added["client_id"]), "--connection", "x")
    assert "never uses a person's account" in explained.output
