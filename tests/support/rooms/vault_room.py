"""One user with connected accounts and an agent, ready to exchange: the setup of the vault's core tests."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from tests.conftest import Store
from tests.support.doubles.upstream_double import UpstreamDouble
from tests.support.seeded_grant import SeededGrant, seed
from vault import connections, delegations
from vault.audit.audit import Activity, list_events
from vault.exchange.exchange import ExchangeRequest, UpstreamToken, Vault, exchange
from vault.keys.key_ring import KeyRing
from vault.records import Connection, Event, Principal
from vault.refresh import leases
from vault.refresh.journal import Journal
from vault.refresh.rotation import RefreshTasks
from vault.storage.database import Database
from vault.upstream import Downscope, RotationMode, UpstreamPolicy

SLACK_SCOPES = frozenset({"chat:write", "channels:read"})
WAIT = 30.0  # seconds: limit of every wait in these tests
GRACE = 60  # seconds, for the rotating double that has a grace
READ, WRITE, DRIVE = "calendar.readonly", "calendar.events", "drive"
GOOGLE_SCOPES = frozenset({READ, WRITE, DRIVE, "openid"})


def slack(rotation: RotationMode) -> UpstreamPolicy:
    grace = GRACE if rotation is RotationMode.GRACE else 0
    return UpstreamPolicy("slack", rotation=rotation, grace=grace, revoke_ends_grant=True)


def google(**changes: object) -> UpstreamPolicy:
    policy = UpstreamPolicy(
        "google",
        rotation=RotationMode.NONE,
        downscope=Downscope.REFRESH_SCOPE,
        covers={"calendar": frozenset({READ, WRITE})},
        always_granted=frozenset({"openid", "email"}),
        revoke_ends_grant=True,
    )
    return replace(policy, **changes)


@dataclass
class Room:
    """A vault over one database, its two providers, and alice with one agent."""

    store: Store
    database: Database
    vault: Vault
    slack: UpstreamDouble
    google: UpstreamDouble
    alice: SeededGrant

    @property
    def now(self) -> int:
        return self.database.now()

    def pass_time(self, seconds: int) -> None:
        self.database.clock_offset += seconds

    async def connect(
        self,
        provider: str = "slack",
        *,
        account: str = "alice",
        scopes: frozenset[str] | None = None,
        delegated: frozenset[str] | None = None,
        whose: SeededGrant | None = None,
        refreshable: bool = True,
        consented_ms: int | None = None,
    ) -> Connection:
        """Connect an account, and let the agent use all of it (or `delegated`; an empty set: nothing)."""
        upstream, default = (self.slack, SLACK_SCOPES) if provider == "slack" else (self.google, GOOGLE_SCOPES)
        owner, granted = whose or self.alice, default if scopes is None else scopes
        answer = upstream.consent(account, granted, refreshable=refreshable)
        async with self.database.transaction() as transaction:
            connection = await connections.open_connection(
                transaction,
                self.vault.keys,
                user_id=owner.user.id,
                provider=provider,
                answer=answer,
                asked=granted,
                policy=self.vault.policies[provider],
                now=self.now,
                consented_ms=consented_ms,
            )
        allowed = granted if delegated is None else delegated
        if allowed:
            await self.allow(connection, allowed, whose=owner)
        return connection

    async def disconnect(self, connection: Connection) -> connections.PendingRevocation:
        async with self.database.transaction() as transaction:
            return await connections.disconnect(transaction, self.vault.keys, connection, now=self.now)

    async def allow(
        self,
        connection: Connection,
        scopes: frozenset[str],
        *,
        whose: SeededGrant | None = None,
        expires_at: int | None = None,
    ) -> None:
        which = _ids(whose or self.alice, connection)
        async with self.database.transaction() as transaction:
            await delegations.allow(transaction, **which, scopes=scopes, now=self.now, expires_at=expires_at)

    async def set_ask(self, connection: Connection, *ask: str) -> None:
        """Ask alice before each call that needs these scopes."""
        async with self.database.transaction() as transaction:
            await delegations.set_ask(transaction, **_ids(self.alice, connection), ask=frozenset(ask), now=self.now)

    async def revoke(self, connection: Connection, *, whose: SeededGrant | None = None) -> bool:
        """Revoke the agent's permission; False if it had none."""
        async with self.database.transaction() as transaction:
            return await delegations.revoke(transaction, **_ids(whose or self.alice, connection), now=self.now)

    def request(
        self,
        provider: str = "slack",
        *scopes: str,
        account: str | None = None,
        whose: SeededGrant | None = None,
        everything: bool = False,
    ) -> ExchangeRequest:
        owner = whose or self.alice
        wanted = frozenset(scopes) or frozenset({"chat:write"} if provider == "slack" else {READ})
        return ExchangeRequest(
            principal_of(owner), provider, None if everything else wanted, account=account, purpose="a_tool"
        )

    async def exchange(
        self,
        provider: str = "slack",
        *scopes: str,
        account: str | None = None,
        whose: SeededGrant | None = None,
        everything: bool = False,
        after_unauthorized: int | None = None,
    ) -> UpstreamToken:
        request = self.request(provider, *scopes, account=account, whose=whose, everything=everything)
        return await exchange(request, vault=self.vault, now=self.now, after_unauthorized=after_unauthorized)

    @asynccontextmanager
    async def held_refresh(self) -> AsyncGenerator[asyncio.Task[UpstreamToken]]:
        """An exchange whose refresh is waiting at the provider, which answers once its `gate` is set."""
        self.slack.gate = asyncio.Event()
        async with asyncio.timeout(WAIT):
            slow = asyncio.create_task(self.exchange())
            await self.slack.arrived.wait()
            yield slow

    async def row(self, connection: Connection) -> leases.ConnectionFacts:
        facts = await leases.read(self.database, connection.id)
        assert facts is not None
        return facts

    async def settle(self) -> None:
        """Wait for every running refresh."""
        await self.vault.tasks.close()

    async def events(self, kind: str | None = None) -> list[Event]:
        return [event for event in await list_events(self.database, limit=1000) if kind in (None, event.kind)]

    async def kinds(self) -> list[str]:
        return [event.kind for event in await self.events()]


