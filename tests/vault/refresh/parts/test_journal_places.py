"""Places in the answer journal: reserved before a refresh, kept for its answer, and free again afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from vault.refresh.journal import FOLDER, GROWTH, KEEP, SLOT, Journal, JournalEntry, read_answer, write_answer
from vault.refresh.journal_slots import LONGEST, encode, slots_for, slots_for_answer
from vault.refusals import StorageUnavailable
from vault.upstream import TokenAnswer

NOW = 1_700_000_000


def entry(name: str, generation: int = 1, *, fence: int = 1, at: int = NOW) -> JournalEntry:
    return JournalEntry(name, generation, "owner", fence=fence, at=at, sealed=b"sealed")


def files(data: Path) -> list[int]:
    """The sizes of the journal's files, in slots."""
    return [path.stat().st_size // SLOT for path in sorted((data / FOLDER).iterdir())]


async def reserve(journal: Journal, names: range, *, now: int = NOW) -> None:
    for name in names:
        await journal.reserve(str(name), now=now)


async def test_a_reserved_place_is_that_of_the_answer(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    await reserve(journal, range(GROWTH))
    await reserve(journal, range(GROWTH))
    for name in range(GROWTH):
        await journal.append(entry(str(name)))
        await journal.append(entry(str(name), 2))
    await reserve(journal, range(GROWTH))
    assert files(tmp_path) == [GROWTH]
    assert (tmp_path / FOLDER).stat().st_mode & 0o777 == 0o700
    assert {one.generation for one in await journal.entries()} == {2}
    await journal.reserve("another", now=NOW)
    assert files(tmp_path) == [2 * GROWTH]
    journal.close()


async def test_a_place_that_is_too_small_is_free_for_others(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    slots = slots_for_answer(30_000)
    assert 1 < slots < GROWTH
    await journal.reserve("large", now=NOW)
    await journal.reserve("large", now=NOW, tokens=30_000)
    await journal.reserve("large", now=NOW)  # a smaller answer may come too
    await reserve(journal, range(GROWTH - slots))
    assert files(tmp_path) == [GROWTH]
    await journal.append(entry("large"))
    await reserve(journal, range(GROWTH, GROWTH + slots - 1))  # what the small answer left
    assert files(tmp_path) == [GROWTH]
    await journal.reserve("another", now=NOW)
    assert files(tmp_path) == [2 * GROWTH]
    assert await journal.find("large") == (entry("large"),)
    journal.close()


@pytest.mark.parametrize(("passed", "is_free"), [(KEEP, False), (KEEP + 1, True)])
async def test_a_place_without_an_answer_is_free_after_seven_days(
    tmp_path: Path, passed: int, *, is_free: bool
) -> None:
    journal = Journal(tmp_path)
    await reserve(journal, range(GROWTH))
    await journal.sweep(now=NOW + passed)
    await reserve(journal, range(GROWTH, 2 * GROWTH), now=NOW + passed)
    assert files(tmp_path) == [GROWTH if is_free else 2 * GROWTH]
    journal.close()


async def test_a_place_reserved_again_is_kept_from_then_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    await journal.append(entry("answered"))
    await journal.reserve("empty", now=NOW)
    for name in ("answered", "empty"):
        await journal.reserve(name, now=NOW + 10)
    await journal.sweep(now=NOW + 10 + KEEP)
    assert await journal.find("answered") == (entry("answered"),)
    await journal.reserve("answered", now=NOW + 10)
    await journal.sweep(now=NOW + 11 + KEEP)
    assert await journal.find("answered") == ()
    journal.close()


@pytest.mark.parametrize("newer_first", [True, False])
async def test_the_newest_answer_counts_whichever_file_it_is_in(tmp_path: Path, *, newer_first: bool) -> None:
    first, second = Journal(tmp_path), Journal(tmp_path)
    newer, older = (first, second) if newer_first else (second, first)
    for journal in (first, second):
        await journal.append(entry("of each", 1 if journal is older else 2))
        await journal.append(entry("same generation", 1, fence=1 if journal is older else 2))
    for journal in (newer, older, Journal(tmp_path)):
        assert await journal.newest() == {"of each": (2, 1), "same generation": (1, 2)}
        assert [one.age for one in await journal.find("same generation")] == [(1, 2), (1, 1)]
        for generation, is_known in ((2, True), (3, False)):
            assert await journal.is_ahead("of each", generation=generation, era=0) is is_known
        assert not await journal.is_ahead("unknown", generation=0, era=0)
        assert {(one.connection_id, one.age) for one in await journal.entries()} == {
            ("of each", (2, 1)),
            ("same generation", (1, 2)),
        }
    first.close()
    second.close()


async def test_a_file_that_cant_be_read_hides_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path)
    await journal.append(entry("one"))
    journal.close()
    for name in ("-", "999"):  # before and after the others
        (tmp_path / FOLDER / f"{name}.journal").symlink_to(tmp_path / FOLDER / "000.journal")
    other = Journal(tmp_path)
    assert [one.age for one in await other.find("one")] == [(1, 1)]
    assert "journal not read" in [one.message for one in caplog.records]
    await other.sweep(now=NOW + KEEP + 1)
    assert await other.find("one") == ()


@pytest.mark.parametrize("scopes", [None, frozenset[str](), frozenset({"a", "b"})])
@pytest.mark.parametrize("leaves_earlier", [True, False])
def test_an_answer_is_kept_whole(scopes: frozenset[str] | None, *, leaves_earlier: bool) -> None:
    answer = TokenAnswer("access", None, scopes=scopes, expires_in=None, leaves_earlier=leaves_earlier)
    assert read_answer(write_answer("spent", scopes, answer)) == ("spent", scopes, answer)
    full = TokenAnswer("access", "refresh", scopes=scopes, expires_in=3600, leaves_earlier=leaves_earlier)
    assert read_answer(write_answer("spent", None, full)) == ("spent", None, full)


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Each write stores only its first bytes."""
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda descriptor, data, at: real(descriptor, data[:4], at))
        yield


async def test_a_full_disk_refuses_a_place_and_an_answer_and_the_earlier_answer_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    with full_disk(monkeypatch), pytest.raises(StorageUnavailable, match="can't write to"):
        await journal.reserve("one", now=NOW)
    await journal.append(entry("one"))
    await journal.reserve("two", now=NOW)
    with full_disk(monkeypatch), pytest.raises(StorageUnavailable, match="can't be written"):
        await journal.append(entry("two"))
    assert await journal.find("one") == (entry("one"),)
    assert await journal.find("two") == ()
    await journal.append(entry("two"))
    assert await journal.find("two") == (entry("two"),)
    journal.close()


async def test_an_answer_that_cant_be_wiped_stays_known_until_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path)
    await journal.append(entry("one"))
    with full_disk(monkeypatch):
        await journal.sweep(now=NOW + KEEP + 1)
    assert "journal not swept" in [one.message for one in caplog.records]
    assert await journal.is_ahead("one", generation=1, era=0)
    await journal.sweep(now=NOW + KEEP + 1)
    assert not await journal.is_ahead("one", generation=1, era=0)
    journal.close()
    content = (tmp_path / FOLDER / "000.journal").read_bytes()
    assert not content.strip(b"\x00")


async def test_what_is_to_be_forgotten_is_wiped_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, other = Journal(tmp_path), Journal(tmp_path)
    for name in ("one", "two"):
        await journal.append(entry(name))
    await other.append(entry("one", 2))
    other.close()  # its process has ended
    await journal.forget([])
    with full_disk(monkeypatch), pytest.raises(StorageUnavailable, match="can't be written"):
        await journal.forget(["one"])
    await journal.forget(["one", "unknown"])
    assert await journal.find("one") == ()
    assert await journal.find("two") == (entry("two"),)
    assert await Journal(tmp_path).find("one") == ()
    for path in (tmp_path / FOLDER).iterdir():
        assert b'"one"' not in path.read_bytes()
    journal.close()


async def test_without_a_free_file_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vault.refresh.journal._FILES", 1)
    first, second = Journal(tmp_path), Journal(tmp_path)
    await first.append(entry("one"))
    with pytest.raises(StorageUnavailable, match="all journal files are in use"):
        await second.append(entry("two"))
    first.close()
    await second.append(entry("two"))
    assert {one.connection_id for one in await second.entries()} == {"one", "two"}
    second.close()


def tokens_for(slots: int) -> int:
    """Bytes of tokens whose answer takes this many slots."""
    return next(tokens for tokens in range(0, 300_000, 1000) if slots_for_answer(tokens) == slots)


@pytest.mark.parametrize("has_gap", [False, True])
async def test_large_places_are_side_by_side_and_leave_no_gap(tmp_path: Path, *, has_gap: bool) -> None:
    journal = Journal(tmp_path)
    await journal.append(entry("gap"))
    await journal.append(entry("small"))
    if has_gap:
        await journal.forget(["gap"])
    slots = (GROWTH - 2) // 2
    assert slots < LONGEST
    for name in ("one", "two"):
        await journal.reserve(name, now=NOW, tokens=tokens_for(slots))
    assert files(tmp_path) == [GROWTH]
    large = [replace(entry(name), sealed=bytes(tokens_for(slots - 1))) for name in ("one", "two")]
    for one in large:
        await journal.append(one)
    kept = {entry("small"), *large} if has_gap else {entry("gap"), entry("small"), *large}
    assert set(await journal.entries()) == kept
    assert set(await Journal(tmp_path).entries()) == kept
    journal.close()


async def test_answers_of_every_size_stand_beside_each_other(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    kept = [
        replace(entry(f"{slots} slots, {name}"), sealed=bytes(tokens_for(slots)))
        for slots in (2, 1, 3, 2, 5)
        for name in ("one", "two")
    ]
    for one in kept:
        await journal.append(one)
    assert set(await journal.entries()) == set(kept)
    assert files(tmp_path) == [GROWTH]
    journal.close()


async def test_what_another_process_wrote_is_known_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vault.refresh.journal.LOOK_EVERY", 0.0)
    mine, other = Journal(tmp_path), Journal(tmp_path)
    await mine.append(entry("mine"))
    assert not await mine.is_ahead("one", generation=1, era=0)
    await other.append(entry("one"))
    async with asyncio.timeout(30):
        while not await mine.is_ahead("one", generation=1, era=0):
            await asyncio.sleep(0.01)
    mine.close()
    other.close()


async def fill(journal: Journal, slots: int, *, kept: range) -> None:
    """Keep an answer in each of these slots; those that aren't `kept` end with the next sweep."""
    for slot in range(slots):
        await journal.append(entry(str(slot), at=NOW + KEEP if slot in kept else NOW))


@pytest.mark.parametrize(
    ("slots", "free", "is_cut"),
    [
        (3 * GROWTH, 2 * GROWTH - 1, False),
        (3 * GROWTH, 2 * GROWTH, True),
        (4 * GROWTH, 2 * GROWTH - 1, False),
        (6 * GROWTH, 3 * GROWTH - 1, False),
        (6 * GROWTH, 3 * GROWTH, True),
    ],
)
async def test_a_file_is_cut_when_half_of_it_is_free(tmp_path: Path, slots: int, free: int, *, is_cut: bool) -> None:
    journal = Journal(tmp_path)
    await fill(journal, slots, kept=range(free, slots))
    await journal.sweep(now=NOW + KEEP + 1)
    assert (files(tmp_path)[0] < slots) is is_cut
    assert {int(one.connection_id) for one in await journal.entries()} == set(range(free, slots))
    journal.close()


@pytest.mark.parametrize("slot", [GROWTH - 1, GROWTH, GROWTH + 1])
async def test_a_file_is_cut_behind_its_last_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slot: int) -> None:
    monkeypatch.setattr("vault.refresh.journal.MOVES", 0)
    journal = Journal(tmp_path)
    await fill(journal, 4 * GROWTH, kept=range(slot, slot + 1))
    await journal.sweep(now=NOW + KEEP + 1)
    left = GROWTH if slot < GROWTH else 2 * GROWTH
    assert files(tmp_path) == [left]
    assert [one.connection_id for one in await journal.entries()] == [str(slot)]
    await reserve(journal, range(1000, 1000 + left - 1))
    assert files(tmp_path) == [left]
    await journal.reserve("another", now=NOW)
    assert files(tmp_path) == [left + GROWTH], "its place is allocated"
    journal.close()


async def test_an_answer_that_comes_while_its_place_is_moved_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, last = Journal(tmp_path), 4 * GROWTH - 1
    await fill(journal, 4 * GROWTH, kept=range(last, last + 1))
    copying, may_go_on, real = threading.Event(), threading.Event(), os.pread

    def pread(descriptor: int, size: int, at: int) -> bytes:
        data = real(descriptor, size, at)
        if at == last * SLOT:
            copying.set()
            may_go_on.wait(10)
        return data

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", pread)
        sweeping = asyncio.create_task(journal.sweep(now=NOW + KEEP + 1))
        await asyncio.to_thread(copying.wait, 10)
        appending = asyncio.create_task(journal.append(entry(str(last), 2, at=NOW + KEEP)))
        await asyncio.wait({appending}, timeout=0.2)
        may_go_on.set()
        await asyncio.gather(sweeping, appending)
    assert files(tmp_path) == [GROWTH]
    assert [one.generation for one in await journal.find(str(last))] == [2]
    assert [one.generation for one in await Journal(tmp_path).entries()] == [2]
    journal.close()


async def test_a_large_answer_moves_once_smaller_ones_have_made_room(tmp_path: Path) -> None:
    journal, slots = Journal(tmp_path), 5
    kept = range(0, 4 * GROWTH - slots, slots)  # between two of them is one slot too few for the large answer
    for slot in range(4 * GROWTH - slots):
        await journal.append(entry(str(slot), at=NOW + KEEP if slot in kept else NOW))
    large = replace(entry("large", at=NOW + KEEP), sealed=bytes((slots - 1) * SLOT * 3 // 4))
    assert slots_for(len(encode(large))) == slots
    await journal.append(large)
    assert files(tmp_path) == [4 * GROWTH]
    for _ in range(2):
        await journal.sweep(now=NOW + KEEP + 1)
    assert files(tmp_path) == [GROWTH]
    assert {one.connection_id for one in await journal.entries()} == {*map(str, kept), "large"}
    assert await Journal(tmp_path).find("large") == (large,)
    journal.close()


async def test_a_sweep_wipes_the_old_answers_of_an_ended_process_and_keeps_its_others(tmp_path: Path) -> None:
    ended, mine = Journal(tmp_path), Journal(tmp_path)
    for name, at in (("old", NOW), ("young", NOW + KEEP)):
        await ended.append(entry(name, at=at))
    ended.close()
    await mine.sweep(now=NOW + KEEP + 1)
    assert [one.connection_id for one in await mine.entries()] == ["young"]
    content = (tmp_path / FOLDER / "000.journal").read_bytes()
    assert (b'"old"' in content, b'"young"' in content) == (False, True)


async def test_a_file_written_a_moment_ago_is_read_again_although_it_looks_the_same(tmp_path: Path) -> None:
    """Two writes within the resolution of its modification time."""
    mine, other = Journal(tmp_path), Journal(tmp_path)
    await mine.append(entry("mine"))
    await other.append(entry("one"))
    path = tmp_path / FOLDER / "001.journal"
    moment = time.time_ns()
    os.utime(path, ns=(moment, moment))
    assert await mine.find("one") == (entry("one"),)
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(moment, moment))
    assert not await mine.is_ahead("one", generation=1, era=1)
    other.close()
    mine.close()


async def test_a_data_folder_that_was_taken_away_is_made_anew(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "data")
    await journal.append(entry("one"))
    shutil.rmtree(tmp_path / "data")
    await journal.append(entry("one", 2))
    assert await Journal(tmp_path / "data").find("one") == (entry("one", 2),)
    journal.close()
