"""Parts of a vault that end their process by SIGKILL at a named step of a refresh; for `tests.chaos.processes.mortal`.

They wrap the vault's own parts from outside, so the product doesn't know about them.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from vault.audit.audit import Activity
from vault.exchange.exchange import Vault
from vault.records import Event
from vault.refresh.journal import Journal, JournalEntry
from vault.upstream import RefreshOutcome, UpstreamOAuth

STEPS = ("claimed", "answered", "journalled", "committed")


def die() -> None:
    """End the process without letting it do anything more."""
    os.kill(os.getpid(), signal.SIGKILL)


class DyingUpstream:
    """Dies before the request is sent (`claimed`), or after receiving the answer (`answered`)."""

    def __init__(self, upstream: UpstreamOAuth, step: str) -> None:
        self._upstream = upstream
        self._step = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._upstream, name)

    async def refresh(
        self, refresh_token: str, scopes: frozenset[str] | None = None, *, item: str | None = None
    ) -> RefreshOutcome:
        if self._step == "claimed":
            die()
        outcome = await self._upstream.refresh(refresh_token, scopes)
        if self._step == "answered":
            die()
        return outcome


class DyingJournal(Journal):
    """Dies when the answer is durable but not yet in the database."""

    async def append(self, entry: JournalEntry) -> None:
        await super().append(entry)
        die()


class DyingActivity(Activity):
    """Dies when the answer is committed but not yet returned."""

    async def record(self, event: Event) -> None:
        die()


def doom(vault: Vault, step: str, *, data: Path, provider: str = "slack") -> Vault:
    """Yield the vault with one part that ends the process."""
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
