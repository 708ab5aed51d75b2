"""Random exchanges of many agents of several people: none reaches an account or a scope that isn't theirs.

Everything goes over HTTP. The effect of the permissions is computed here and compared with the simulator's records.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from tests.chaos.figures import Figure, Scale
from tests.support.rooms.exchange_room import ACCESS, API, EVENTS, READONLY, REFRESH, Caller, ExchangeRoom
from tests.support.rooms.mcp_room import SLACK, Agent, room
from vault.records import ClientKind, Connection

AT_ONCE = 24
COVERS = {EVENTS: frozenset({EVENTS, READONLY})}
GRANTED = {"slack": SLACK, "google": frozenset({EVENTS, READONLY})}
ACCOUNTS = (  # user -> connected accounts; none belongs to two people
    ("ann", (("slack", "alice"), ("slack", "bob"), ("google", "carol"))),
    ("ben", (("slack", "carol"), ("google", "alice"), ("google", "bob"))),
)


# Parameters that the request rules know for a call and the simulator ignores; `text` is in the body.
MARKERS = ("quotaUser", "team_id", "text")


@dataclass(frozen=True)
class Try:
    """One kind of call to a provider's API."""

    method: str
    path: str
    api: str
    needs: str
    body: Mapping[str, object] | None = None
    marker: str = "quotaUser"


CALLS = {
    "slack": (
        Try("POST", "/chat.postMessage", "web", "chat:write", {"channel": "#general", "text": "hello"}, "text"),
        Try("GET", "/conversations.list", "web", "channels:read", marker="team_id"),
        Try("GET", "/users.list", "web", "users:read", marker="team_id"),
    ),
    "google": (
        Try("GET", "/calendars/primary/events", "calendar", READONLY),
        Try(
            "POST",
            "/calendars/primary/events",
            "calendar",
            EVENTS,
            {"summary": "x", "start": {"date": "2027-01-01"}, "end": {"date": "2027-01-02"}},
        ),
    ),
}


@dataclass(frozen=True)
class Holder:
    """One agent of one person, and what it presents."""

    user: str
    caller: Caller
    subject: str = field(repr=False)
    kind: str
    delegated_to: Agent


@dataclass
class Crossings:
    """What happened, and what must not happen."""

    tally: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def fault(self, what: str, detail: object) -> None:
        self.wrong.append(f"{what}: {detail}")


