"""A running vault with the simulator behind it, people at browsers, agents, and links: what the page tests talk to."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

import httpx2

from providers.simulator.local_server import Simulator, running_simulator
from providers.simulator.person import consent
from server.connecting.links import ConnectLink, connect_link
from server.deployment import Deployment
from tests.support.harness import PASSWORD, RunningVault, running_vault
from tests.support.inspection import read_events
from tests.support.person import Person
from vault import clients, connections, delegations, grants, users
from vault.records import Client, ClientKind, Connection, Event, Principal, User, new_id
from vault.upkeep import revocations
from vault.upstream import Account, TokenAnswer

_NO_AUTHORITIES = ssl.SSLContext(
    ssl.PROTOCOL_TLS_CLIENT
)  # plain HTTP only, because loading authorities takes longer than a test
CHAT = frozenset({"chat:write"})
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"  # RFC 7636 appendix B


def query_of(url: str) -> dict[str, str]:
    """The query of a URL, one value per name."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


@dataclass
class Room:
    """Vault, simulator, and everyone's browsers, which close with it."""

    vault: RunningVault
    simulator: Simulator
    stack: AsyncExitStack = field(repr=False)

    @property
    def url(self) -> str:
        return self.vault.url

    @property
    def deployment(self) -> Deployment:
        return self.vault.deployment

    async def browser(self) -> Person:
        """A browser without cookies."""
        transport = httpx2.AsyncHTTPTransport(verify=_NO_AUTHORITIES)
        return await self.stack.enter_async_context(Person(self.url, transport=transport))

    async def user(self, name: str = "") -> User:
        """Alice, or a new user."""
        if name == "alice":
            found = await users.find_user(self.deployment.database, name)
            assert found is not None
            return found
        return await self.vault.add_user(name or f"person-{secrets.token_hex(4)}")

    async def signed_in(self, user: User | str = "alice") -> Person:
        """A browser in which the user just signed in."""
        person = await self.browser()
        page = await person.sign_in(user if isinstance(user, str) else user.name, PASSWORD)
        assert page.status_code == 200, page.text
        return person

    async def agent(self, kind: ClientKind = ClientKind.DYNAMIC, **changes: object) -> Client:
        """A stored client."""
        facts: dict[str, object] = {
            "id": new_id(),
            "kind": kind,
            "name": "Test agent",
            "auth_method": "none",
            "redirect_uris": ("https://agent.example/callback",),
            "created_at": self.deployment.now(),
        }
        client = Client(**{**facts, **changes})  # pyright: ignore[reportArgumentType]
        async with self.deployment.transaction() as transaction:
            await clients.save_client(transaction, client)
        return client

    async def grant(self, user: User, client: Client) -> str:
        """The user authorizes the agent; returns the grant's ID."""
        async with self.deployment.transaction() as transaction:
            grant = await grants.create_grant(
                transaction,
                user_id=user.id,
                client_id=client.id,
                scopes=frozenset({"tools"}),
                resource=f"{self.url}/mcp",
                redirect_uri=client.redirect_uris[0],
                now=self.deployment.now(),
            )
        return grant.id

    async def account(
        self, user: User, provider: str, *, label: str, scopes: frozenset[str], age: int = 0
    ) -> Connection:
        """A connected account with made-up tokens, which never calls the provider; `age` is in seconds."""
        answer = TokenAnswer("made-up", "made-up", scopes=scopes, expires_in=3600, account=Account(label, label))
        async with self.deployment.transaction() as transaction:
            return await connections.open_connection(
                transaction,
                self.deployment.keys,
                user_id=user.id,
                provider=provider,
                answer=answer,
                asked=scopes,
                policy=self.deployment.catalog.provider(provider).policy(),
                now=self.deployment.now() - age,
            )

    def authorize_path(self, client: Client, **changes: str) -> str:
        """The path of an authorization request of the client."""
        query = {
            "response_type": "code",
            "client_id": client.id,
            "redirect_uri": client.redirect_uris[0],
            "scope": "tools connections",
            "state": "client-state",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            "resource": f"{self.url}/mcp",
        } | changes
        return "/authorize?" + urlencode(query)

    async def link(
        self,
        user: User,
        client: Client,
        *,
        provider: str = "slack",
        scopes: frozenset[str] = CHAT,
        reason: str = "missing",
        account: str | None = None,
    ) -> ConnectLink:
        """What a tool call of the agent answers; each call uses its own grant, because one grant gets few of them."""
        principal = Principal(user.id, client.id, secrets.token_hex(8), frozenset({"tools"}), f"{self.url}/mcp")
        link = await connect_link(
            self.deployment,
            principal=principal,
            provider=provider,
            scopes=scopes,
            reason=reason,
            tool="slack_post",
            account=account,
        )
        assert link is not None
        return link

    async def to_provider(self, person: Person, link: ConnectLink) -> str:
        """Agree on the connect page; return the provider's URL that follows."""
        page = await person.open(link.url)
        answer = await person.submit(page, form="/connect/", button=("decision", "allow"))
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def connect(
        self, person: Person, user: User, client: Client, *, account: str = "alice", **options: object
    ) -> httpx2.Response:
        """Do everything: link, our page, the provider's page, the callback, the result."""
        link = await self.link(user, client, **options)  # pyright: ignore[reportArgumentType]
        callback = await consent(await self.to_provider(person, link), account=account)
        page = await person.open(callback)
        assert page.status_code == 200, page.text
        return page

    async def events(self, user: User | None = None) -> list[Event]:
        """What was recorded, oldest first."""
        user_id = None if user is None else user.id
        return list(await read_events(self.deployment, user_id=user_id))

    async def until_asked(self, connection_id: str) -> None:
        """Wait until the provider has answered an attempt to end the grant; a page waits only a few seconds for it."""
        deployment = self.deployment
        async with asyncio.timeout(60):
            while True:
                found = await revocations.find_revocation(deployment.database, connection_id)
                if found is not None and found.outcome != "pending":
                    return
                deployment.database.clock_offset += 60
                await revocations.run_due(deployment.vault)

    async def see_end(self, person: Person, connection_id: str) -> httpx2.Response:
        """The connections page after the provider has answered."""
        await self.until_asked(connection_id)
        return await person.open(f"/connections?closed={connection_id}")

    async def kinds(self, user: User | None = None) -> list[str]:
        return [event.kind for event in await self.events(user)]


