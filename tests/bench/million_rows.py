"""Fill a database with the rows of a large vault, table by table. For `tests.bench.million`.

The activity is complete: hashed, keyed, and sealed as in the product. Sealed columns hold bytes of the usual length,
except for the accounts with journaled answers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from vault.audit.proof import Checkpoint
from vault.audit.segments import SEGMENT
from vault.records import TENANT
from vault.storage.event_chain import START, ChainEntry, Link, begin, digest, fold, mac_and_tag, tail

DAY: Final = 86400
OPEN: Final = range(50, 1480)  # connections with real keys; seven in ten are live
PER_BATCH: Final = 10  # events
UNSEALED: Final = 10_000  # events after the last checkpoint
SEALED: Final = b"\x01" * 250
KINDS: Final = ("tool.called", "token.exchanged", "token.refreshed", "handle.issued", "connection.opened")
DETAILS: Final = tuple(
    f'{{"tool":"slack_post_{number}","provider":"slack","account":"person-{number}@example.com",'
    f'"scopes":["channels:read","chat:write","users:read"],"narrowing":"upstream","resource":"slack"}}'
    for number in range(50)
)
Rows = tuple[str, tuple[str, ...], Iterable[tuple[object, ...]]]


def name(number: int, kind: str) -> str:
    """A random-looking id: consecutive ids aren't adjacent in an index."""
    return f"{kind}{(number + 1) * 0x9E3779B97F4A7C15 % 2**64:016x}abcde"


