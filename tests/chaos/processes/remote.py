"""A process of a vault whose provider is its driver's own double, reached over a socket; it may die at a named step.
The driver (`tests/vault/refresh/test_vault_machine.py`) keeps the provider's state, so that one history continues
through real crashes.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.chaos.processes.kill_points import doom
from tests.conftest import Store
from tests.support.rooms.vault_room import vault_over
from vault.audit.audit import Activity
from vault.exchange.exchange import ExchangeRequest, exchange
from vault.records import Principal
from vault.refresh.journal import Journal
from vault.refusals import VaultError
from vault.upstream import NotSent, RefreshOutcome, Refusal, Rotation, RotationMode, Silent, TokenAnswer

KINDS = {one.__name__: one for one in (Refusal, NotSent, Silent)}


def write_outcome(outcome: RefreshOutcome) -> bytes:
    """One line."""
    if not isinstance(outcome, Rotation):
        return json.dumps([type(outcome).__name__, vars_of(outcome)]).encode() + b"\n"
    answer = outcome.answer
    scopes = None if answer.scopes is None else sorted(answer.scopes)
    kept = [answer.access_token, answer.refresh_token, scopes, answer.expires_in]
    return json.dumps(["Rotation", kept]).encode() + b"\n"


def vars_of(outcome: Refusal | NotSent | Silent) -> dict[str, Any]:
    """The fields by name."""
    return {name: getattr(outcome, name) for name in outcome.__dataclass_fields__}


def read_outcome(line: bytes) -> RefreshOutcome:
    """What `write_outcome` wrote."""
    kind, content = json.loads(line)
    if kind != "Rotation":
        return KINDS[kind](**content)
    access_token, refresh_token, scopes, expires_in = content
    answer = TokenAnswer(access_token, refresh_token, None if scopes is None else frozenset(scopes), expires_in)
    return Rotation(answer)


class RemoteUpstream:
    """The provider at the other end of the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.is_configured = True

    async def refresh(
        self, refresh_token: str, scopes: frozenset[str] | None = None, *, item: str | None = None
    ) -> RefreshOutcome:
        asked = {"refresh": refresh_token, "scopes": None if scopes is None else sorted(scopes)}
        self._writer.write(json.dumps(asked).encode() + b"\n")
        return read_outcome(await self._reader.readline())


async def obey(order: Mapping[str, Any]) -> None:
    """Open the existing vault, and exchange once."""
    reader, writer = await asyncio.open_unix_connection(order["socket"])
    writer.write(json.dumps({"number": order["number"], "pid": os.getpid()}).encode() + b"\n")
    store = Store(order["url"], Path(order["data"]))
    database = await store.open()
    database.clock_offset = order["offset"]
    activity, journal = Activity(database), Journal(store.data)
    upstream: Any = RemoteUpstream(reader, writer)
    vault = vault_over(
        database,
        await store.open_keys(database),
        activity,
        journal=journal,
        rotation=RotationMode(order["rotation"]),
        slack_double=upstream,
        google_double=upstream,
    )
    whose: dict[str, Any] = {**order["principal"], "scopes": frozenset({"tools"})}
    request = ExchangeRequest(Principal(**whose), "slack", frozenset({"chat:write"}), purpose="chaos")
    vault = doom(vault, order["dies_at"], data=store.data)
    try:
        with suppress(VaultError):
            await exchange(request, vault=vault, now=database.now())
        await vault.tasks.close()
    finally:
        journal.close()
        await activity.close()
        await database.close()


def live(order: Mapping[str, Any]) -> None:
    """Run to the end in a fresh loop."""
    asyncio.run(obey(order))
