"""A second identity provider: Authlib's server vouches for its people at a vault, and between two vaults."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from joserfc.jwk import ECKey
from mcp import Client
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider
from mcp.client.streamable_http import streamable_http_client

from server.administration import agents
from server.administration.actor import Actor
from server.administration.agents import NewAgent, RegisteredAgent
from server.administration.assertion_checks import check_assertions
from server.administration.company_checks import check_companies
from server.doctor.findings import Verdict
from server.oauth.enterprise.assertions import JWT_BEARER, JWT_DPOP
from tests.enterprise.test_two_vaults import FILE
from tests.journeys.foreign.test_foreign_enterprise import Memory
from tests.support.foreign.authlib_company import EXCHANGE, ID_JAG, ID_TOKEN, Company, running_authlib
from tests.support.harness import RunningVault, running_vault
from tests.support.rooms.oauth_world import claims_of, pkce, sign_jwt
from vault import connections, delegations, grants, users
from vault.exchange.decision import ExchangeRequest, UpstreamToken
from vault.exchange.exchange import exchange
from vault.records import Connection, Principal, User
from vault.refusals import ConnectionRequired

pytestmark = pytest.mark.long  # ten seconds, including all setup

KEY = ECKey.generate_key("P-256")
BOTH = frozenset({"tools", "connections"})


@dataclass
class Offices:
    """The company, a vault that trusts it, and one whose people sign in with it."""

    company: Company
    second: RunningVault
    first: RunningVault
    agent: RegisteredAgent  # an agent of the company's people at the second vault

    def person(self, name: str) -> str:
        """Have a new person at the company's sign-in page."""
        self.company.person = f"{name}-{secrets.token_hex(3)}"
        return self.company.person

    async def id_token(self) -> str:
        """The ID token that the agent got when the person signed in to it, with Authlib's code flow."""
        verifier, challenge = pkce()
        registered = self.company.registered["agent"]
        asked = {
            "response_type": "code",
            "client_id": "agent",
            "redirect_uri": "http://127.0.0.1:1/cb",
            "scope": "openid",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            back = await http.get(f"{self.company.issuer}/authorize", params=asked)
            code = parse_qs(urlsplit(back.headers["location"]).query)["code"][0]
            form = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier}
            form |= {"redirect_uri": asked["redirect_uri"], "client_id": "agent", "client_secret": registered.secret}
            answer = await http.post(f"{self.company.issuer}/token", data=form)
        assert answer.status_code == 200, answer.text
        return answer.json()["id_token"]

    async def assertion(self, *, headers: Mapping[str, str] | None = None) -> str:
        form = {
            "grant_type": EXCHANGE,
            "requested_token_type": ID_JAG,
            "audience": self.second.url,
            "resource": f"{self.second.url}/mcp",
            "scope": "tools connections",
            "subject_token": await self.id_token(),
            "subject_token_type": ID_TOKEN,
        }
        own = ("agent", self.company.registered["agent"].secret)
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            sent = dict(headers or {})
            answer = await http.post(f"{self.company.issuer}/token", data=form, auth=own, headers=sent)
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]

    async def sign_in(self) -> tuple[User, dict[str, Connection]]:
        """Sign in to the first vault; return the user and the accounts that the company connected."""
        deployment, subject = self.first.deployment, self.company.person
        async with self.first.person() as browser:
            begun = await browser.http.get("/sign-in/openid/company", params={"return_to": "/connections"})
            async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
                back = await http.get(begun.headers["location"])
            page = await browser.open(back.headers["location"])
            assert page.status_code == 200, page.text
        user = await users.find_by_identity(deployment.database, issuer=self.company.issuer, subject=subject)
        assert user is not None
        await deployment.vault.tasks.wait_until_finished(f"company:{user.id}", patience=60)
        found = await connections.list_connections(deployment.database, user.id)
        return user, {one.provider: one for one in found}

    async def principal(self, user: User, account: Connection) -> Principal:
        """An agent at the first vault that may use this account."""
        deployment = self.first.deployment
        now = deployment.now()
        made = await agents.register(
            Actor(deployment, None, "command_line"),
            NewAgent("Agent", redirect_uris=("http://127.0.0.1:1/cb",), has_secret=True),
        )
        resource = f"{self.first.url}/mcp"
        async with deployment.transaction() as transaction:
            grant = await grants.create_grant(
                transaction,
                user_id=user.id,
                client_id=made.client.id,
                scopes=BOTH,
                resource=resource,
                redirect_uri="",
                now=now,
            )
            await delegations.allow(
                transaction,
                user_id=user.id,
                client_id=made.client.id,
                connection_id=account.id,
                scopes=BOTH,
                now=now,
            )
        return Principal(user.id, made.client.id, grant.id, BOTH, resource)

    async def exchange(self, principal: Principal, *, spoiled: int | None = None) -> UpstreamToken:
        vault = self.first.deployment.vault
        request = ExchangeRequest(principal, "second", None, purpose="test")
        return await exchange(request, vault=vault, now=vault.database.now(), after_unauthorized=spoiled)

    async def probe(self, token: str) -> int:
        """Return how the second vault receives a token."""
        async with httpx2.AsyncClient(trust_env=False, base_url=self.second.url, timeout=30) as http:
            return (await http.get("/mcp", headers={"authorization": f"Bearer {token}"})).status_code