def hash_of(number: int) -> bytes:
    """32 bytes that look like a digest."""
    return ((number + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC8341082276BF3A27251F86C6A11D0C18E95 % 2**256).to_bytes(32)


@dataclass(frozen=True, slots=True)
class Size:
    """The amounts. `alice` has many events and 300 connections, `bob` is like everyone else."""

    connections: int
    events: int
    alice: str
    bob: str
    now: int

    @property
    def people(self) -> int:
        return self.connections // 5

    @property
    def clients(self) -> int:
        return self.connections // 50

    def person(self, number: int) -> str:
        return (self.alice, self.bob)[number] if number < 2 else name(number, "u")

    def owner(self, connection: int) -> str:
        return self.alice if connection >= self.connections - 300 else self.person(connection // 5)

    def client(self, number: int) -> str:
        return name(number * 7 % self.clients, "a")


def is_ended(connection: int) -> bool:
    return connection % 10 < 3


def ended_at(size: Size, connection: int) -> int:
    """When it ended: for one in ten, before the retention period."""
    return size.now - (420 if connection % 100 < 3 else connection % 380) * DAY - 60


def tables(size: Size) -> Iterator[Rows]:
    """Everything except the activity."""
    now, count = size.now, size.connections
    yield "users", ("tenant", "id", "name", "name_key", "is_admin", "created_at"), (
        (TENANT, size.person(n), f"person-{n}", f"person-{n}", 0, now - 400 * DAY) for n in range(2, size.people)
    )  # fmt: skip
    yield "keys.user_keys", ("tenant", "user_id", "wrapped", "kek_id", "created_at"), (
        (TENANT, size.person(n), SEALED[:80], "file", now - 400 * DAY)
        for n in range(2, size.people) if not OPEN.start <= n * 5 < OPEN.stop
    )  # fmt: skip
    yield "identities", ("tenant", "issuer", "subject", "user_id", "created_at"), (
        (TENANT, "https://accounts.example.com", str(n), size.person(n), now) for n in range(2, size.people)
    )  # fmt: skip
    yield "clients", (
        "tenant", "id", "kind", "name", "auth_method", "redirect_uris", "grant_types", "resources", "metadata",
        "created_at", "last_used_at",
    ), (
        (
            TENANT, name(n, "a"), "dynamic", f"Agent {n}", "none", '["http://127.0.0.1:3000/callback"]',
            '["authorization_code","refresh_token"]', "[]", "{}", now - n % 300 * DAY - 7200,
            None if n % 4 == 0 else now - n % 90 * DAY,
        ) for n in range(size.clients)
    )  # fmt: skip
    yield "grants", (
        "tenant", "id", "user_id", "client_id", "scopes", "resource", "redirect_uri", "created_at", "revoked_at",
        "revoked_reason",
    ), (
        (
            TENANT, name(n, "g"), size.person(n // 2), size.client(n), "connections offline_access tools",
            "http://localhost:8765/mcp", "http://127.0.0.1:3000/callback", now - n % 300 * DAY,
            None if n % 2 else now - (420 if n % 20 == 0 else n % 300) * DAY, None if n % 2 else "cut_off",
        ) for n in range(size.people * 2)
    )  # fmt: skip
    yield "refresh_tokens", (
        "tenant", "token_hash", "grant_id", "client_id", "family", "generation", "scopes", "resource", "issued_at",
        "expires_at", "idle_expires_at", "consumed_at", "successor_hash", "successor_sealed",
    ), (
        (
            TENANT, hash_of(n), name(n // 3, "g"), size.client(n // 3), name(n // 3, "f"), n % 3 + 1,
            "connections offline_access tools", "http://localhost:8765/mcp", now - DAY,
            now + (-3600 if n % 20 == 0 else n % 90 * DAY + 60), now + (-60 if n % 2 else DAY),
            now - 3600 if n % 3 < 2 else None, hash_of(n + 1) if n % 3 < 2 else None, SEALED if n % 40 == 0 else None,
        ) for n in range(size.people * 6)
    )  # fmt: skip
    yield "tickets", (
        "tenant", "ticket_hash", "purpose", "payload", "user_id", "client_id", "created_at", "expires_at",
        "consumed_at", "outcome",
    ), (
        (
            TENANT, hash_of(n), "code" if n % 5 else "pushed", SEALED, size.person(n % size.people) if n % 5 else None,
            size.client(n), now - n % 95 * DAY - 60, now - n % 95 * DAY, now - n % 95 * DAY - 30 if n % 5 else None,
            name(n, "g") if n % 5 else None,
        ) for n in range(count // 2)
    )  # fmt: skip
    yield "connections", (
        "tenant", "id", "user_id", "provider", "account", "label", "scopes", "state", "generation", "refresh_sealed",
        "access_sealed", "access_generation", "access_expires_at", "grant_expires_at", "idle_expires_at", "metadata",
        "fence", "created_at", "refreshed_at", "ended_at",
    ), (
        (
            TENANT, name(n, "c"), size.owner(n), ("slack", "google", "github", "notion", "linear")[n % 5],
            f"account-{n}", f"person-{n}@example.com", "channels:read chat:write users:read",
            "revoked" if is_ended(n) else "needs_reauth" if n % 20 == 19 else "active", 5,
            None if is_ended(n) else SEALED, None if is_ended(n) else SEALED, 5, now + (n % 3600) * (1 - n % 2 * 2),
            now + 3 * DAY + n % DAY if n % 40 == 4 else None, now + (n % 170 + 10) * DAY if n % 5 == 3 else None, "{}",
            5, now - 420 * DAY, now - n % 30 * DAY, ended_at(size, n) if is_ended(n) else None,
        ) for n in range(count)
    )  # fmt: skip
    yield (
        "keys.connection_keys",
        ("tenant", "connection_id", "salt", "created_at"),
        ((TENANT, name(n, "c"), hash_of(n), now) for n in range(count) if not is_ended(n) and n not in OPEN),
    )
    yield "narrowed_tokens", (
        "tenant", "connection_id", "scope_key", "generation", "sealed", "issued_at", "expires_at"
    ), (
        (TENANT, name(n, "c"), "chat:write", 5, SEALED, now, now + 600 * (1 - n % 2 * 2))
        for n in range(count) if n % 10 == 4
    )  # fmt: skip
    yield "delegations", (
        "tenant", "user_id", "client_id", "connection_id", "scopes", "created_at", "changed_at", "expires_at",
        "revoked_at",
    ), (
        (
            TENANT, size.owner(n), size.client(n % 40 if n >= count - 300 else n // 5 * 2 + 1), name(n, "c"),
            "chat:write users:read", now - 90 * DAY, now - 90 * DAY, now + (n % 20 - 5) * DAY if n % 4 == 0 else None,
            ended_at(size, n) if is_ended(n) else None,
        ) for n in range(count)
    )  # fmt: skip
    yield "approvals", (
        "tenant", "id", "user_id", "client_id", "connection_id", "tool", "digest", "payload", "state", "created_at",
        "expires_at",
    ), (
        (
            TENANT, name(n, "p"), size.person(2 + n % (size.people - 2)), size.client(n), name(n, "c"), "slack_post",
            hash_of(n), SEALED, "pending", now - DAY, now + (600 if n % 2 else -3600 - (n % 20 == 0) * 2 * DAY),
        ) for n in range(count // 5)
    )  # fmt: skip
    yield "handles", (
        "tenant", "handle_hash", "user_id", "client_id", "grant_id", "actors", "connection_id", "provider", "scopes",
        "issued_at", "expires_at",
    ), (
        (
            TENANT, hash_of(n), size.owner(n), size.client(n), name(n, "g"), "[]", name(n, "c"), "slack", "chat:write",
            now - 300, now + (300 if n % 2 else -60 - (n % 20 == 0) * 2 * DAY),
        ) for n in range(count // 5)
    )  # fmt: skip
    yield "sessions", ("tenant", "token_hash", "user_id", "created_at", "seen_at", "expires_at", "ended_at"), (
        (
            TENANT, hash_of(n), size.person(n), now - DAY, now - DAY,
            now + (DAY if n % 2 else -60 - (n % 20 == 0) * 40 * DAY), now - 60 * DAY if n % 50 == 1 else None,
        ) for n in range(size.people)
    )  # fmt: skip
    yield "upstream_revocations", (
        "tenant", "connection_id", "user_id", "provider", "sealed", "attempts", "outcome", "next_at", "created_at",
        "done_at",
    ), (
        (
            TENANT, name(n, "c"), size.owner(n), "slack", SEALED if n % 200 == 1 else None, 1,
            "failed" if n % 200 == 1 else "revoked", now + (n % 20 - 2) * 3600 if n % 200 == 1 else None,
            ended_at(size, n), None if n % 200 == 1 else ended_at(size, n),
        ) for n in range(count) if is_ended(n)
    )  # fmt: skip
    yield (
        "seen",
        ("purpose", "value_hash", "expires_at"),
        (("dpop", hash_of(n), now + (3600 if n % 2 or n % 10 else -60)) for n in range(count // 2)),
    )
    yield (
        "limits",
        ("bucket", "window_start", "spent"),
        (
            (f"{(60, 600, 3600)[n % 3]}:register:10.{n % 251}.{n % 241}.{n % 239}", now - n % (20 * 3600), 1)
            for n in range(count // 5)
        ),
    )
    yield (
        "intents",
        ("tenant", "connection_id", "owner", "generation", "sent_at", "sends"),
        (
            (TENANT, name(n, "c"), f"gone-{n % 5}", 5, now - 3600, 1 + n % 2)
            for n in range(5000, 5500)
            if not is_ended(n)
        ),
    )


def chain(size: Size, key: bytes, began: Link) -> Iterator[tuple[list[tuple[object, ...]], tuple[object, ...], Link]]:
    """Yield per batch: rows of events, the batch's row, the chain's end. Spread over 402 days, oldest first."""
    link, total = began, size.events
    keyed = began.keyed or begin(key, height=began.height, sequence=began.sequence, hash=began.hash)
    first = size.now - 402 * DAY
    while link.sequence < total:
        at = first + 402 * DAY * link.sequence // total
        entries = [
            ChainEntry(
                KINDS[n % 7 % 5], "ok", size.alice if n % 25 == 0 else size.person(n * 31 % size.people),
                size.client(n % 30 if n % 25 == 0 else n), name(n % size.connections, "c"), DETAILS[n % 50],
            ) for n in range(link.sequence, min(link.sequence + PER_BATCH, total))
        ]  # fmt: skip
        tails = [tail(entry, at=at) for entry in entries]
        now_at, height = link.sequence, link.height + 1
        made = digest(link.hash, height=height, sequence=now_at, at=at, tails=tails)
        mac, tag = mac_and_tag(key, tails=tails)
        keyed = fold(keyed, previous=link.hash, mac=mac)
        events: list[tuple[object, ...]] = [
            (TENANT, now_at + n, at, e.kind, e.outcome, e.user_id, e.client_id, e.connection_id, e.details)
            for n, e in enumerate(entries, start=1)
        ]
        last = now_at + len(entries)
        batch = (TENANT, height, now_at + 1, last, link.hash, made, at, tag)
        link = Link(height, last, made, keyed)
        yield events, batch, link


class Place:
    """A database for bulk inserts; indexes that aren't keys are created at the end."""

    async def copy(self, rows: Rows) -> None:
        raise NotImplementedError

    async def run(self, sql: str, *values: object) -> None:
        raise NotImplementedError

    async def finish(self) -> None:
        raise NotImplementedError


class SqlitePlace(Place):
    def __init__(self, data: Path) -> None:
        self._file = data / "vault.sqlite"
        self._connection = sqlite3.connect(self._file, isolation_level=None)
        self._connection.execute("attach database ? as keys", (str(data / "keys.sqlite"),))
        for store in ("main", "keys"):
            self._connection.execute(f"pragma {store}.journal_mode = off")
            self._connection.execute(f"pragma {store}.synchronous = off")
        self._connection.execute("pragma cache_size = -1500000")
        found = self._connection.execute(
            "select name, sql from sqlite_master where type = 'index' and sql like 'create index%'"
        )
        self._indexes = found.fetchall()
        for index, _ in self._indexes:
            self._connection.execute(f"drop index {index}")

    async def copy(self, rows: Rows) -> None:
        table, columns, values = rows
        marks = ", ".join("?" for _ in columns)
        pages = iter(values)
        while page := list(islice(pages, 50_000)):
            self._connection.execute("begin")
            self._connection.executemany(f"insert into {table} ({', '.join(columns)}) values ({marks})", page)
            self._connection.execute("commit")

    async def run(self, sql: str, *values: object) -> None:
        self._connection.execute(sql, values)

    async def finish(self) -> None:
        with closing(self._connection):
            for _, sql in self._indexes:
                self._connection.execute(sql)


class PostgresPlace(Place):
    def __init__(self, url: str) -> None:
        self._url = url
        self._indexes: Sequence[str] = ()

    async def begin(self) -> None:
        import asyncpg

        self._connection = await asyncpg.connect(self._url)
        await self._connection.execute("set maintenance_work_mem = '1GB'")
        found = await self._connection.fetch(
            "select indexname, indexdef from pg_indexes where schemaname = 'public' and indexdef like 'CREATE INDEX%'"
        )
        self._indexes = [row["indexdef"] for row in found]
        for row in found:
            await self._connection.execute(f"drop index {row['indexname']}")

    async def copy(self, rows: Rows) -> None:
        table, columns, values = rows
        schema, _, bare = table.rpartition(".")
        await self._connection.copy_records_to_table(
            bare, schema_name=schema or "public", columns=columns, records=values, timeout=7200
        )

    async def run(self, sql: str, *values: object) -> None:
        for number in range(1, len(values) + 1):
            sql = sql.replace("?", f"${number}", 1)
        await self._connection.execute(sql, *values)

    async def finish(self) -> None:
        for sql in self._indexes:
            await self._connection.execute(sql, timeout=7200)
        await self._connection.execute("analyze", timeout=7200)
        await self._connection.close()


async def fill(place: Place, size: Size, *, key: bytes, began: Link) -> None:
    """Insert everything, the head last."""
    for rows in tables(size):
        await place.copy(rows)
    batches: list[tuple[object, ...]] = []
    events: list[tuple[object, ...]] = []
    sealed: list[tuple[object, ...]] = []
    first, link = began, began
    first_at = 0
    for some, batch, end in chain(size, key, began):
        if first is link:
            first_at = int(str(batch[6]))
        events += some
        batches.append(batch)
        link = end
        if link.sequence - first.sequence >= SEGMENT and link.sequence < size.events - UNSEALED:
            made = Checkpoint(
                first_height=first.height + 1, first_sequence=first.sequence + 1, first_at=first_at,
                last_at=int(str(batch[6])), link=link, unkeyed=0,
            )  # fmt: skip
            sealed.append(
                (
                    TENANT, made.first_height, link.height, made.first_sequence, link.sequence, made.first_at,
                    made.last_at, made.seal(key),
                )
            )  # fmt: skip
            first = link
        if len(events) >= 50_000 or link.sequence >= size.events:
            await place.copy(("events", EVENTS, events))
            await place.copy(("event_batches", BATCHES, batches))
            events, batches = [], []
    await place.copy(("event_checkpoints", CHECKPOINTS, sealed))
    await place.run(
        "update event_heads set height = ?, sequence = ?, hash = ?, keyed = ?, previous_hash = null",
        link.height, link.sequence, link.hash, link.keyed,
    )  # fmt: skip
    await place.finish()


EVENTS: Final = ("tenant", "sequence", "at", "kind", "outcome", "user_id", "client_id", "connection_id", "details")
BATCHES: Final = ("tenant", "height", "first_sequence", "last_sequence", "previous_hash", "hash", "at", "tag")
CHECKPOINTS: Final = (
    "tenant", "first_height", "height", "first_sequence", "sequence", "first_at", "last_at", "sealed",
)  # fmt: skip
ORIGIN: Final = Link(0, 0, START, None)
