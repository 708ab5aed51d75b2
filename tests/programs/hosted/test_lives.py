"""Lives of the processes: their number, their limits, how they end, and when they start again."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from providers.api.api import UpstreamUnavailable
from server.local_server_settings import LocalServerSettings
from server.programs.hosted import pool
from server.programs.hosted.process import _LINE, HostedProcess, ProgramKey
from server.programs.hosted.sandbox import interpreter
from server.programs.hosted.usage import contents, fills, usage_of
from tests.programs.hosted.hosted_room import CURIOUS, HostedRoom, hosted_room
from tests.support.rooms.mcp_room import Agent


def lives(group: int) -> bool:
    """Whether a process of the group still exists."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


LOOK = 0.5  # seconds between two looks at the processes


@pytest.fixture(scope="module", autouse=True)
def quick_looks() -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "_LOOK", LOOK)
        yield


@pytest.fixture(scope="module")
async def small(place: HostedRoom, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[HostedRoom]:
    """A vault that runs at most two programs at once, with small limits."""
    folder = tmp_path_factory.mktemp("small")
    files = folder / "files"
    files.mkdir()
    limits = {"idle_seconds": 3600, "memory_mb": 96, "processes": 8, "writable": str(files), "writable_mb": 1}
    async with hosted_room(folder / "vault", most=2, curious={**CURIOUS, **limits}) as opened:
        await opened.add("curious")
        yield opened


def process_of(place: HostedRoom, agent: Agent) -> HostedProcess:
    (found,) = [one for one in place.hosted_servers.live if one.caller.principal.client_id == agent.principal.client_id]
    return found


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_true():
            await asyncio.sleep(0.1)


async def test_an_idle_one_ends_and_starts_again_at_the_next_call(small: HostedRoom) -> None:
    agent = await small.agent("curious")
    before = await small.ask(agent, "pid")
    process = process_of(small, agent)
    pid = process.pid
    assert pid is not None
    assert not process.is_ending
    process.used_at -= small.deployment.settings.local_servers["curious"].idle_seconds
    await until(lambda: process.has_ended)
    assert not Path(f"/proc/{pid}").exists()
    assert not process.has_crashed
    assert await small.ask(agent, "pid") != before


async def test_the_longest_idle_one_makes_room_and_a_busy_one_does_not(small: HostedRoom) -> None:
    first, second, third = [await small.agent("curious", person=one) for one in ("alice", "bob", "carol")]
    await small.ask(first, "pid")
    await small.ask(second, "pid")
    ended, kept = process_of(small, first), process_of(small, second)
    await small.ask(third, "pid")
    assert ended.has_ended
    assert not kept.has_ended
    busy = [asyncio.create_task(small.ask(one, "wait", seconds=5.0)) for one in (second, third)]
    await until(lambda: not any(one.is_idle for one in small.hosted_servers.live))
    refused = await small.ask(first, "pid")
    assert "now: 2 programs are busy" in refused, refused
    assert await asyncio.gather(*busy) == ["waited", "waited"]
    assert float(await small.ask(first, "pid")) > 0


async def test_a_person_has_half_of_the_programs(small: HostedRoom) -> None:
    first, second, other = [await small.agent("curious", person=one) for one in ("alice", "alice", "bob")]
    await small.ask(first, "pid")
    before = process_of(small, first)
    await small.ask(second, "pid")
    assert before.has_ended, "the person's own makes room"
    busy = asyncio.create_task(small.ask(second, "wait", seconds=5.0))
    await until(lambda: not process_of(small, second).is_idle)
    refused = await small.ask(first, "pid")
    assert "1 of this person's programs are busy" in refused, refused
    assert float(await small.ask(other, "pid")) > 0, "somebody else's starts meanwhile"
    assert await busy == "waited"
    assert float(await small.ask(first, "pid")) > 0


async def test_calls_of_one_process_wait_for_each_other(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert await asyncio.gather(*(place.ask(agent, "wait", seconds=0.5) for _ in range(3))) == ["waited"] * 3
    assert loop.time() - started >= 1.5
    assert process_of(place, agent).is_idle


async def test_the_log_shows_no_part_of_the_password_where_a_line_is_cut(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    await place.ask(agent, "pid")
    running = process_of(place, agent)
    assert running._front is not None
    password = (urlsplit(running._front.url).password or "").encode()
    errors = asyncio.StreamReader()
    errors.feed_data(password + b"x" * (_LINE - 8))
    errors.feed_eof()
    await running._read_errors(errors, running._front)
    assert running.said[-1].startswith("***x")


async def test_one_that_ends_by_itself_starts_again_later_each_time(
    place: HostedRoom, caplog: pytest.LogCaptureFixture
) -> None:
    agent = await place.agent("curious")
    with caplog.at_level(logging.INFO, logger="token_vault.local_servers"):
        said = await place.ask(agent, "end")
        assert "ended during the call" in said
        assert "may have been carried out" in said
        assert float(await place.ask(agent, "pid")) > 0  # without waiting
        await place.ask(agent, "end")
        assert float(await place.ask(agent, "pid")) > 0, "a call that worked begins the count anew"
        await place.ask(agent, "end")
        await place.ask(agent, "end")
        refused = await place.ask(agent, "pid")
        assert "Try again in" in refused, refused
    texts = [str(getattr(record, "text", "")) for record in caplog.records]
    assert any("the end is near: http://run:***@" in one for one in texts), "without the proxy's password"
    answers: list[str] = []

    async def gets_answer() -> bool:
        answers.append(await place.ask(agent, "pid"))
        return "Try again in" not in answers[-1]

    async with asyncio.timeout(60):
        while not await gets_answer():
            await asyncio.sleep(0.5)
    assert float(answers[-1]) > 0


async def test_what_it_prints_is_bounded_and_no_message(place: HostedRoom, caplog: pytest.LogCaptureFixture) -> None:
    agent = await place.agent("curious")
    with caplog.at_level(logging.INFO, logger="token_vault.local_servers"):
        assert await place.ask(agent, "mumble", lines=300) == "mumbled"
        assert float(await place.ask(agent, "pid")) > 0
    texts = [one for one in (getattr(record, "text", "") for record in caplog.records) if one]
    assert "line 0" in texts
    assert len(texts) == 200


async def test_a_call_that_is_broken_off_ends_the_process(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    before = await place.ask(agent, "pid")
    process = process_of(place, agent)
    opened = place.hosted_servers.open(place.deployment, process.caller, "curious")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit, opened() as session:
            limit.reschedule(asyncio.get_running_loop().time() + 2)
            await session.call_tool("wait", {"seconds": 60.0})
    assert process.is_ending
    await until(lambda: process.has_ended)
    assert not process.has_crashed
    assert await place.ask(agent, "pid") != before


async def test_an_error_that_it_answers_with_ends_nothing(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    said = await place.ask(agent, "fail", code=-32000)  # the code that clients themselves use for a closed connection
    assert "the answer is an error" in said, said
    assert not process_of(place, agent).is_ending


async def test_one_that_floods_is_ended(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    assert float(await place.ask(agent, "pid")) > 0
    process = process_of(place, agent)
    assert "ended during the call" in await place.ask(agent, "flood")
    await until(lambda: process.has_ended)
    assert process.has_crashed


async def test_one_that_never_answers_is_ended_at_once(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    await place.ask(agent, "pid")
    caller = process_of(place, agent).caller
    silent = LocalServerSettings(command=str(interpreter()), args=("-I", "-c", "import time; time.sleep(1000)"))
    process = HostedProcess(place.deployment, caller, silent, hidden=())
    process.begin()
    await until(lambda: process.pid is not None)
    async with asyncio.timeout(30):  # half of the time allowed for its start
        await process.stop()
    assert process.has_ended
    assert not process.has_crashed


@pytest.mark.parametrize("pause", [0.0, 0.002, 0.004, 0.008, 0.016, 0.032])  # seconds
async def test_one_that_is_stopped_while_its_sandbox_is_made_leaves_no_process(place: HostedRoom, pause: float) -> None:
    """`bwrap` may have forked without having tied its child's life to its own yet."""
    agent = await place.agent("curious")
    await place.ask(agent, "pid")
    caller = process_of(place, agent).caller
    process = HostedProcess(place.deployment, caller, LocalServerSettings(**CURIOUS), hidden=())
    process.begin()
    while process.pid is None:
        await asyncio.sleep(0)
    group = process.pid
    await asyncio.sleep(pause)
    async with asyncio.timeout(30):
        await process.stop()
    await until(lambda: not lives(group))


async def test_the_watch_forgets_no_process_that_took_the_place_of_another(place: HostedRoom) -> None:
    agent = await place.agent("curious")
    await place.ask(agent, "pid")
    before = process_of(place, agent)
    await place.ask(agent, "end")
    await place.ask(agent, "pid")
    after = process_of(place, agent)
    assert before is not after
    who = agent.principal
    key = ProgramKey("curious", who.user_id, who.client_id, after.caller.connection_id)
    await place.hosted_servers._look_at(key, before)  # as the watch does with a process that it read before
    assert process_of(place, agent) is after
    await place.ask(agent, "end")
    await place.hosted_servers._look_at(key, after)
    await place.hosted_servers._look_at(key, after)


async def test_memory_and_processes_are_limited(small: HostedRoom) -> None:
    agent = await small.agent("curious")
    assert await small.ask(agent, "grow", megabytes=10) == 10 * 1024 * 1024
    assert "MemoryError" in await small.ask(agent, "grow", megabytes=200)
    process = process_of(small, agent)
    assert await small.ask(agent, "fork", number=2) == 2
    assert not process.has_ended
    started = await small.ask(agent, "fork", number=40)
    if os.geteuid() != 0 and isinstance(started, int):
        assert started < 40, "the kernel's own limit, which it doesn't apply to root"
    else:
        await until(lambda: process.has_ended)


async def own_folder_of(place: HostedRoom, agent: Agent) -> Path:
    """The folder that the agent's program can write; afterward, the program is running."""
    files = place.deployment.settings.local_servers["curious"].writable
    assert files is not None
    known = {*files.iterdir()}
    await place.ask(agent, "pid")
    (own,) = {*files.iterdir()} - known
    return own


@pytest.mark.parametrize("kilobytes", [900, 1100])
async def test_a_full_folder_is_called_again_when_there_is_room(small: HostedRoom, kilobytes: int) -> None:
    agent = await small.agent("curious")
    own = await own_folder_of(small, agent)
    (own / "x").write_bytes(b"x" * (kilobytes * 1024))
    answer = await small.ask(agent, "look", path=str(own.parent))
    assert answer == (["x"] if kilobytes < 1024 else answer)
    said = "full: it has 1 MiB, 50,000 files, too many levels of folders, or one that can't be read. Nothing was called"
    assert (said in str(answer)) is (kilobytes > 1024)
    (own / "x").unlink()
    assert await small.ask(agent, "look", path=str(own.parent)) == []


@pytest.mark.parametrize("kilobytes", [900, 1100])
async def test_a_full_folder_is_refused_before_the_program_answers(small: HostedRoom, kilobytes: int) -> None:
    agent = await small.agent("curious")
    own = await own_folder_of(small, agent)
    before = process_of(small, agent)
    slow = before.settings.model_copy(update={"args": ("-I", "-c", "import time; time.sleep(1000)")})
    (own / "x").write_bytes(b"x" * (kilobytes * 1024))
    process = HostedProcess(small.deployment, before.caller, slow, hidden=())
    process.begin()
    await until(lambda: process.pid is not None and usage_of(process.pid).processes > 1)
    with pytest.raises(UpstreamUnavailable if kilobytes > 1024 else TimeoutError) as refused:
        async with asyncio.timeout(60 if kilobytes > 1024 else 3), process.turn(before.caller):
            pass
    assert ("Nothing was called" in str(refused.value)) is (kilobytes > 1024)
    await process.stop()


@pytest.mark.parametrize("kilobytes", [900, 1100])
async def test_with_a_full_folder_none_is_started(small: HostedRoom, kilobytes: int) -> None:
    agent = await small.agent("curious")
    own = await own_folder_of(small, agent)
    await process_of(small, agent).stop()
    (own / "x").write_bytes(b"x" * (kilobytes * 1024))
    answer = str(await small.ask(agent, "pid"))
    assert ("Nothing was called" in answer) is (kilobytes > 1024)
    live = [one for one in small.hosted_servers.live if one.caller.principal.client_id == agent.principal.client_id]
    assert len(live) == (kilobytes < 1024)


@pytest.mark.parametrize(("ends", "said"), [(1, "Nothing was called"), (2, "Try again in")])
async def test_while_one_must_wait_its_folder_is_not_read(small: HostedRoom, ends: int, said: str) -> None:
    agent = await small.agent("curious")
    own = await own_folder_of(small, agent)
    for _ in range(ends):
        assert "ended during the call" in await small.ask(agent, "end")
    (own / "x").write_bytes(b"x" * (1100 * 1024))
    assert said in str(await small.ask(agent, "pid"))


@pytest.mark.parametrize("kilobytes", [900, 1100])
async def test_one_that_fills_its_folder_between_two_calls_is_ended(small: HostedRoom, kilobytes: int) -> None:
    agent = await small.agent("curious")
    own = await own_folder_of(small, agent)
    process = process_of(small, agent)
    (own / "x").write_bytes(b"x" * (kilobytes * 1024))
    is_full = kilobytes > 1024
    looks = asyncio.get_running_loop().time() + (20 if is_full else 2.2) * LOOK  # at least two looks
    while not process.has_ended and asyncio.get_running_loop().time() < looks:
        await asyncio.sleep(0.1)
    assert process.has_ended is is_full
    assert not process.has_crashed


@pytest.mark.parametrize("kilobytes", [900, 1100])
async def test_a_call_that_fills_its_folder_is_broken_off(small: HostedRoom, kilobytes: int) -> None:
    agent = await small.agent("curious")
    own = await own_folder_of(small, agent)
    process = process_of(small, agent)
    waiting = asyncio.create_task(small.ask(agent, "wait", seconds=(120 if kilobytes > 1024 else 8) * LOOK))
    await until(lambda: process._turn is not None)
    (own / "x").write_bytes(b"x" * (kilobytes * 1024))
    answer = await waiting
    assert answer == "waited" if kilobytes < 1024 else "ended during the call" in answer


def test_each_file_counts_and_each_only_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c").hardlink_to(tmp_path / "a")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "up").symlink_to(tmp_path)
    assert fills(tmp_path, 4 * 4096, most_entries=100)  # two files, a folder, a link
    assert not fills(tmp_path, 4 * 4096 + 1, most_entries=100)
    assert not fills(tmp_path / "missing", 1, most_entries=1)


def test_names_of_one_file_fill_a_folder(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a").write_bytes(b"")
    (tmp_path / "below" / "b").hardlink_to(tmp_path / "below" / "a")
    assert fills(tmp_path, 1_000_000, most_entries=3)
    assert not fills(tmp_path, 1_000_000, most_entries=4)


@pytest.mark.parametrize("depth", [100, 101])
def test_a_folder_that_is_too_deep_is_full(tmp_path: Path, depth: int) -> None:
    (tmp_path / "/".join("x" * depth)).mkdir(parents=True)
    assert fills(tmp_path, 1_000_000, most_entries=1000) is (depth > 100)


@pytest.mark.parametrize("becomes", ["folder", "link", "file", "nothing"])
def test_a_folder_that_becomes_a_link_while_it_is_measured_is_not_followed(tmp_path: Path, becomes: str) -> None:
    outside, own = tmp_path / "outside", tmp_path / "own"
    outside.mkdir()
    (outside / "x").write_bytes(b"x" * 1_000_000)
    (own / "below").mkdir(parents=True)
    found = contents(str(own))
    assert stat.S_ISDIR(next(found).st_mode)
    (own / "below").rmdir()
    match becomes:
        case "folder":
            outside.rename(own / "below")
        case "link":
            (own / "below").symlink_to(outside)
        case "file":
            (own / "below").write_bytes(b"")
        case _:
            pass
    assert [one.st_size for one in found] == ([1_000_000] if becomes == "folder" else [])


async def test_a_disabled_server_is_ended(place: HostedRoom) -> None:
    from server.remote import servers

    agent = await place.agent("curious")
    await place.ask(agent, "pid")
    process = process_of(place, agent)
    await servers.set_disabled(place.operator, "curious", is_disabled=True)
    try:
        await until(lambda: process.has_ended)
    finally:
        await servers.set_disabled(place.operator, "curious", is_disabled=False)
    assert float(await place.ask(agent, "pid")) > 0


async def test_shutting_down_ends_all(place: HostedRoom, tmp_path: Path) -> None:
    async with hosted_room(tmp_path / "vault", curious=CURIOUS) as opened:
        await opened.add("curious")
        agent = await opened.agent("curious")
        await opened.ask(agent, "pid")
        pid = process_of(opened, agent).pid
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
