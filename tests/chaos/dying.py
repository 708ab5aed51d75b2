"""A process of a vault that exchanges once and dies by SIGKILL at a named step of the refresh; for `tests.chaos.kills`.

The steps are put around the vault's own parts from outside: nothing in the product knows of them. Without a step it
prints how the exchange ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from server.app import open_deployment
from server.settings import load_settings
from tests.chaos.worker import SCOPES, call
from vault.audit import Activity
from vault.exchange import ExchangeRequest, Vault
from vault.journal import Entry, Journal
from vault.records import Event, Principal
from vault.upstream import RefreshOutcome, Rotation, UpstreamOAuth

STEPS = ("claimed", "answered", "journalled", "committed")


def die() -> None:
    """The end that leaves nobody time for anything."""
    os.kill(os.getpid(), signal.SIGKILL)


class DyingUpstream:
    """Dies before the request leaves (`claimed`), or with the answer in its hands (`answered`)."""

    def __init__(self, upstream: UpstreamOAuth, step: str) -> None:
        self._upstream = upstream
        self._step = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._upstream, name)

    async def refresh(self, refresh_token: str, scopes: frozenset[str] | None = None) -> RefreshOutcome:
        if self._step == "claimed":
            die()
        outcome = await self._upstream.refresh(refresh_token, scopes)
        if self._step == "answered":
            die()
        return outcome


class DyingJournal(Journal):
    """Dies when the answer is durable and the database has not seen it."""

    async def append(self, entry: Entry) -> None:
        await super().append(entry)
        die()


class DyingActivity(Activity):
    """Dies when the answer is committed and nobody has been told."""

    async def record(self, event: Event) -> None:
        die()


def doomed(vault: Vault, step: str, *, data: Path, provider: str = "slack") -> Vault:
    """The vault with one part that ends the process."""
    match step:
        case "claimed" | "answered":
            upstream: Any = DyingUpstream(vault.upstreams[provider], step)
            return replace(vault, upstreams={**vault.upstreams, provider: upstream})
        case "journalled":
            return replace(vault, journal=DyingJournal(data))
        case "committed":
            return replace(vault, activity=DyingActivity(vault.database))
        case _:
            return vault


async def main(about: Mapping[str, Any]) -> None:
    """Open the vault, exchange once, say how it went."""
    settings = load_settings(
        overrides={
            "database": {"url": about["database"]},
            "providers": about["providers"],
            "sandbox": {"loopback_upstreams": True},
        }
    )
    data = Path(about["data"])
    whose: dict[str, Any] = {**about["principal"], "scopes": frozenset({"tools"})}
    principal = Principal(**whose)
    request = ExchangeRequest(principal, "slack", SCOPES, purpose="chaos")
    async with open_deployment(settings, data=data) as deployment:
        policy = replace(deployment.vault.policies["slack"], rotation=Rotation(about["rotation"]), grace=about["grace"])
        vault = replace(deployment.vault, policies={"slack": policy})
        milliseconds, outcome, generation, _ = await call(doomed(vault, about["step"], data=data), request)
        print(json.dumps({"ms": milliseconds, "outcome": outcome, "generation": generation}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
