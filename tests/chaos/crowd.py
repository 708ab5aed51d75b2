"""A vault with many people, each with one account at the simulator: the base of scenarios about many connections.

Everyone has the same agent. The accounts are seeded, not connected by a browser; from then on everything is real.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.world import AUDIENCE, PATIENCE, ROOT, Provider, Worker, answer_of, environment, give_account
from tests.conftest import Store
from tests.support.processes import end
from vault import clients, grants, users
from vault.keys.key_ring import KeyRing
from vault.records import Client, ClientKind
from vault.storage.database import Database, Transaction
from vault.upstream import Account

SCOPES = {
    "slack": frozenset({"chat:write", "channels:read", "channels:history"}),
    "google": frozenset(
        {
            "https://www.googleapis.com/auth/calendar.events",
            "https://www.googleapis.com/auth/calendar.events.readonly",
        }
    ),
}
SEED_PAGE = 500  # people per transaction


@dataclass(frozen=True)
class Member:
    """One person with one account."""

    provider: str
    family: str  # of the grant, in the simulator's records
    connection_id: str
    user_id: str
    grant_id: str


@dataclass
class Crowd:
    """The vault, its provider and its people."""

    store: Store
    provider: Provider
    database: Database
    keys: KeyRing
    client_id: str = "chaos-agent"
    members: list[Member] = field(default_factory=list[Member])
    stack: AsyncExitStack = field(default_factory=AsyncExitStack, repr=False)

    async def add(self, provider: str, count: int) -> list[Member]:
        """Add this many people with an account there."""
        added: list[Member] = []
        for first in range(0, count, SEED_PAGE):
            size = min(SEED_PAGE, count - first)
            seeded = await self.provider.control("seed", face=provider, count=size, scopes=sorted(SCOPES[provider]))
            async with self.database.transaction() as transaction:
                for grant in seeded["grants"]:
                    added.append(await self._join(transaction, provider, grant))
        self.members += added
        return added

    async def _join(self, transaction: Transaction, provider: str, grant: dict[str, Any]) -> Member:
        now = self.database.now()
        name = grant["family"]
        user = await users.create_user(transaction, f"person {name}", now=now)
        ours = await grants.create_grant(
            transaction,
            user_id=user.id,
            client_id=self.client_id,
            scopes=frozenset({"tools"}),
            resource=AUDIENCE,
            redirect_uri="http://127.0.0.1/callback",
            now=now,
        )
        principal = {"user_id": user.id, "client_id": self.client_id}
        answer = answer_of(grant, scopes=SCOPES[provider], account=Account(f"T1:{name}", name))
        connection = await give_account(transaction, self.keys, principal, provider=provider, answer=answer, now=now)
        return Member(provider, name, connection.id, user.id, ours.id)

    async def spread(self, members: Sequence[Member], *, life: int) -> None:
        """Let the tokens expire one after another, like those of people who connected at different times."""
        now = self.database.now()
        async with self.database.transaction() as transaction:
            for number, member in enumerate(members):
                left = life * (number + 1) // len(members)
                await transaction.execute(
                    "update connections set access_expires_at = :ends, refreshed_at = :began where id = :id",
                    {"ends": now + left, "began": now + left - life, "id": member.connection_id},
                )

    async def worker(self) -> Worker:
        """A process that exchanges tokens for everyone."""
        path = self.store.data.parent / "crowd.json"
        facts = {
            "data": str(self.store.data),
            "database": self.store.url,
            "providers": self.provider.providers,
            "client_id": self.client_id,
            "audience": AUDIENCE,
            "members": [asdict(member) for member in self.members],
        }
        await asyncio.to_thread(Path.write_text, path, json.dumps(facts))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.processes.crowd_worker", str(path),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=environment(), limit=1 << 26,
        )  # fmt: skip
        self.stack.push_async_callback(end, process)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert json.loads(await process.stdout.readline()) == {"ready": True}
        return Worker(process)

    async def spent_twice(self) -> int:
        """How many refreshes the provider refused; here, that means used tokens."""
        counts = (await self.provider.control("tally"))["refreshes"]
        return sum(count for outcome, count in counts.items() if outcome.startswith("refused"))


@asynccontextmanager
async def open_crowd(store: Store, provider: Provider) -> AsyncGenerator[Crowd]:
    """An empty vault at the store, with an agent."""
    async with AsyncExitStack() as stack:
        database = await store.open()
        stack.push_async_callback(database.close)
        keys = await store.open_keys(database)
        crowd = Crowd(store, provider, database, keys, stack=stack)
        client = Client(
            crowd.client_id, ClientKind.MANUAL, "Chaos agent", "none", ("http://127.0.0.1/callback",), database.now()
        )
        async with database.transaction() as transaction:
            await clients.save_client(transaction, client)
        yield crowd
