"""A provider hangs for forty of its people: those of the same provider, and of another one, notice nothing.

A real server over HTTP; a call is a tool call with its provider call. Spells in which the provider answers everybody
and in which it hangs for some, refreshes and calls alike, follow each other, so that both are measured on the same
machine in the same minute. The forty call in both, like everybody; in the second they wait, and as many other people
of that provider call in their place, so that the server has as much to do in both.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
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
from tests.chaos.rolling import MODERN, http
from tests.chaos.world import ROOT, Provider, Server, end, environment, fresh_store, postgres_server, strict_provider
from tests.processes import free_port
from vault import grants

TOOLS = {"slack": "slack_channels", "google": "calendar_list"}
SLOWER = 1.2  # at most so many times as slow
NOISE = 2.0  # milliseconds that two measurements of the same thing may differ
PAUSE = 2.0  # seconds between an answer and the next call of the forty


@dataclass
class Spell:
    """What calls of one group came to, in the spells of one kind."""

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
class Served:
    """A server and the tokens of everybody."""

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
async def serving(crowd: Crowd) -> AsyncGenerator[Served]:
    """`serve` on a free port, with an access token for every person's agent."""
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
                grant = await grants.get_grant(deployment.database, member.grant_id)
                assert grant is not None
                minted[member.user_id], _ = tokens.mint(
                    deployment, grant, scopes=grant.scopes, audience=grant.resource, now=deployment.now()
                )
        (crowd.store.data / "config.toml").write_text(configuration(overrides))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "server", "serve", "--data", str(crowd.store.data),
            stderr=asyncio.subprocess.DEVNULL, cwd=ROOT, env=environment(),
        )  # fmt: skip
        stack.push_async_callback(end, process)
        await ready(port, process)
        yield Served(port, minted)


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
    """Wait until the server says that it can work."""
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


async def _pace(served: Served, members: list[Member], spell: Spell, *, seconds: float, rate: float) -> None:
    """Calls of these people at a steady rate."""
    loop, calls = asyncio.get_running_loop(), list[asyncio.Task[None]]()
    first = loop.time()
    for number in range(int(seconds * rate)):
        await asyncio.sleep(max(0.0, first + number / rate - loop.time()))
        calls.append(asyncio.create_task(served.call(members[number % len(members)], spell)))
    await asyncio.gather(*calls)


async def _insist(served: Served, member: Member, spell: Spell) -> None:
    while True:
        await served.call(member, spell)
        await asyncio.sleep(PAUSE)


@asynccontextmanager
async def calling(served: Served, members: list[Member], spell: Spell) -> AsyncGenerator[None]:
    """These people call all the time, each some seconds after their last answer, not all at once."""
    tasks: list[asyncio.Task[None]] = []
    for member in members:
        tasks.append(asyncio.create_task(_insist(served, member, spell)))
        await asyncio.sleep(PAUSE / len(members))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def hang(
    provider: Provider, server: Server | None, *, hung: int, others: int, spells: int, seconds: float
) -> Figure:
    """Spells of both kinds in turn."""
    async with fresh_store(server) as store, open_crowd(store, provider) as crowd:
        await provider.control("reset")
        await provider.control("rotation", face="slack", mode="reuse_revokes_family")
        await provider.control("lifetimes", face="slack", access=60)
        await provider.control("lifetimes", face="google", access=60)
        struck = await crowd.add("slack", hung)
        groups = {"same": await crowd.add("slack", others), "other": await crowd.add("google", others)}
        instead = await crowd.add("slack", hung)
        for members in (struck, instead, *groups.values()):
            await crowd.spread(members, life=60)
        measured = {(group, kind): Spell() for group in groups for kind in ("before", "during")}
        waiting, filling = Spell(), Spell()
        fault = {"endpoint": "slack", "kind": "hang", "times": None, "families": [one.family for one in struck]}

        async def load(kind: str, *, seconds: float) -> None:
            await asyncio.gather(
                *(
                    _pace(served, members, measured[group, kind], seconds=seconds, rate=20.0)
                    for group, members in groups.items()
                ),
                _pace(served, instead, filling, seconds=seconds, rate=hung / PAUSE if kind == "during" else 0.0),
            )

        async with serving(crowd) as served:
            await load("before", seconds=2.0)  # warming up
            for spell in measured.values():
                spell.milliseconds.clear()
            async with calling(served, struck, waiting):
                for _ in range(spells):
                    await load("before", seconds=seconds)
                    await provider.control("faults", **fault)
                    await load("during", seconds=seconds)
                    await provider.control("clear_faults")
    return _judged(measured, waiting, where="SQLite" if server is None else "PostgreSQL", hung=hung)


def _judged(measured: dict[tuple[str, str], Spell], waiting: Spell, *, where: str, hung: int) -> Figure:
    said: list[str] = []
    holds = True
    for group in ("same", "other"):
        before, during = measured[group, "before"], measured[group, "during"]
        first, then = (quantile(spell.milliseconds, 0.99) for spell in (before, during))
        failed = sum(count for spell in (before, during) for code, count in spell.outcomes.items() if code != "ok")
        holds = holds and not failed and then <= max(first * SLOWER, first + NOISE)
        middle = (quantile(spell.milliseconds, 0.5) for spell in (before, during))
        calls = sum((before.outcomes + during.outcomes).values())
        said.append(
            f"{group} provider p50 {next(middle):.1f} and {next(middle):.1f} ms, p99 {first:.1f} and {then:.1f} ms, "
            f"{failed} of {calls} failed"
        )
    if not holds:
        print({key: spell.outcomes for key, spell in measured.items()}, waiting.outcomes, file=sys.stderr)
    return Figure(
        f"a provider hangs for {hung} people, {where}",
        "others before and during: " + "; ".join(said),
        "p99 at most 20 % above, 0 fail",
        holds,
    )


async def figures(scale: Scale) -> list[Figure]:
    """Both databases."""
    full = scale is Scale.FULL
    async with strict_provider() as provider, postgres_server() as server:
        return [
            await hang(provider, where, hung=40, others=20, spells=4 if full else 1, seconds=12.0 if full else 2.0)
            for where in (server, None)
        ]
