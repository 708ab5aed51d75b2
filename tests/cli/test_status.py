"""`status`: it shows what happened, for a terminal and for programs."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import termios
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from server.lifecycle.status import Status, StatusReader
from server.terminal.status_screen import draw
from tests.support.commands import content, run
from tests.support.processes import Place
from tests.support.rooms.mcp_room import room
from vault.audit.audit import append
from vault.records import Event
from vault.refresh.journal import FOLDER
from vault.upkeep import replicas
from vault.upkeep.census import Census, Pulse
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


AT = 1_796_000_000
GOOD = Status(
    at=AT,
    replicas=[Replica("1", "vault-1", "serve", "1.0.0", AT - 90_000, AT - 5, {}, {})],
    refreshes={"ok": 1200, "unanswered": 0, "needs_reauth": 0},
    pulse=Pulse(approvals_waiting=0, newest_event_at=AT - 30, sealed_until=AT - 90_000, unsealed_since=AT - 7200),
    census=Census(connections={("slack", "active"): 3, ("google", "active"): 2}, ending={1: 0, 7: 1}),
    journal_bytes=2048,
    read_ms=0.11,
    commit_ms=100.0,
)


def screen(status: Status, *, problem: str = "") -> dict[str, set[str]]:
    """Each line on a wide terminal, with its colors."""
    console = Console(width=160)
    lines: dict[str, set[str]] = {}
    drawn = draw(status, "https://vault.example", problem=problem)
    for line in console.render_lines(drawn, pad=False):
        text = " ".join("".join(one.text for one in line).split())
        lines[text] = {one.style.color.name for one in line if one.style and one.style.color}
    return lines


def test_a_healthy_vault_gives_nothing_to_look_at() -> None:
    assert screen(GOOD) == {
        "Token Vault https://vault.example 2026-11-30 00:53:20 UTC": set(),
        "": set(),
        "Refreshes, last hour 1,200 ok, 0 unanswered, 0 need a reconnect": {"green"},
        "Breakers closed": {"green"},
        "Approvals waiting 0": set(),
        "Accounts 5 active": set(),
        "Grants that end 0 in 1 d, 1 in 7 d": set(),
        "Activity newest event 30 s ago, sealed until 1 d 1 h ago": set(),
        "Answer journal here 2 KiB": set(),
        "Storage read 0.1 ms, commit 100.0 ms": {"green"},
        "process host version up seen failing": set(),
        "serve vault-1 1.0.0 1 d 1 h 5 s ago nothing": set(),
    }


@pytest.mark.parametrize(
    ("status", "line", "color"),
    [
        (
            replace(GOOD, refreshes={"unanswered": 1}),
            "Refreshes, last hour 0 ok, 1 unanswered, 0 need a reconnect",
            "yellow",
        ),
        (
            replace(GOOD, refreshes={"needs_reauth": 1}),
            "Refreshes, last hour 0 ok, 0 unanswered, 1 need a reconnect",
            "yellow",
        ),
        (
            replace(GOOD, replicas=[replace(GOOD.replicas[0], providers={"slack": "silent"})]),
            "Breakers open: slack: silent at vault-1",
            "red",
        ),
        (replace(GOOD, pulse=replace(GOOD.pulse, approvals_waiting=1)), "Approvals waiting 1", "yellow"),
        (replace(GOOD, census=replace(GOOD.census, ending={1: 1})), "Grants that end 1 in 1 d", "yellow"),
        (
            replace(GOOD, pulse=replace(GOOD.pulse, unsealed_since=AT - 7201)),
            "Activity newest event 30 s ago, sealed until 1 d 1 h ago",
            "yellow",
        ),
        (replace(GOOD, commit_ms=100.1), "Storage read 0.1 ms, commit 100.1 ms", "yellow"),
        (
            replace(GOOD, replicas=[replace(GOOD.replicas[0], failing={"outbox": "timeout"})]),
            "serve vault-1 1.0.0 1 d 1 h 5 s ago outbox (timeout)",
            "red",
        ),
        (replace(GOOD, replicas=[]), "No process serves this vault: run token-vault serve", "yellow"),
    ],
)
def test_what_needs_attention_is_colored(status: Status, line: str, color: str) -> None:
    assert screen(status)[line] == {color}


def test_a_screen_that_could_not_be_refreshed_keeps_the_last_state_and_says_why() -> None:
    lines = screen(GOOD, problem="the database doesn't answer")
    assert lines.pop("Not refreshed since: the database doesn't answer") == {"red"}
    assert lines == screen(GOOD)