@dataclass
class Play:
    """Create two people with three accounts each, and four agents."""

    place: ExchangeRoom
    chance: random.Random
    holders: list[Holder] = field(default_factory=list)
    connected: dict[str, list[tuple[Connection, str]]] = field(default_factory=dict)  # user -> connection, account
    allowed: dict[tuple[str, str, str], frozenset[str]] = field(default_factory=dict)  # user, client, connection
    found: Crossings = field(default_factory=Crossings)

    async def set(self) -> None:
        """Create agents of every kind, with random permissions."""
        place = self.place
        backend, jobs, spa = await place.caller(), await place.caller(), await place.caller(public=True)
        agent = await place.caller(kind=ClientKind.DYNAMIC, public=True)
        server = await place.caller()
        await place.link(server)
        for user, accounts in ACCOUNTS:
            mine = {one.client.id: await place.agent(one, user) for one in (backend, jobs, agent, server)}
            page = await place.agent(spa, user, audience=API)
            refresh = await place.refresh_token(mine[jobs.client.id])
            self.holders += [
                Holder(user, backend, mine[backend.client.id].token, ACCESS, mine[backend.client.id]),
                Holder(user, jobs, refresh, REFRESH, mine[jobs.client.id]),
                Holder(user, agent, mine[agent.client.id].token, ACCESS, mine[agent.client.id]),
                Holder(user, server, page.token, ACCESS, mine[server.client.id]),
            ]
            self.connected[user] = []
            for provider, account in accounts:
                opened = await place.room.connect(
                    mine[backend.client.id], provider, scopes=GRANTED[provider], account=account
                )
                self.connected[user].append((opened, account))
        await self.shuffle()

    async def shuffle(self) -> None:
        """Give everyone new permissions."""
        for holder in self.holders:
            for connection, _ in self.connected[holder.user]:
                names = sorted(GRANTED[connection.provider])
                scopes = frozenset(name for name in names if self.chance.random() < 0.6)
                await self.place.room.allow(holder.delegated_to, connection, scopes or frozenset({"none:at-all"}))
                self.allowed[holder.user, holder.caller.client.id, connection.id] = expand(scopes)

    async def round(self, number: int, http: httpx2.AsyncClient) -> None:
        """Make one exchange, and a call with its result."""
        chance, found = self.chance, self.found
        holder = chance.choice(self.holders)
        is_foreign = chance.random() < 0.15
        others = [user for user in self.connected if user != holder.user]
        connection, account = chance.choice(self.connected[others[0] if is_foreign else holder.user])
        scopes = frozenset(
            name for name in (*sorted(GRANTED[connection.provider]), "users:read") if chance.random() < 0.4
        )
        if connection.provider == "google":
            scopes -= {"users:read"}
        named = chance.choice([connection.id, connection.account, connection.label])
        how: dict[str, str | None] = {"audience": connection.provider, "account": named}
        if chance.random() < 0.3:
            how = {"audience": connection.id}
        answer = await self.place.exchange(
            holder.caller, holder.subject, kind=holder.kind, scope=" ".join(sorted(scopes)) or None, **how
        )
        may = frozenset[str]()
        if not is_foreign:
            may = self.allowed[holder.user, holder.caller.client.id, connection.id]
        is_allowed = bool(may) and scopes <= may & expand(GRANTED[connection.provider])
        found.tally["exchanges"] += 1
        if (answer.status_code == 200) is not is_allowed:
            found.fault("decision", (number, answer.status_code, answer.text[:200], sorted(scopes), sorted(may)))
            return
        if not is_allowed:
            found.tally["refused"] += 1
            return
        content = answer.json()
        issued = frozenset(str(content["scope"]).split())
        if not expand(issued) <= (expand(scopes) if scopes else may):
            found.fault("scope", (number, sorted(issued), sorted(scopes)))
        await self._call(number, http, connection, account, content, issued)

    async def _call(
        self,
        number: int,
        http: httpx2.AsyncClient,
        connection: Connection,
        account: str,
        content: Mapping[str, object],
        issued: frozenset[str],
    ) -> None:
        """Try one operation of this provider's API, allowed or not; the marker identifies it in the records."""
        found, call = self.found, self.chance.choice(CALLS[connection.provider])
        base = content.get("api_base_url") or self.place.deployment.catalog.provider(connection.provider).apis[call.api]
        mark, in_body = {call.marker: f"call-{number}"}, call.marker in (call.body or {})
        response = await http.request(
            call.method,
            f"{base}{call.path}",
            params=None if in_body else mark,
            json={**(call.body or {}), **mark} if in_body else call.body,
            headers={"Authorization": f"Bearer {content['access_token']}"},
        )
        is_covered = call.needs in expand(issued)
        body = response.json() if response.headers.get("content-type", "").startswith("application/") else {}
        worked = response.status_code == 200 and body.get("ok", True) is True
        found.tally["calls"] += 1
        found.tally["through the vault" if "api_base_url" in content else "with a narrow token"] += 1
        found.tally["served" if worked else "turned away"] += 1
        if worked is not is_covered:
            found.fault("call", (number, call.path, sorted(issued), response.status_code, response.text[:200]))
        self.expected[f"call-{number}"] = (account, is_covered, "api_base_url" in content)

    expected: dict[str, tuple[str, bool, bool]] = field(default_factory=dict)

    def judge(self) -> None:
        """Check the provider's records: the right account, and nothing that no scope covers."""
        arrived = 0
        for entry in self.place.room.simulator.books()["api_calls"]:
            sent = [part for part in (entry["query"], entry["body"]) if isinstance(part, Mapping)]
            found = [part[name] for part in sent for name in MARKERS if name in part]
            marker = found[0] if found else None
            if marker is None:
                continue
            arrived += 1
            account, is_covered, is_proxied = self.expected.pop(str(marker))
            if entry["account"] != account:
                self.found.fault("account", entry)
            if not is_covered and (is_proxied or entry["outcome"] == "ok"):
                self.found.fault("outside its scopes", entry)
        for marker, (_, is_covered, _) in self.expected.items():
            if is_covered:
                self.found.fault("lost", marker)
        self.found.tally["arrived"] = arrived


def expand(scopes: frozenset[str]) -> frozenset[str]:
    return scopes.union(*(COVERS.get(scope, frozenset()) for scope in scopes))


async def crossings(data: Path, *, calls: int, seed: int) -> Crossings:
    """Make this many random exchanges and calls; permissions change ten times meanwhile."""
    async with (
        room(data) as opened,
        httpx2.AsyncClient(base_url=opened.url, timeout=60, trust_env=False) as http,
    ):
        play = Play(ExchangeRoom(opened, http), random.Random(seed))
        await play.set()
        done = 0
        while done < calls:
            share = min(max(AT_ONCE, calls // 10), calls - done)
            waiting = iter(range(done, done + share))

            async def work(numbers: object = waiting) -> None:
                for number in numbers:
                    await play.round(number, http)

            await asyncio.gather(*(work() for _ in range(AT_ONCE)))
            done += share
            await play.shuffle()
        play.judge()
        return play.found


async def figures(scale: Scale) -> list[Figure]:
    """10,000 rounds."""
    calls = 10_000 if scale is Scale.FULL else 500
    with tempfile.TemporaryDirectory() as folder:
        found = await crossings(Path(folder) / "data", calls=calls, seed=1)
    tally = found.tally
    return [
        Figure(
            f"{tally['exchanges']} random exchanges, 2 people x 3 accounts x 4 agents",
            f"{tally['refused']} refused, {tally['calls']} calls, of these {tally['turned away']} turned away; "
            f"{len(found.wrong)} wrong",
            "no call reaches another account, none outside its scopes is served, none that is allowed is refused",
            not found.wrong and tally["served"] > 0 and tally["refused"] > 0 and tally["turned away"] > 0,
        )
    ]
