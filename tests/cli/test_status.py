"""`status`: it shows what happened, for a terminal and for programs."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from server.lifecycle.status import StatusReader
from tests.support.commands import content, run
from tests.support.processes import Place
from tests.support.rooms.mcp_room import room
from vault.audit.audit import append
from vault.records import Event
from vault.refresh.journal import FOLDER
from vault.upkeep import replicas
from vault.upkeep.replicas import Replica

KINDS = {"connection.refreshed": 3, "connection.refresh_unanswered": 2, "connection.needs_reauth": 1, "tool.called": 5}


async def test_it_counts_what_happened_and_tells_who_serves(tmp_path: Path) -> None:
    async with room(tmp_path) as there:
        deployment = there.vault.deployment
        agent = await there.agent()
        await there.connect(agent, "slack", scopes=frozenset({"chat:write"}))
        now = deployment.now()
        async with deployment.transaction() as transaction:
            await append(transaction, *(Event(kind) for kind in KINDS), now=now - 3700)  # more than an hour ago
            await append(transaction, *(Event(kind) for kind, times in KINDS.items() for _ in range(times)), now=now)
            for name, seen in (("here", now - 60), ("gone", now - 91)):
                await replicas.note_replica(
                    transaction,
                    Replica(
                        name, f"host-{name}", "serve", "1", now - 60, seen, {"outbox": "timeout"}, {name: "silent"}
                    ),
                )
        (deployment.data / FOLDER).mkdir(exist_ok=True)
        (deployment.data / FOLDER / "answers").write_bytes(bytes(1000))
        found = (await StatusReader(deployment).read()).content()
    assert found["refreshes"] == {"ok": 3, "unanswered": 2, "needs_reauth": 1}
    assert found["breakers"] == {"here": {"host-here": "silent"}}
    assert found["connections"] == {"active": 1}
    assert found["approvals_waiting"] == 0
    seen = {one["id"]: one["is_late"] for one in found["replicas"]}  # pyright: ignore[reportGeneralTypeIssues]
    assert seen == {"here": False, "gone": True}
    assert found["activity"]["newest_seconds"] < 30  # pyright: ignore[reportIndexIssue]
    assert found["storage"]["commit_ms"] > 0  # pyright: ignore[reportIndexIssue]
    assert found["journal_bytes"] == 1000


async def test_a_program_and_a_person_get_the_same_of_a_running_vault(place: Place) -> None:
    async with place.serve():
        async with asyncio.timeout(30):
            while not (found := await content(place, "status"))["replicas"]:
                await asyncio.sleep(0.1)
        shown = (await run(place, "status", "--once")).stdout
    assert [one["role"] for one in found["replicas"]] == ["serve"]
    assert found["activity"]["newest_seconds"] is None or found["activity"]["newest_seconds"] >= 0
    for subject in ("Refreshes, last hour", "Breakers", "Approvals waiting", "Accounts", "Activity", "Storage"):
        assert subject in shown
    assert place.url in shown
    ended = await content(place, "status")
    assert ended["replicas"] == []


async def test_on_a_terminal_it_stays_until_it_is_interrupted(place: Place) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    process = await asyncio.create_subprocess_exec(
        *place.arguments("status"), stdin=theirs, stdout=theirs, stderr=theirs,
        env=place.environment() | {"TERM": "xterm"}, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    try:
        async with asyncio.timeout(30):
            while seen.count(b"Storage") < 2:  # drawn twice
                seen += await asyncio.to_thread(os.read, ours, 65536)
        assert process.returncode is None
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            with suppress(OSError):  # read its last lines; otherwise it blocks on writing and never exits
                while True:
                    seen += await asyncio.to_thread(os.read, ours, 65536)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        os.close(ours)
    assert b"No process serves this vault" in seen


@pytest.mark.parametrize("command", [("status", "--json")])
async def test_where_no_vault_is_it_says_so(place: Place, tmp_path: Path, command: tuple[str, ...]) -> None:
    assert json.loads((await run(place, *command)).stdout)["replicas"] == []
    (empty := tmp_path / "empty").mkdir()
    nothing = Place(empty, place.port)
    refused = await run(nothing, *command)
    assert refused.exit_code == 1
    assert "no vault" in refused.stderr