@pytest.fixture(scope="module")
async def offices(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Offices]:
    data = tmp_path_factory.mktemp("authlib")
    for name in ("one", "two", "files"):
        (data / name).mkdir()
    async with running_authlib() as company, AsyncExitStack() as stack:
        rule = {"agents": ["Agent", "First vault"], "groups": ["staff"], "scopes": sorted(BOTH)}
        trusted = {"issuer": company.issuer, "create_people": True, "allow": {"staff": rule}}
        loopback = {"loopback_openid": True, "loopback_upstreams": True}
        second = await stack.enter_async_context(
            running_vault(data / "two", overrides={"enterprise": {"company": trusted}, "sandbox": loopback})
        )
        operator = Actor(second.deployment, None, "command_line")
        agent = await agents.register(operator, NewAgent("Agent", has_secret=True, exchanges=True))
        chained = await agents.register(operator, NewAgent("First vault", has_secret=True, exchanges=True))
        (data / "files" / "second.toml").write_text(FILE.format(url=second.url), encoding="utf-8")
        own = company.register("first-vault")
        own.elsewhere[second.url] = chained.client.id
        company.register("agent").elsewhere[second.url] = agent.client.id
        signs_in = {
            "issuer": company.issuer,
            "client_id": own.client_id,
            "client_secret": own.secret,
            "create_users": True,
            "id_jag": True,
        }
        first = await stack.enter_async_context(
            running_vault(
                data / "one",
                providers={"second": {"client_id": chained.client.id, "client_secret": chained.secret or ""}},
                overrides={
                    "provider_folders": [str(data / "files")],
                    "sign_in": {"openid": {"company": signs_in}},
                    "sandbox": loopback,
                },
            )
        )
        yield Offices(company, second, first, agent)


@pytest.mark.client("python", "/token", "ID-JAG")
async def test_the_python_sdk_gets_in_by_an_assertion_of_authlib(offices: Offices) -> None:
    name, memory = offices.person("gina"), Memory()

    async def assertion(audience: str, resource: str) -> str:
        assert (audience, resource) == (offices.second.url, f"{offices.second.url}/mcp")
        return await offices.assertion()

    provider = IdentityAssertionOAuthProvider(
        server_url=f"{offices.second.url}/mcp",
        storage=memory,
        client_id=offices.agent.client.id,
        client_secret=offices.agent.secret or "",
        issuer=offices.second.url,
        assertion_provider=assertion,
    )
    async with (
        httpx2.AsyncClient(auth=provider, timeout=20, trust_env=False, follow_redirects=True) as http,
        Client(streamable_http_client(f"{offices.second.url}/mcp", http_client=http)) as client,
    ):
        assert not (await client.call_tool("connections", {})).is_error
    person = await users.find_by_identity(
        offices.second.deployment.database, issuer=offices.company.issuer, subject=name
    )
    assert person is not None
    assert person.name == name


