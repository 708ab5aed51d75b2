"""A real process of a vault that exchanges tokens on command, over standard input and output.

Arguments: one JSON object with `data`, `database`, `providers`, `principal`. Each input line is a command, each output
line its answer: `{"exchange": 500}` all at once, `{"load": seconds, "rate": per_second, "pragmas": [[after, text],
...]}` with SQLite's own switches for a disk that is full or read-only, `{"settle": true}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop

from server.app import open_deployment
from server.settings import Settings, load_settings
from vault.exchange.exchange import ExchangeRequest, Vault, exchange
from vault.records import Principal
from vault.refusals import StorageUnavailable, TemporarilyUnavailable, VaultError

SCOPES = frozenset({"chat:write"})
PATIENCE = 40.0  # seconds for one call
REASONS = Counter[str]()  # why calls were refused with 503, for diagnosis


async def call(vault: Vault, request: ExchangeRequest) -> tuple[float, str, int, float]:
    """One exchange: milliseconds, outcome, generation of the token, seconds since the epoch at its start."""
    at, started = time.time(), time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE):
            token = await exchange(request, vault=vault, now=vault.database.now())
        outcome, generation = "ok", token.generation
    except (StorageUnavailable, TemporarilyUnavailable) as refusal:
        outcome, generation = "503", 0
        REASONS[f"{refusal.description} ({refusal.detail})"] += 1
    except VaultError as refusal:
        outcome, generation = refusal.code, 0
    except TimeoutError:
        outcome, generation = "timeout", 0
    return (time.perf_counter() - started) * 1000, outcome, generation, at


def summary(calls: list[tuple[float, str, int, float]]) -> dict[str, object]:
    """A summary of many calls for the driver."""
    return {
        "outcomes": dict(Counter(outcome for _, outcome, _, _ in calls)),
        "ms": [round(ms, 2) for ms, outcome, _, _ in calls if outcome == "ok"],
        "slowest_refusal": max((ms for ms, outcome, _, _ in calls if outcome != "ok"), default=0.0),
        "generations": sorted({generation for _, outcome, generation, _ in calls if outcome == "ok"}),
        "reasons": REASONS.most_common(5),
        "ok_at": [at for _, outcome, _, at in calls if outcome == "ok"],
        "bad_at": [at for _, outcome, _, at in calls if outcome != "ok"],
    }


async def turn(vault: Vault, pragmas: list[list[object]]) -> None:
    """Change settings of the writing connection at the given times."""
    loop = asyncio.get_running_loop()
    first = loop.time()
    for after, text in pragmas:
        await asyncio.sleep(max(0.0, first + float(str(after)) - loop.time()))
        await vault.database._writing.execute(str(text))


async def load(
    vault: Vault, request: ExchangeRequest, *, seconds: float, rate: float, pragmas: list[list[object]]
) -> dict[str, object]:
    """Call at a steady rate, whether or not the earlier calls have returned."""
    loop = asyncio.get_running_loop()
    first = loop.time()
    switching, running = asyncio.create_task(turn(vault, pragmas)), []
    for number in range(int(seconds * rate)):
        await asyncio.sleep(max(0.0, first + number / rate - loop.time()))
        running.append(asyncio.create_task(call(vault, request)))
    calls = await asyncio.gather(*running)
    await switching
    return summary(calls)


def settings_of(about: Mapping[str, Any]) -> Settings:
    """Parameters of the vault, from the test."""
    return load_settings(
        overrides={
            "database": {"url": about["database"]},
            "providers": about["providers"],
            "sandbox": {"loopback_upstreams": True},
        }
    )


async def read_orders() -> asyncio.StreamReader:
    """Obey the test's commands, line by line."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def main(about: dict[str, object]) -> None:
    """Open the vault, say so, obey until standard input ends."""
    settings, reader = settings_of(about), await read_orders()
    principal = Principal(**{**about["principal"], "scopes": frozenset({"tools"})})
    request = ExchangeRequest(principal, "slack", SCOPES, purpose="chaos")
    async with open_deployment(settings, data=Path(str(about["data"]))) as deployment:
        vault = deployment.vault
        print(json.dumps({"ready": True}), flush=True)
        while line := await reader.readline():
            command = json.loads(line)
            if "exchange" in command:
                answer = summary(
                    list(await asyncio.gather(*(call(vault, request) for _ in range(command["exchange"]))))
                )
            elif "load" in command:
                answer = await load(
                    vault, request, seconds=command["load"], rate=command["rate"], pragmas=command.get("pragmas", [])
                )
            else:
                await vault.tasks.close()
                answer = {"settled": True}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(json.loads(sys.argv[1])))
