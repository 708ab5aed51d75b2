"""A process of a vault with several accounts that obeys commands and may be killed at any moment.

Orders: `data`, `settings`, `accounts` (name -> principal and provider), `takes_up` to start with the upkeep's work,
`dies_at` for a step of `tests.chaos.processes.kill_points`, `policy` for another class of provider, `deadline` for
shorter requests. Commands, one JSON object a line: `{"exchange": [names]}` all at once; the answer has an outcome and
milliseconds for each. With `pace` (seconds) every exchange waits a random part of it first.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from server.app import open_deployment
from server.settings import load_settings
from tests.chaos.processes.kill_points import doom
from vault.exchange.exchange import ExchangeRequest, Vault, exchange
from vault.records import Principal
from vault.refresh.recovery import take_up
from vault.refusals import ConnectionRequired, StorageUnavailable, TemporarilyUnavailable, VaultError
from vault.upstream import RotationMode, UpstreamPolicy

SCOPES = frozenset({"chat:write"})
LINE = 1 << 24


async def call(vault: Vault, request: ExchangeRequest, *, after: float = 0.0) -> tuple[str, float]:
    """How one exchange ended, and its duration in milliseconds."""
    await asyncio.sleep(after)
    started = time.perf_counter()
    try:
        await exchange(request, vault=vault, now=vault.database.now())
        outcome = "ok"
    except (StorageUnavailable, TemporarilyUnavailable):
        outcome = "503"
    except ConnectionRequired as refusal:
        outcome = refusal.reason
    except VaultError as refusal:
        outcome = refusal.code
    return outcome, (time.perf_counter() - started) * 1000


def requests_of(order: Mapping[str, Any]) -> dict[str, ExchangeRequest]:
    """The exchange to make for each account."""
    found: dict[str, ExchangeRequest] = {}
    for name, account in order["accounts"].items():
        whose: dict[str, Any] = {**account["principal"], "scopes": frozenset({"tools"})}
        wanted = frozenset[str](account.get("scopes", SCOPES))
        found[name] = ExchangeRequest(Principal(**whose), account["provider"], wanted, purpose="chaos")
    return found


def as_told(policy: UpstreamPolicy, order: Mapping[str, Any]) -> UpstreamPolicy:
    """A provider of a different class than its file says."""
    told = order["policy"]
    return replace(policy, rotation=RotationMode(told["rotation"]), grace=told["grace"])


async def obey(order: Mapping[str, Any]) -> None:
    """Open the vault, report that, and obey until the driver disconnects."""
    reader, writer = await asyncio.open_unix_connection(order["socket"], limit=LINE)

    def say(**answer: object) -> None:
        writer.write(json.dumps(answer).encode() + b"\n")

    say(number=order["number"], pid=os.getpid())
    requests = requests_of(order)
    if seconds := order.get("deadline"):
        sys.modules["providers.oauth.client"].__dict__["TOTAL_TIMEOUT"] = seconds
    chance = random.Random(order["number"])
    async with open_deployment(load_settings(overrides=order["settings"]), data=Path(order["data"])) as deployment:
        vault = deployment.vault
        if "policy" in order:
            vault = replace(vault, policies={name: as_told(policy, order) for name, policy in vault.policies.items()})
        if step := order.get("dies_at"):
            provider = next(iter(requests.values())).provider
            vault = doom(vault, step, data=deployment.data, provider=provider)
        taken = await take_up(vault) if order.get("takes_up") else 0
        say(ready=True, taken_up=taken)
        while line := await reader.readline():
            command = json.loads(line)
            names = command["exchange"] or list(requests)
            pace = command.get("pace", 0.0)
            calls = [call(vault, requests[name], after=chance.uniform(0, pace)) for name in names]
            say(calls=dict(zip(names, await asyncio.gather(*calls), strict=True)))
            await writer.drain()


def live(order: Mapping[str, Any]) -> None:
    """Run to the end in a fresh loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(obey(order))
