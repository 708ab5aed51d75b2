"""A provider hangs for forty of its people: others, there and at another provider, aren't affected.

Periods in which it answers and periods in which it hangs alternate, so that both are measured in the same minute. The
medians of the periods' p99 are compared: over a whole run, p99 shows slow commits of the disk.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from server.app import open_deployment
from server.oauth import tokens
from server.settings import load_settings
from tests.chaos.crowd import Crowd, Member, open_crowd
from tests.chaos.figures import Figure, Scale, quantile
from tests.chaos.replicas.rolling_restart import MODERN, http
from tests.chaos.world import ROOT, Provider, Server, environment, fresh_store, postgres_server, strict_provider
from tests.support.inspection import get_grant
from tests.support.processes import end, free_port

TOOLS = {"slack": "slack_channels", "google": "calendar_list"}
SLOWER = 1.2  # at most this many times as slow
HANGS = 1000.0  # milliseconds after which a call of one of the forty counts as hung
NOISE = 2.0  # milliseconds by which two equal measurements may differ
PAUSES = {"struck": 2.0, "same": 1.0, "other": 1.0}  # seconds between calls of one person, on average
LULL = 3.0  # seconds after it hung that aren't measured: everyone who waited calls at once


@dataclass
class Spell:
    """The results of one group's calls in one period."""

    milliseconds: list[float] = field(default_factory=list[float])
    outcomes: Counter[str] = field(default_factory=Counter[str])


def tool_call(port: int, token: str, tool: str, number: int) -> bytes:
    """One `tools/call` of the stateless protocol."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "chaos", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    call = {"name": tool, "arguments": {}, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": call}).encode()
    lines = [
        "POST /mcp HTTP/1.1", f"Host: localhost:{port}", "Connection: close", "Content-Type: application/json",
        "Accept: application/json, text/event-stream", f"MCP-Protocol-Version: {MODERN}", "Mcp-Method: tools/call",
        f"Mcp-Name: {tool}", f"Content-Length: {len(body)}", f"Authorization: Bearer {token}",
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@dataclass
class CrowdServer:
    """A server and the tokens of everyone."""

    port: int
    tokens: dict[str, str]
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def call(self, member: Member, spell: Spell) -> None:
        started = time.perf_counter()
        request = tool_call(self.port, self.tokens[member.user_id], TOOLS[member.provider], next(self.numbers))
        answer = await http(self.port, request)
        head, _, body = answer.partition(b"\r\n\r\n")
        outcome = head.split(b" ", 2)[1].decode() if b" " in head else "nothing"
        if outcome == "200":
            result = json.loads(body).get("result", {})
            outcome = "ok" if "structuredContent" in result and not result.get("isError") else body.decode()[:200]
        spell.outcomes[outcome] += 1
        spell.milliseconds.append((time.perf_counter() - started) * 1000)


@asynccontextmanager
async def serve_crowd(crowd: Crowd) -> AsyncGenerator[CrowdServer]:
    """Run `serve` on a free port, with an access token for every person's agent."""
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="tvhang"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        port = free_port()
        public = f"http://localhost:{port}"
        async with crowd.database.transaction() as transaction:
            await transaction.execute("update grants set resource = :resource", {"resource": f"{public}/mcp"})
        overrides: dict[str, object] = {
            "server": {"public_url": public, "port": port},
            "database": {"url": crowd.store.url},
            "tokens": {"access_lifetime": 3600},
            "tools": {"calls_per_minute": 1_000_000},
            "providers": crowd.provider.providers,
            "sandbox": {"loopback_upstreams": True},
        }
        minted: dict[str, str] = {}
        async with open_deployment(load_settings(overrides=overrides), data=crowd.store.data) as deployment:
            for member in crowd.members:
                grant = await get_grant(deployment.database, member.grant_id)
                assert grant is not None
                minted[member.user_id], _ = tokens.mint(
                    deployment, grant, scopes=grant.scopes, audience=grant.resource, now=deployment.now()
                )
        (crowd.store.data / "config.toml").write_text(configuration(overrides))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "token_vault", "serve", "--data", str(crowd.store.data),
            stderr=asyncio.subprocess.DEVNULL, cwd=ROOT, env=environment(),
        )  # fmt: skip
        stack.push_async_callback(end, process)
        await ready(port, process)
        yield CrowdServer(port, minted)


def configuration(overrides: dict[str, object]) -> str:
    """The same as a file: sections, and tables in them."""
    lines: list[str] = []

    def section(name: str, content: dict[str, object]) -> None:
        lines.append(f"[{name}]")
        lines.extend(f"{key} = {json.dumps(value)}" for key, value in content.items() if not isinstance(value, dict))
        for key, value in content.items():
            if isinstance(value, dict):
                section(f"{name}.{key}", value)

    for name, content in overrides.items():
        assert isinstance(content, dict)
        section(name, content)
    return "\n".join(lines) + "\n"


