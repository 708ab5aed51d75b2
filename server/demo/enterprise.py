"""An employee signs in once, and their agent reads from seven services without a consent page.

The sandbox's company issues assertions for its people: to the vault for the agent that it allows, and to each service
for the vault. The agent is the MCP package's own client for identity assertions. Every step uses real HTTP.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

import httpx2
from mcp import Client
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from rich.console import Console
from rich.text import Text

from providers.definitions.catalog import SHELF, read_provider
from providers.simulator.accounts import CLIENT_ID, CLIENT_SECRET
from providers.simulator.company.program import CompanyProgram
from providers.simulator.company.services import SERVICES, EnrolledService, open_services
from providers.simulator.local_server import Simulator, running_simulator
from providers.simulator.state.directory import Enrolment
from server.app import open_deployment
from server.demo.person import DemoFailed, DemoPerson
from server.demo.screen import Wallet, insist, listen, play_all, serve_vault, show_activity, show_step
from server.deployment import Deployment
from server.oauth.clients.authentication import secret_hash
from server.oauth.exchange import release
from server.oauth.rules import TOKEN_EXCHANGE
from server.settings import load_settings
from server.sign_in.password import first_admin_secret
from vault import clients, connections, users
from vault.audit import audit
from vault.records import Client as VaultClient
from vault.records import ClientKind, Connection, Event, new_id

PERSON: Final = "alice"
ADMIN: Final = "admin"
AGENT: Final = "Company agent"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
AGENT_AT_COMPANY: Final = ("second-client", "second-secret")
_CALLS: Final = frozenset({"handle.issued", "token.exchanged", "proxy.called"})
_CONSENT_PAGES: Final = ("/consent", "/connect/", "/connections/connect", "/device", "/approve")


@dataclass
class CompanyStage:
    """Everything that runs, and the screen."""

    deployment: Deployment
    simulator: Simulator
    person: DemoPerson
    console: Console
    program: CompanyProgram
    agent: tuple[str, str] = field(repr=False)  # its ID and secret at the vault
    wallet: Wallet = field(default_factory=Wallet)

    @property
    def consent_pages(self) -> int:
        """The number of pages that asked the person to agree to something, at the services and here."""
        books = self.simulator.books()
        ours = [page for page in self.person.visited if page.startswith(_CONSENT_PAGES)]
        return len(books["authorizations"]) + len(books["consents"]) + len(ours)

    async def accounts(self) -> Mapping[str, Connection]:
        """The person's accounts by provider."""
        owner = await users.find_user(self.deployment.database, PERSON)
        found = await connections.list_connections(self.deployment.database, "" if owner is None else owner.id)
        return {one.provider: one for one in found}


async def play(*, data: Path | None) -> bool:
    """Play the story; False if a step failed."""
    console = Console(highlight=False)
    async with AsyncExitStack() as stack:
        stack.enter_context(_without_warnings("token_vault.rotation"))  # one step ends an account on purpose
        directory = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="token-vault-demo-")))
        stage = await stack.enter_async_context(_stage(directory, console))
        return await play_all(console, lambda: _story(stage))


@contextmanager
def _without_warnings(name: str) -> Generator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@asynccontextmanager
async def _stage(data: Path, console: Console) -> AsyncGenerator[CompanyStage]:
    """The company with its services, the vault, an admin, and an agent that the vault's operator registered."""
    listening = listen()
    port: int = listening.getsockname()[1]
    url = f"http://localhost:{port}"
    async with running_simulator() as simulator, AsyncExitStack() as stack:
        services = open_services(simulator.sandbox)
        rule = {
            "agents": [AGENT],
            "scopes": ["tools", "connections", "exchange"],
            "accounts": {name: ["all"] for name in services},
        }
        sections: dict[str, object] = {
            "server": {"port": port, "public_url": url},
            "providers": {name: provider_settings(simulator, one) for name, one in services.items()},
            "sign_in": {"openid": {"company": simulator.company_settings()}},
            "enterprise": {
                "company": {"issuer": f"{simulator.url}/company", "title": "Sandbox company", "allow": {"all": rule}}
            },
            "sandbox": {"loopback_upstreams": True, "loopback_openid": True},
        }
        deployment = await stack.enter_async_context(open_deployment(load_settings(overrides=sections), data=data))
        await stack.enter_async_context(serve_vault(deployment, listening))
        person = await stack.enter_async_context(DemoPerson(deployment.public_url))
        agent = await _register(deployment)
        vault_at_company = Enrolment(clients={AGENT_AT_COMPANY[0]: agent[0]})
        simulator.sandbox.directory.services[deployment.settings.issuer] = vault_at_company
        program = CompanyProgram(f"{simulator.url}/company", *AGENT_AT_COMPANY)
        console.print(
            Text(f"Vault at {deployment.public_url}, the company and its services at {simulator.url}", "bold"),
            soft_wrap=True,
        )
        yield CompanyStage(deployment, simulator, person, console, program, agent)


