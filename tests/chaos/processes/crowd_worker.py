"""A real process of a vault that exchanges tokens for a crowd at a steady pace; for `tests.chaos.crowd`.

Argument: a file with the members. Each input line is a command, each output line its answer:
`{"load": seconds, "rate": calls_per_second, "random": true, "first": 0, "step": 1}` calls members in turn or at random:
all of them, or every `step`-th; `{"facts": true}` reports what the process itself knows; `{"settle": true}` waits for
open requests.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import uvloop

from server.app import open_deployment
from tests.chaos.figures import quantile
from tests.chaos.processes.worker import read_orders, settings_of
from vault.exchange.exchange import ExchangeRequest, Vault, exchange
from vault.records import Principal
from vault.refusals import StorageUnavailable, TemporarilyUnavailable, VaultError

PATIENCE = 40.0  # seconds for one call
SCOPES = {
    "slack": frozenset({"chat:write"}),
    "google": frozenset({"https://www.googleapis.com/auth/calendar.events"}),
}


class Load:
    """Calls and their results."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault
        self.outcomes = Counter[str]()
        # by tenths of a second: a list of all calls would make the vault's process grow
        self.milliseconds = Counter[float]()
        self.reasons = Counter[str]()
        self.running: set[asyncio.Task[None]] = set()

    async def call(self, request: ExchangeRequest) -> None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE):
                await exchange(request, vault=self.vault, now=self.vault.database.now())
        except (StorageUnavailable, TemporarilyUnavailable) as refusal:
            self.outcomes["503"] += 1
            self.reasons[f"{refusal.description} ({refusal.detail})"] += 1
        except VaultError as refusal:
            self.outcomes[refusal.code] += 1
            self.reasons[f"{refusal.description} ({refusal.detail})"] += 1
        except TimeoutError:
            self.outcomes["timeout"] += 1
        else:
            self.outcomes["ok"] += 1
            self.milliseconds[round((time.perf_counter() - started) * 1000, 1)] += 1

    async def run(
        self, requests: list[ExchangeRequest], *, seconds: float, rate: float, at_random: bool, most: int | None
    ) -> None:
        """Call at this rate regardless of results, or more slowly with at most `most` calls at once."""
        loop = asyncio.get_running_loop()
        first = loop.time()
        number, total = 0, int(seconds * rate)
        while number < total:
            due = min(int((loop.time() - first) * rate) + 1, total)
            for index in range(number, due):
                while most is not None and len(self.running) >= most:
                    await asyncio.wait(set(self.running), return_when=asyncio.FIRST_COMPLETED)
                chosen = random.choice(requests) if at_random else requests[index % len(requests)]
                task = asyncio.create_task(self.call(chosen))
                self.running.add(task)
                task.add_done_callback(self.running.discard)
            number = due
            await asyncio.sleep(max(0.001, first + (number + 1) / rate - loop.time()))
        while self.running:
            await asyncio.wait(set(self.running))

    def summary(self) -> dict[str, Any]:
        milliseconds = list(self.milliseconds.elements())
        return {
            "outcomes": dict(self.outcomes),
            "reasons": self.reasons.most_common(5),
            "p50": quantile(milliseconds, 0.5),
            "p99": quantile(milliseconds, 0.99),
            "worst": max(milliseconds, default=0.0),
        }


def facts(vault: Vault) -> dict[str, Any]:
    """What this process knows about itself."""
    process = psutil.Process()
    gc.collect()
    return {
        "waits": vault.tasks.waits,
        "rss": process.memory_info().rss,
        "cpu": sum(process.cpu_times()[:2]),
        "files": process.num_fds(),
    }


async def main(about: dict[str, Any]) -> None:
    """Open the vault, report that, and obey until standard input ends."""
    settings, reader = settings_of(about), await read_orders()
    requests = [
        ExchangeRequest(
            Principal(
                one["user_id"],
                about["client_id"],
                one["grant_id"],
                scopes=frozenset({"tools"}),
                audience=about["audience"],
            ),
            one["provider"],
            SCOPES[one["provider"]],
            purpose="chaos",
        )
        for one in about["members"]
    ]
    async with open_deployment(settings, data=Path(about["data"])) as deployment:
        vault = deployment.vault
        print(json.dumps({"ready": True}), flush=True)
        while line := await reader.readline():
            command = json.loads(line)
            if "load" in command:
                load = Load(vault)
                mine = requests[command.get("first", 0) :: command.get("step", 1)]
                await load.run(
                    mine,
                    seconds=command["load"],
                    rate=command["rate"],
                    at_random=command.get("random", False),
                    most=command.get("most"),
                )
                answer = load.summary()
            elif "facts" in command:
                answer = facts(vault)
            else:
                await vault.tasks.close()
                answer = {"settled": True}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    about = json.loads(Path(sys.argv[1]).read_text())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(about))
