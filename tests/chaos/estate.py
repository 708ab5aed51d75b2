"""A vault with accounts at providers of every class; each class is a simulator in its own process.

The operator's provider files define the classes, so that the processes under test run unmodified.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from providers.definitions.catalog import SHELF, Catalog, load_catalog
from tests.chaos.crashes.kills import CLASSES, GRACE, Class
from tests.chaos.world import Provider, add_person, answer_of, give_account, strict_provider
from tests.conftest import Store
from tests.support.simulator_apps import SlackApp
from vault.keys.key_ring import KeyRing
from vault.storage.database import Database

STAYS, RESENDS, SIBLING, STRICT, REVOKES = CLASSES
NAMES = {
    STAYS.name: "stays",
    RESENDS.name: "resends",
    SIBLING.name: "sibling",
    STRICT.name: "strict",
    REVOKES.name: "revokes",
}


@dataclass
class HeldConnection:
    """One connection: its person, the provider's class, and its current token family in the provider's records."""

    name: str
    provider_class: Class
    principal: Mapping[str, str]
    connection_id: str = ""
    families: list[str] = field(default_factory=list[str])

    @property
    def provider(self) -> str:
        return NAMES[self.provider_class.name]


def write_files(folder: Path, classes: Sequence[Class]) -> None:
    """Slack's provider file under other names, each with its own class."""
    slack = (SHELF / "slack.toml").read_text(encoding="utf-8")
    shutil.copytree(SHELF / "rules", folder / "rules", dirs_exist_ok=True)
    for one in classes:
        text = slack.replace('name = "slack"', f'name = "{NAMES[one.name]}"')
        mode = f'mode = "{one.rotation}"' + (f"\ngrace = {GRACE}" if one.rotation == "grace" else "")
        assert 'mode = "strict"' in text
        (folder / f"{NAMES[one.name]}.toml").write_text(text.replace('mode = "strict"', mode), encoding="utf-8")


@dataclass
class Estate:
    """The parts, and the accounts by name."""

    store: Store
    files: Path
    database: Database  # ours, to inspect the vault and to move its time
    keys: KeyRing
    simulators: Mapping[str, Provider]
    catalog: Catalog
    held: dict[str, HeldConnection] = field(default_factory=dict[str, HeldConnection])
    _connects: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def settings(self) -> dict[str, object]:
        """The settings of every process of this vault."""
        return {
            "database": {"url": self.store.url},
            "providers": {name: simulator.providers["slack"] for name, simulator in self.simulators.items()},
            "provider_folders": [str(self.files)],
            "sandbox": {"loopback_upstreams": True},
        }

    def order(self, **more: object) -> dict[str, object]:
        """What a process of `tests.chaos.processes.mortal` needs to know about this vault."""
        return {
            "data": str(self.store.data),
            "settings": self.settings,
            "accounts": {
                one.name: {"principal": one.principal, "provider": one.provider} for one in self.held.values()
            },
            **more,
        }

    async def add_user(self, name: str, classes: Sequence[Class]) -> None:
        """Create a person with an account at each of these providers, and an agent that may use them."""
        now = self.database.now()
        async with self.database.transaction() as transaction:
            principal = await add_person(transaction, name, now=now)
        for one in classes:
            held = HeldConnection(f"{NAMES[one.name]} of {name}", one, principal)
            self.held[held.name] = held
            await self.connect(held)

    async def connect(self, held: HeldConnection) -> None:
        """Consent at the provider, for the first time or again."""
        simulator = self.simulators[held.provider]
        tokens: Mapping[str, Any] = await SlackApp(simulator, simulator.http).connect()
        count = self._connects[held.provider] = self._connects.get(held.provider, 0) + 1
        now = self.database.now()
        async with self.database.transaction() as transaction:
            connection = await give_account(
                transaction,
                self.keys,
                held.principal,
                provider=held.provider,
                answer=answer_of(tokens),
                policy=self.catalog.provider(held.provider).policy(),
                now=now,
            )
        held.connection_id = connection.id
        held.families.append(f"slack-{count}")

    async def expire(self, *, ago: int = 1) -> None:
        """Expire every access token."""
        ended = self.database.now() - ago
        async with self.database.transaction() as transaction:
            await transaction.execute("update connections set access_expires_at = :at", {"at": ended})

    async def generations(self) -> dict[str, int]:
        """Each account's generation in its row."""
        rows = await self.database.fetch("select id, generation from connections")
        known = {row["id"]: row["generation"] for row in rows}
        return {one.name: int(str(known[one.connection_id])) for one in self.held.values()}

    async def states(self) -> dict[str, str]:
        """The stored state of every account."""
        rows = await self.database.fetch("select id, state from connections")
        known = {row["id"]: row["state"] for row in rows}
        return {one.name: str(known[one.connection_id]) for one in self.held.values()}

    async def refreshes(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """What the records contain, by provider and family, in order."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for name, simulator in self.simulators.items():
            for entry in await simulator.refreshes():
                found.setdefault((name, entry["family"]), []).append(entry)
        return found


@asynccontextmanager
async def open_estate(store: Store, classes: Sequence[Class] = CLASSES, *, users: int = 2) -> AsyncGenerator[Estate]:
    """Run one vault at the store, with `users` people who each have an account of every class."""
    async with AsyncExitStack() as stack:
        opening = [stack.enter_async_context(strict_provider(**one.simulator)) for one in classes]
        opened = [await one for one in opening]
        simulators = {NAMES[one.name]: provider for one, provider in zip(classes, opened, strict=True)}
        files = store.data.parent / "files"
        files.mkdir()
        write_files(files, classes)
        database = await store.open()
        stack.push_async_callback(database.close)
        keys = await store.open_keys(database)
        estate = Estate(store, files, database, keys, simulators, load_catalog([files]))
        for number in range(users):
            await estate.add_user(f"user{number}", classes)
        yield estate