@asynccontextmanager
async def running_room(data: Path, *, overrides: Mapping[str, object] | None = None) -> AsyncGenerator[Room]:
    """Vault and simulator on free ports until the block ends."""
    data.mkdir(exist_ok=True)
    async with (
        running_simulator() as simulator,
        running_vault(data, providers=simulator.settings(), overrides=overrides) as vault,
        AsyncExitStack() as stack,
    ):
        yield Room(vault, simulator, stack)


async def someone(room: Room) -> tuple[User, Person, Client]:
    """A new user, their browser, and an agent."""
    user = await room.user()
    return user, await room.signed_in(user), await room.agent()


async def accounts_of(room: Room, user: User) -> tuple[Connection, ...]:
    """The accounts that the user has connected."""
    return await connections.list_connections(room.deployment.database, user.id)


async def scopes_allowed(room: Room, user: User, client: Client) -> list[frozenset[str]]:
    """What the user lets the agent do, one set per account."""
    found = await delegations.list_for_client(room.deployment.database, user.id, client_id=client.id)
    return [delegation.scopes for delegation in found]


def with_parameters(url: str, **changes: str | None) -> str:
    """The URL with changed parameters; None removes one."""
    parts = urlsplit(url)
    query = {**dict(parse_qsl(parts.query)), **changes}
    return urlunsplit(parts._replace(query=urlencode({k: v for k, v in query.items() if v is not None})))
