"""A vault whose people sign in through the simulator's company, which vouches for them at some services."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import httpx2

from providers.simulator.local_server import Simulator, running_simulator
from providers.simulator.state.directory import Enrolment
from tests.support.harness import running_vault
from tests.support.person import Person
from tests.support.rooms.portal_room import Room
from tests.support.simulator_apps import family_settings
from vault import connections, delegations, users
from vault.exchange.decision import ExchangeRequest, UpstreamToken
from vault.exchange.exchange import exchange
from vault.records import Client, Connection, Principal, User

IDENTITY = "sign-in-company"
LINEAR = frozenset({"read", "write"})


SCOPES: Mapping[str, frozenset[str]] = {"linear": LINEAR, "asana": frozenset({"default"})}


def enroll_provider(simulator: Simulator, provider: str) -> Mapping[str, object]:
    """The provider's `id_jag`."""
    return {**simulator.enroll(mode(provider)), "scopes": sorted(SCOPES[provider])}


def mode(provider: str) -> str:
    """How this provider behaves at the simulator."""
    return f"known-{provider}"


@dataclass
class CompanyRoom:
    """The room and an agent of each person who signed in."""

    room: Room

    @property
    def simulator(self) -> Simulator:
        return self.room.simulator

    everybody: ClassVar = Enrolment()

    def issuer(self, provider: str) -> str:
        """The provider's authorization server."""
        return self.simulator.sandbox.issuer_of(mode(provider))

    def deny(self, provider: str, account: str) -> None:
        """Make the company stop vouching for this person there."""
        self.simulator.sandbox.directory.services[self.issuer(provider)] = Enrolment(denied=frozenset({account}))

    def allow(self, provider: str) -> None:
        """Make the company vouch for everyone there again."""
        self.simulator.sandbox.directory.services[self.issuer(provider)] = self.everybody

    @property
    def vault(self):
        return self.room.deployment.vault

    def pass_time(self, seconds: int) -> None:
        """Let time pass at the vault, the company, and the services."""
        self.room.deployment.database.clock_offset += seconds
        self.simulator.advance(seconds)

    async def sign_in(self, name: str = "alice", *, waits: bool = True) -> tuple[User, Person]:
        """Sign in through the company; `waits`: until the accounts that it connects exist."""
        person = await self.room.browser()
        begun = await person.http.get("/sign-in/openid/company", params={"return_to": "/connections"})
        assert begun.status_code == 303, begun.text
        directory = self.simulator.sandbox.directory
        directory.signed_in = name
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            back = await http.get(begun.headers["location"])
        page = await person.open(back.headers["location"])
        assert page.status_code == 200, page.text
        issuer = f"{self.simulator.url}/company"
        user = await users.find_by_identity(self.vault.database, issuer=issuer, subject=directory.subject_of(name))
        assert user is not None
        if waits:
            await self.vault.tasks.wait_until_finished(f"company:{user.id}", patience=60)
        return user, person

    async def accounts(self, user: User) -> dict[str, Connection]:
        """By provider."""
        found = await connections.list_connections(self.vault.database, user.id)
        return {one.provider: one for one in found}

    async def agent(self, user: User, *, allows: Mapping[str, frozenset[str]] | None = None) -> Principal:
        """An agent that the person authorized, with what it may use of each account."""
        client: Client = await self.room.agent()
        grant = await self.room.grant(user, client)
        accounts = await self.accounts(user)
        for provider, scopes in (allows or {}).items():
            async with self.room.deployment.transaction() as transaction:
                await delegations.allow(
                    transaction,
                    user_id=user.id,
                    client_id=client.id,
                    connection_id=accounts[provider].id,
                    scopes=scopes,
                    now=self.room.deployment.now(),
                )
        return Principal(user.id, client.id, grant, frozenset({"tools"}), f"{self.room.url}/mcp")

    async def exchange(
        self, principal: Principal, provider: str, scopes: frozenset[str] | None = None, *, spoiled: int | None = None
    ) -> UpstreamToken:
        request = ExchangeRequest(principal, provider, scopes, purpose="test")
        return await exchange(request, vault=self.vault, now=self.vault.database.now(), after_unauthorized=spoiled)

    def assertions(self, outcome: str) -> list[dict[str, object]]:
        """The recorded entries about assertions with this outcome."""
        return [one for one in self.simulator.books()["assertions"] if one["outcome"] == outcome]

    def refreshes(self) -> list[object]:
        """The outcome of each refresh at the company."""
        return [one["outcome"] for one in self.simulator.books()["refreshes"] if one["face"] == "company"]


@asynccontextmanager
async def running_company(
    data: Path,
    *,
    services: Collection[str] = ("linear", "asana"),
    overrides: Mapping[str, object] | None = None,
    database_url: str | None = None,
) -> AsyncGenerator[CompanyRoom]:
    """The vault, the company and its services on free ports until the block ends."""
    data.mkdir(exist_ok=True)
    async with running_simulator() as simulator, AsyncExitStack() as stack:
        sections = {
            name: {**family_settings(simulator, mode(name), apis=["main"]), "id_jag": enroll_provider(simulator, name)}
            for name in services
        }
        settings = {
            "sign_in": {"openid": {"company": simulator.company_settings()}},
            "sandbox": {"loopback_openid": True},
            **(overrides or {}),
        }
        vault = await stack.enter_async_context(
            running_vault(data, providers=sections, overrides=settings, database_url=database_url)
        )
        yield CompanyRoom(Room(vault, simulator, stack))