def provider_settings(simulator: Simulator, service: EnrolledService) -> Mapping[str, object]:
    """The settings `[providers.NAME]` for a service of the company at the simulator."""
    base = f"{simulator.url}/families/{service.mode}"
    known = read_provider(SHELF / f"{service.provider}.toml")
    return {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "authorize_url": f"{base}/authorize",
        "token_url": f"{base}/token",
        "revoke_url": f"{base}/revoke",
        "userinfo_url": f"{base}/identity",
        "apis": dict.fromkeys(known.apis, f"{base}/api"),
        **({} if known.hosts.refresh_url is None else {"refresh_url": f"{base}/refresh"}),
        "id_jag": {**simulator.enroll(service.mode), "scopes": [service.scope]},
    }


async def _register(deployment: Deployment) -> tuple[str, str]:
    """Register a client as `token-vault clients add --confidential --exchange` does; it never gets a service's
    token."""
    secret, now = secrets.token_urlsafe(32), deployment.now()
    client = VaultClient(
        id=new_id(),
        kind=ClientKind.MANUAL,
        name=AGENT,
        auth_method="client_secret_post",
        redirect_uris=(),
        grant_types=frozenset({"authorization_code", TOKEN_EXCHANGE}),
        secret_hash=secret_hash(secret),
        metadata={release.MEMBER: {release.DEFAULT: release.ReleasePolicy.PROXY.value}},
        created_at=now,
    )
    async with deployment.transaction() as transaction:
        await clients.save_client(transaction, client)
        event = Event("client.registered", client_id=client.id, details={"kind": client.kind.value})
        await audit.append(transaction, event, now=now)
    return client.id, secret


async def _story(stage: CompanyStage) -> None:
    secret = await first_admin_secret(stage.deployment)
    async with show_step(stage.console, "An admin sets up the vault, with the company's identity provider"):
        if secret is None:
            raise DemoFailed("this data directory already has an admin; use an empty one")
        async with DemoPerson(stage.deployment.public_url) as admin:
            await admin.make_first_admin(secret, name=ADMIN, password=secrets.token_urlsafe(12))
    await _sign_in(stage)
    await _admit(stage)
    await _call_all(stage)
    await _renew(stage)
    await _stop_vouching(stage)
    heading = "What the vault recorded, apart from the calls"
    await show_activity(stage.console, stage.deployment, heading, without=_CALLS)


async def _sign_in(stage: CompanyStage) -> None:
    async with show_step(stage.console, f"{PERSON}, who is new to the vault, signs in at the company") as facts:
        answer = await stage.person.open("/sign-in/openid/company")
        back = await _at_company(stage, answer.headers["location"])
        await stage.person.open(back)
        owner = await users.find_user(stage.deployment.database, PERSON)
        insist(owner is not None, "no one was signed in")
        await stage.deployment.vault.tasks.wait_until_finished(f"company:{owner.id if owner else ''}", patience=30)
        accounts = await stage.accounts()
        missing = [one.provider for one in SERVICES if one.provider not in accounts]
        insist(not missing, f"not connected: {', '.join(missing)}")
        facts += [f"{name}: {one.label}" for name, one in accounts.items()]


async def _at_company(stage: CompanyStage, url: str) -> str:
    """Sign in on the company's page; returns the address that it redirects to."""
    async with httpx2.AsyncClient(timeout=15, trust_env=False) as http:
        page = await http.get(url)
        insist("Sandbox company" in page.text, "the company shows no sign-in page")
        asked = dict(httpx2.QueryParams(url.partition("?")[2]))
        answer = await http.post(urljoin(url, "/company/authorize"), data={**asked, "account": PERSON})
    stage.simulator.sandbox.directory.signed_in = PERSON  # the browser's session there, so that it isn't asked again
    return answer.headers["location"]