async def test_an_assertion_of_authlib_counts_once_and_for_the_companys_groups_only(offices: Offices) -> None:
    offices.person("hugo")
    own = {"client_id": offices.agent.client.id, "client_secret": offices.agent.secret or ""}
    async with httpx2.AsyncClient(base_url=offices.second.url, trust_env=False, timeout=30) as http:

        async def redeem(assertion: str) -> int:
            form = {"grant_type": JWT_BEARER, "assertion": assertion, **own}
            return (await http.post("/token", data=form)).status_code

        assertion = await offices.assertion()
        assert [await redeem(assertion), await redeem(assertion)] == [200, 400]
        offices.company.groups = ["guests"]
        try:
            assert await redeem(await offices.assertion()) == 400
        finally:
            offices.company.groups = ["staff"]
        assert await redeem(await offices.assertion()) == 200


@pytest.mark.parametrize("grant_type", [JWT_BEARER, JWT_DPOP])
async def test_an_assertion_that_authlib_bound_to_a_key_needs_its_proof(offices: Offices, grant_type: str) -> None:
    offices.person("jana")
    own = {"client_id": offices.agent.client.id, "client_secret": offices.agent.secret or ""}

    def proof(url: str, key: ECKey = KEY) -> dict[str, str]:
        claims = {"jti": secrets.token_urlsafe(12), "htm": "POST", "htu": url, "iat": offices.second.deployment.now()}
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": key.as_dict(private=False)}
        return {"DPoP": sign_jwt(header, claims, key)}

    bound = await offices.assertion(headers=proof(f"{offices.company.issuer}/token"))
    assert claims_of(bound)["cnf"] == {"jkt": KEY.thumbprint()}
    async with httpx2.AsyncClient(base_url=offices.second.url, trust_env=False, timeout=30) as http:

        async def redeem(assertion: str, headers: Mapping[str, str]) -> httpx2.Response:
            form = {"grant_type": grant_type, "assertion": assertion, **own}
            return await http.post("/token", data=form, headers=dict(headers))

        token_url = f"{offices.second.url}/token"
        for headers in ({}, proof(token_url, ECKey.generate_key("P-256"))):
            refused = await redeem(bound, headers)
            assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
        assert (await redeem(bound, proof(token_url))).json()["token_type"] == "DPoP"
        free = await redeem(await offices.assertion(), proof(token_url))
        assert free.status_code == (200 if grant_type == JWT_BEARER else 400), "the other grant is for bound ones only"


async def test_authlib_vouches_for_a_person_of_one_vault_at_another(offices: Offices) -> None:
    offices.person("ines")
    user, accounts = await offices.sign_in()
    agent = await offices.principal(user, accounts["second"])
    before = await offices.exchange(agent)
    assert await offices.probe(before.value) != 401
    assert claims_of(before.value)["iss"] == offices.second.url
    after = await offices.exchange(agent, spoiled=before.generation)
    assert after.value != before.value
    assert await offices.probe("x") == 401


async def test_authlib_takes_its_refresh_token_for_an_id_token_that_it_does_not_renew(offices: Offices) -> None:
    offices.person("karl")
    user, accounts = await offices.sign_in()
    agent = await offices.principal(user, accounts["second"])
    company, database = offices.company, offices.first.deployment.database
    before = await offices.exchange(agent)
    assert company.exchanged[-1] == "id_token"
    company.renews_id_tokens, company.takes_refresh_tokens = False, True
    database.clock_offset += 7200
    try:
        after = await offices.exchange(agent, spoiled=before.generation)
        assert company.exchanged[-1] == "refresh_token"
        assert await offices.probe(after.value) != 401
        company.takes_refresh_tokens = False
        with pytest.raises(ConnectionRequired):
            await offices.exchange(agent, spoiled=after.generation)
    finally:
        company.renews_id_tokens, company.takes_refresh_tokens = True, False
        database.clock_offset -= 7200


async def test_the_doctor_is_content_with_both_directions(offices: Offices) -> None:
    found = [
        *await check_assertions(offices.first.deployment),
        *await check_companies(offices.second.deployment),
    ]
    problems = [one for one in found if one.verdict is Verdict.PROBLEM]
    assert problems == []
    assert {one.check for one in found if one.verdict is Verdict.OK} >= {
        "sign_in.openid.company.id_jag",
        "second.id_jag",
    }
