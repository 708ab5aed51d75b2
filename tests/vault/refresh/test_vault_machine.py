"""A vault driven at random: connecting, calling, expiry, faults, deaths, restores, a second process.

The provider's records decide. This provider ends the whole grant when it gets a used refresh token, so a living grant
shows that it never got one. The vault may lose an account only if an answer was lost on the way, which nobody can
prevent (the law of the gap).
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.chaos.processes.nursery import Mortal
from tests.chaos.processes.remote import write_outcome
from tests.chaos.world import ROOT, environment
from tests.conftest import KeySettings, PostgresCluster, Store
from tests.support.doubles.upstream_double import BUSY, INVALID_CLIENT, LOST_ANSWER, LOST_REQUEST, UNREACHABLE, Fault
from tests.support.rooms.vault_room import Room, google, open_room, second_process, slack
from tests.support.seeded_grant import let_in_again
from vault.backup import backups
from vault.backup.backups import Backup
from vault.keys.sources import key_source
from vault.refusals import ConnectionRequired, StorageUnavailable, TemporarilyUnavailable
from vault.storage.snapshots import snapshot
from vault.upstream import Rotation, RotationMode

T = TypeVar("T")
FAULTS: dict[str, Fault] = {
    "unreachable": UNREACHABLE,
    "busy": BUSY,
    "unknown client": INVALID_CLIENT,
    "request lost": LOST_REQUEST,
    "answer lost": LOST_ANSWER,
}
LIFETIME = 3600
DEATHS = ("claimed", "on the wire", "answered", "journalled", "committed")


class VaultMachine(RuleBasedStateMachine):
    """One account at the provider, one or two vaults in this process over one storage, and others that are killed."""

    place: Place  # gives the store of each history, after its first run
    nursery: subprocess.Popen[bytes]  # runs `tests.chaos.processes.nursery`

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="tvmachine"))
        self.stack = AsyncExitStack()
        self.rooms: list[Room] = []
        self.others: list[AsyncExitStack] = []
        self.unknown = False  # a request or its answer was lost, and the vault can't know which
        self.gaps: set[int] = set()  # families for which an answer was lost: trying again may rightly end them
        self.was_restored = False
        self.backups = self.consents = 0

    def do(self, work: Coroutine[object, object, T]) -> T:
        """Run to the end, with a time limit."""

        async def finish_in_time() -> T:
            async with asyncio.timeout(30):
                return await work

        return self.loop.run_until_complete(finish_in_time())

    @property
    def room(self) -> Room:
        return self.rooms[0]

    @initialize()
    def connect_first(self) -> None:
        store = self.do(self.stack.enter_async_context(self.place(self.folder)))
        self.rooms.append(self.do(self.stack.enter_async_context(open_room(store, rotation=RotationMode.REVOKES))))
        self.consent()
        self.back_up()
        self.an_hour_of_work(which=0, count=1)

    def consent(self) -> None:
        self.consents += 1
        self.do(self.room.connect(consented_ms=self.room.now * 1000 + self.consents))

    @rule(which=st.integers(0, 1), count=st.integers(1, 5))
    def an_hour_of_work(self, which: int, count: int) -> None:
        """The token expires and is requested."""
        self.expire()
        self.call(which, count)

    @rule()
    def connect_again(self) -> None:
        """The person consents again, which fixes everything that was wrong."""
        self.settle()
        self.room.slack.faults.clear()
        self.consent()
        self.unknown = self.was_restored = False

    def call(self, which: int, count: int) -> None:
        """Some calls at once; each gets a token that the provider issued, or a suitable refusal.

        If the refusal asks to connect the account again, do so: a history that stops there finds nothing.
        """
        room, is_lost = self.rooms[which % len(self.rooms)], False

        async def calls() -> list[object]:
            return list(await asyncio.gather(*(room.exchange() for _ in range(count)), return_exceptions=True))

        for outcome in self.do(calls()):
            match outcome:
                case TemporarilyUnavailable():
                    pass
                case ConnectionRequired():
                    assert self.unknown or self.was_restored, outcome.reason
                    is_lost = True
                case BaseException():
                    raise outcome
                case _:
                    assert outcome.value in self.room.slack.issued
        if is_lost:
            self.connect_again()

    def settle(self) -> None:
        """Wait for every refresh in progress, in every process."""
        for room in self.rooms:
            self.do(room.settle())

    def expire(self) -> None:
        for room in self.rooms:
            room.pass_time(LIFETIME)

    @rule(seconds=st.sampled_from([1, 30, 61]))
    def wait(self, seconds: int) -> None:
        for room in self.rooms:
            room.pass_time(seconds)

    @rule(name=st.sampled_from(sorted(FAULTS)))
    def fault(self, name: str) -> None:
        """The next refresh fails in this way."""
        self.room.slack.faults.append(FAULTS[name])
        self.unknown = self.unknown or name in {"request lost", "answer lost"}
        if name == "answer lost":
            self.gaps.add(len(self.room.slack.families) - 1)

    @rule(step=st.sampled_from(DEATHS))
    def process_is_killed(self, step: str) -> None:
        """A third process refreshes and gets SIGKILL at this step, while no other refresh is in progress."""
        self.settle()
        self.expire()
        if self.do(self.refresh_and_die(step)):
            self.unknown = True
            self.gaps.add(len(self.room.slack.families) - 1)
        self.call(1, 1)

    async def refresh_and_die(self, step: str) -> bool:
        """Whether an answer with a new token died with the process."""
        lost, gone = False, asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal lost
            hello = json.loads(await reader.readline())
            process = Mortal(hello["pid"], reader, writer)
            while line := await reader.readline():
                asked = json.loads(line)
                if step == "on the wire":
                    await process.kill()
                outcome = await self.room.slack.refresh(asked["refresh"])
                lost = lost or (isinstance(outcome, Rotation) and step in ("on the wire", "answered"))
                if step != "on the wire":
                    writer.write(write_outcome(outcome))
            await process.wait_until_gone()
            gone.set()

        path = self.folder / "s"
        path.unlink(missing_ok=True)
        order = {
            "program": "remote",
            "number": 0,
            "socket": str(path),
            "url": self.room.store.url,
            "data": str(self.room.store.data),
            "offset": self.room.database.clock_offset,
            "rotation": RotationMode.REVOKES.value,
            "principal": {
                "user_id": self.room.alice.user.id,
                "client_id": self.room.alice.client.id,
                "grant_id": self.room.alice.grant.id,
                "audience": "https://vault.example/mcp",
            },
            "dies_at": step,
        }
        async with await asyncio.start_unix_server(serve, path):
            assert self.nursery.stdin is not None
            self.nursery.stdin.write(json.dumps(order).encode() + b"\n")
            self.nursery.stdin.flush()
            await gone.wait()
        return lost

    @precondition(lambda self: self.room.store.is_sqlite)
    @rule()
    def storage_takes_no_write_for_a_moment(self) -> None:
        """Meanwhile, every call is refused before anything is sent."""

        async def exchange_read_only() -> None:
            writing = self.room.database._writing
            sends = len(self.room.slack.sends)
            await writing.execute("pragma query_only = on")
            try:
                with pytest.raises((StorageUnavailable, TemporarilyUnavailable, ConnectionRequired)):
                    await self.room.exchange()
            finally:
                await writing.execute("pragma query_only = off")
            assert len(self.room.slack.sends) == sends

        self.settle()
        self.do(exchange_read_only())

    @precondition(lambda self: len(self.rooms) == 1)
    @rule()
    def second_process_starts(self) -> None:
        stack = AsyncExitStack()
        self.rooms.append(self.do(stack.enter_async_context(second_process(self.room))))
        self.others.append(stack)

    @precondition(lambda self: len(self.rooms) == 2)
    @rule()
    def second_process_ends(self) -> None:
        self.rooms.pop()
        self.do(self.others.pop().aclose())

    @rule()
    def back_up(self) -> None:
        async def work() -> None:
            async with snapshot(self.room.store.url, data=self.room.store.data) as seen:
                self.backups += 1
                await backups.write_backup(
                    self.folder / f"{self.backups}.backup",
                    seen,
                    ring=self.room.vault.keys,
                    with_keys=False,
                    now=self.room.now,
                )

        self.settle()
        self.do(work())

    @precondition(lambda self: self.backups > 0)
    @rule(which=st.integers(1, 100))
    def restore(self, which: int) -> None:
        """Restore any older state; the processes ended before."""

        async def work() -> None:
            source = key_source(KeySettings(), data=self.room.store.data)
            backup = await Backup.open(self.folder / f"{which % self.backups + 1}.backup", source)
            policies = {"slack": slack(RotationMode.REVOKES), "google": google()}
            await backups.restore(backup, self.room.database, source=source, policies=policies, force=True)
            await let_in_again(self.room.database)

        self.settle()
        self.do(work())
        self.was_restored = True
        self.call(0, 2)
        self.an_hour_of_work(which=1, count=2)

    @invariant()
    def no_spent_refresh_token_is_presented(self) -> None:
        """The provider ends a grant exactly when it gets a used token."""
        if self.rooms:
            for number, family in enumerate(self.room.slack.families):
                assert family.is_alive or number in self.gaps, "a spent token was presented"

    @invariant()
    def no_account_is_lost_outside_the_gap(self) -> None:
        if self.rooms and not self.unknown and not self.was_restored:
            family = self.room.slack.families[-1]
            assert family.is_alive
            row = self.do(self.room.database.fetch_one("select state from connections where ended_at is null"))
            assert row is not None
            assert row["state"] == "active"

    def teardown(self) -> None:
        for stack in reversed(self.others):
            self.do(stack.aclose())
        self.do(self.stack.aclose())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)


Place = Callable[[Path], AbstractAsyncContextManager[Store]]


def on_sqlite(prepared: Path) -> Place:
    """For each history, a copy of a data directory after its first run."""

    @asynccontextmanager
    async def place(folder: Path) -> AsyncGenerator[Store]:
        data = folder / "data"
        shutil.copytree(prepared, data)
        data.chmod(0o700)
        yield Store(f"sqlite://{data / 'vault.sqlite'}", data)

    return place


def on_postgres(prepared: Path, cluster: PostgresCluster) -> Place:
    """A copy of the cluster's template database, which had its first run with this data directory."""

    @asynccontextmanager
    async def place(folder: Path) -> AsyncGenerator[Store]:
        data = folder / "data"
        data.mkdir(mode=0o700)
        shutil.copy2(prepared / "master.key", data)
        name = await cluster.create(template=cluster.template)
        try:
            yield Store(cluster.url(name), data)
        finally:
            await cluster.drop(name)

    return place


def drive(place: Place, *, examples: int, steps: int, is_random: bool) -> None:
    """Run the machine; raises the failures that it finds."""
    run: Callable[..., None] = run_state_machine_as_test
    command = [sys.executable, "-m", "tests.chaos.processes.nursery"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, env=environment()) as nursery:
        machine = type("Machine", (VaultMachine,), {"place": staticmethod(place), "nursery": nursery})
        run(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                derandomize=not is_random,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


@pytest.mark.parametrize("examples", [4, pytest.param(12, marks=pytest.mark.long)])
def test_no_sequence_of_calls_faults_deaths_and_restores_spends_a_token_twice(
    prepared_data: Path, examples: int
) -> None:
    drive(on_sqlite(prepared_data), examples=examples, steps=20, is_random=False)


@pytest.mark.parametrize("examples", [2, pytest.param(6, marks=pytest.mark.long)])
def test_no_sequence_does_so_on_postgres(prepared_data: Path, postgres: PostgresCluster, examples: int) -> None:
    drive(on_postgres(prepared_data, postgres), examples=examples, steps=15, is_random=False)