async def _admit(stage: CompanyStage) -> None:
    title = f"{AGENT} is admitted by an assertion from the company, with the MCP package's own client"
    async with show_step(stage.console, title) as facts, _agent(stage) as agent:
        tools = await agent.list_tools()
        facts.append(f"MCP {agent.protocol_version}, {len(tools.tools)} tools, token scopes: {_token(stage)[1]}")


@asynccontextmanager
async def _agent(stage: CompanyStage) -> AsyncGenerator[Client]:
    """An MCP client that gets its tokens with assertions (SEP-990)."""

    async def fetch(audience: str, resource: str) -> str:
        return await stage.program.assertion(audience, resource=resource)

    endpoint = stage.deployment.url("/mcp")
    sign_in = IdentityAssertionOAuthProvider(
        server_url=endpoint,
        storage=stage.wallet,
        client_id=stage.agent[0],
        client_secret=stage.agent[1],
        issuer=stage.deployment.settings.issuer,
        assertion_provider=fetch,
        scope="tools connections exchange",
    )
    async with (
        httpx2.AsyncClient(auth=sign_in, timeout=30, trust_env=False) as http,
        Client(streamable_http_client(endpoint, http_client=http)) as client,
    ):
        yield client


def _token(stage: CompanyStage) -> tuple[str, str]:
    tokens = stage.wallet.tokens
    if tokens is None:
        raise DemoFailed("the agent got no token")
    return tokens.access_token, tokens.scope or ""


async def _call(stage: CompanyStage, service: EnrolledService) -> httpx2.Response:
    """Make a call through the vault: exchange for a handle, and send a request with it. Returns the refusal if
    refused."""
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "subject_token_type": ACCESS_TOKEN,
        "subject_token": _token(stage)[0],
        "audience": service.provider,
        "scope": service.scope,
        "client_id": stage.agent[0],
        "client_secret": stage.agent[1],
    }
    async with httpx2.AsyncClient(timeout=30, trust_env=False) as http:
        answer = await http.post(stage.deployment.url("/token"), data=form)
        if answer.status_code != HTTPStatus.OK:
            return answer
        handle = answer.json()
        target = f"{handle['api_base_url']}{service.path}"
        return await http.get(target, headers={"Authorization": f"Bearer {handle['access_token']}"})


async def _call_all(stage: CompanyStage) -> None:
    async with show_step(stage.console, f"{AGENT} reads from {len(SERVICES)} services as {PERSON}") as facts:
        for service in SERVICES:
            answer = await _call(stage, service)
            insist(answer.status_code == HTTPStatus.OK, f"{service.provider}: {answer.status_code} {answer.text[:200]}")
            facts.append(f"{service.provider}: GET {service.path} as {answer.json()['account']}")
    async with show_step(stage.console, f"Consent pages so far: {stage.consent_pages}"):
        insist(stage.consent_pages == 0, "someone was asked to agree")


async def _renew(stage: CompanyStage) -> None:
    service = SERVICES[0]
    async with show_step(
        stage.console, f"The token for {service.provider} expires; a new assertion renews it"
    ) as facts:
        before = len(_list_redeemed(stage))
        stage.simulator.control("expire", face=f"families.{service.mode}")
        answer = await _call(stage, service)
        insist(answer.status_code == HTTPStatus.OK, f"{answer.status_code} {answer.text[:200]}")
        insist(len(_list_redeemed(stage)) == before + 1, "there was no new assertion")
        facts.append("one assertion, used once; no refresh token anywhere")


def _list_redeemed(stage: CompanyStage) -> list[dict[str, object]]:
    return [one for one in stage.simulator.books()["assertions"] if one["outcome"] == "redeemed"]


async def _stop_vouching(stage: CompanyStage) -> None:
    service = SERVICES[0]
    title = f"The company stops vouching for {PERSON} at {service.provider}: the agent gets the reason"
    async with show_step(stage.console, title) as facts:
        issuer = stage.simulator.sandbox.issuer_of(service.mode)
        stage.simulator.sandbox.directory.services[issuer] = Enrolment(denied=frozenset({PERSON}))
        stage.simulator.control("expire", face=f"families.{service.mode}")
        await _call(stage, service)  # the token still seems valid here: the service refuses it, then the company does
        answer = await _call(stage, service)
        insist(answer.status_code != HTTPStatus.OK, "the call went through")
        facts.append(str(answer.json().get("error_description", answer.text))[:300])