def _ids(owner: SeededGrant, connection: Connection) -> dict[str, str]:
    return {"user_id": owner.user.id, "client_id": owner.client.id, "connection_id": connection.id}


def principal_of(owner: SeededGrant) -> Principal:
    return Principal(
        owner.user.id, owner.client.id, owner.grant.id, scopes=owner.grant.scopes, audience="https://vault.example/mcp"
    )


def vault_over(
    database: Database,
    keys: KeyRing,
    activity: Activity,
    *,
    journal: Journal,
    rotation: RotationMode,
    slack_double: UpstreamDouble,
    google_double: UpstreamDouble,
) -> Vault:
    return Vault(
        database=database,
        keys=keys,
        activity=activity,
        policies={"slack": slack(rotation), "google": google()},
        upstreams={"slack": slack_double, "google": google_double},
        tasks=RefreshTasks(),
        journal=journal,
        owner=secrets.token_urlsafe(16),
    )


@asynccontextmanager
async def open_room(store: Store, *, rotation: RotationMode = RotationMode.REVOKES) -> AsyncGenerator[Room]:
    database = await store.open()
    activity = Activity(database)
    slack_double, google_double = UpstreamDouble(rotation), UpstreamDouble(RotationMode.NONE)
    journal = Journal(store.data)
    try:
        keys = await store.open_keys(database)
        vault = vault_over(
            database,
            keys,
            activity,
            journal=journal,
            rotation=rotation,
            slack_double=slack_double,
            google_double=google_double,
        )
        yield Room(store, database, vault, slack_double, google_double, await seed(database))
        await vault.tasks.close()
    finally:
        journal.close()
        await activity.close()
        await database.close()


@asynccontextmanager
async def second_process(room: Room) -> AsyncGenerator[Room]:
    """The same vault opened again, with its own database handles, key ring, tasks, and owner ID."""
    database = await room.store.open()
    database.clock_offset = room.database.clock_offset
    activity = Activity(database)
    journal = Journal(room.store.data)
    try:
        keys = await room.store.open_keys(database)
        vault = vault_over(
            database,
            keys,
            activity,
            journal=journal,
            rotation=room.slack.rotation,
            slack_double=room.slack,
            google_double=room.google,
        )
        yield Room(room.store, database, vault, room.slack, room.google, room.alice)
        await vault.tasks.close()
    finally:
        journal.close()
        await activity.close()
        await database.close()


async def connection_status(room: Room, connection: Connection) -> str:
    """The state of a connection, as shown to its person."""
    found = await connections.get_connection(room.database, connection.id, user_id=room.alice.user.id)
    assert found is not None
    return found.status(room.now)


async def herd(*rooms: Room, each: int) -> list[UpstreamToken]:
    """The tokens that this many concurrent exchanges get in each room."""
    async with asyncio.timeout(WAIT):
        return list(await asyncio.gather(*(one.exchange() for one in rooms for _ in range(each))))