async def ready(port: int, process: asyncio.subprocess.Process) -> None:
    """Wait until the server reports that it is ready."""
    asking = b"GET /readyz HTTP/1.1\r\nHost: localhost:%d\r\nConnection: close\r\n\r\n" % port
    async with asyncio.timeout(60):
        while True:
            assert process.returncode is None, "serve ended"
            try:
                if (await http(port, asking)).startswith(b"HTTP/1.1 200"):
                    return
            except OSError:
                pass
            await asyncio.sleep(0.02)


@dataclass
class Load:
    """Calls of everyone. A result counts for the period in which the call began."""

    served: CrowdServer
    spells: list[tuple[str, dict[str, Spell]]] = field(default_factory=list[tuple[str, dict[str, Spell]]])

    async def insist(self, member: Member, group: str, moments: random.Random) -> None:
        """Call repeatedly."""
        while True:
            await asyncio.sleep(PAUSES[group] * moments.uniform(0.5, 1.5))
            await self.served.call(member, self.spells[-1][1][group])

    def begin(self, kind: str) -> None:
        """The next spell."""
        self.spells.append((kind, {group: Spell() for group in PAUSES}))


@asynccontextmanager
async def call_all_the_time(served: CrowdServer, groups: dict[str, list[Member]]) -> AsyncGenerator[Load]:
    """Have these people call all the time."""
    load = Load(served)
    load.begin("lull")  # warming up
    tasks = [
        asyncio.create_task(load.insist(member, group, random.Random(f"{group} {number}")))
        for group, members in groups.items()
        for number, member in enumerate(members)
    ]
    try:
        yield load
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        broken = [one for one in ended if not isinstance(one, asyncio.CancelledError)]
        assert not broken, broken


async def hang(
    provider: Provider, server: Server | None, *, hung: int, others: int, spells: int, seconds: float
) -> Figure:
    """Alternate between periods of both kinds."""
    async with fresh_store(server) as store, open_crowd(store, provider) as crowd:
        await provider.control("reset")
        await provider.control("rotation", face="slack", mode="reuse_revokes_family")
        await provider.control("lifetimes", face="slack", access=60)
        await provider.control("lifetimes", face="google", access=60)
        sizes = {"struck": ("slack", hung), "same": ("slack", others), "other": ("google", others)}
        groups = {group: await crowd.add(face, size) for group, (face, size) in sizes.items()}
        for members in groups.values():
            await crowd.spread(members, life=60)
        families = [one.family for one in groups["struck"]]
        async with serve_crowd(crowd) as served, call_all_the_time(served, groups) as load:
            await asyncio.sleep(LULL)
            for _ in range(spells):
                load.begin("before")
                await asyncio.sleep(seconds)
                await provider.control("faults", endpoint="slack", kind="hang", times=None, families=families)
                load.begin("during")
                await asyncio.sleep(seconds)
                await provider.control("clear_faults")
                load.begin("lull")
                await asyncio.sleep(LULL)
    return _judge(load.spells, where="SQLite" if server is None else "PostgreSQL", hung=hung)


def _judge(spells: list[tuple[str, dict[str, Spell]]], *, where: str, hung: int) -> Figure:
    struck = [groups["struck"] for kind, groups in spells if kind == "during"]
    waited = sum(ms > HANGS for spell in struck for ms in spell.milliseconds)
    theirs = sum(len(spell.milliseconds) for spell in struck)
    said, holds = list[str](), waited >= hung
    for group in ("same", "other"):
        kinds = {kind: [groups[group] for name, groups in spells if name == kind] for kind in ("before", "during")}
        p50, p99 = ([_typical(found, share) for found in kinds.values()] for share in (0.5, 0.99))
        outcomes = sum((groups[group].outcomes for _, groups in spells), Counter[str]())
        calls, failed = outcomes.total(), outcomes.total() - outcomes["ok"]
        holds = holds and not failed and p99[1] <= max(p99[0] * SLOWER, p99[0] + NOISE)
        said.append(
            f"{group} provider p50 {p50[0]:.1f} and {p50[1]:.1f} ms, p99 {p99[0]:.1f} and {p99[1]:.1f} ms, "
            f"{failed} of {calls} failed"
        )
    if not holds:
        for kind, groups in spells:
            told = {
                group: (round(quantile(spell.milliseconds, 0.99), 1), spell.outcomes) for group, spell in groups.items()
            }
            print(kind, told, file=sys.stderr)
    return Figure(
        f"a provider hangs for {hung} people, {where}",
        f"{waited} of their {theirs} calls hung; others before and during, medians of {len(struck)} spells: "
        + "; ".join(said),
        "p99 at most 20 % above, 0 fail",
        holds,
    )


def _typical(spells: list[Spell], share: float) -> float:
    return statistics.median(quantile(spell.milliseconds, share) for spell in spells)


async def figures(scale: Scale) -> list[Figure]:
    """Both databases."""
    full = scale is Scale.FULL
    async with strict_provider() as provider, postgres_server() as server:
        return [
            await hang(provider, where, hung=40, others=40, spells=8 if full else 1, seconds=15.0 if full else 2.0)
            for where in (server, None)
        ]
