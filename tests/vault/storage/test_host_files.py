"""Locks of files, which call makes a file durable on which system, and which clock counts its sleep."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from vault.storage.clock import boot_time
from vault.storage.host_files import is_supported, lock, sync, sync_data


@pytest.fixture
def descriptors(tmp_path: Path) -> Iterator[list[int]]:
    opened = [os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT) for _ in range(3)]
    yield opened
    for one in opened:
        os.close(one)


def is_locked(descriptor: int, *, is_shared: bool = False) -> bool:
    try:
        lock(descriptor, is_shared=is_shared)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def test_a_lock_keeps_all_others_out_and_a_shared_one_only_those_that_share_nothing(descriptors: list[int]) -> None:
    first, second, third = descriptors
    lock(first)
    assert is_locked(second)
    assert is_locked(second, is_shared=True)
    fcntl.flock(first, fcntl.LOCK_UN)
    assert not is_locked(second)
    lock(first, is_shared=True)
    assert not is_locked(second, is_shared=True)
    assert is_locked(second)
    lock(third, is_shared=True, waits=True)
    assert is_locked(second)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The system calls that make a file durable, in order."""
    made: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: made.append("fsync"))
    monkeypatch.setattr(os, "fdatasync", lambda _: made.append("fdatasync"), raising=False)
    monkeypatch.delattr(fcntl, "F_FULLFSYNC", raising=False)
    return made


def test_a_new_file_is_synced_with_its_size_and_a_preallocated_one_without(calls: list[str]) -> None:
    sync(0)
    sync_data(0)
    assert calls == ["fsync", "fdatasync"]


def test_without_fdatasync_everything_is_synced(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fdatasync")
    sync_data(0)
    assert calls == ["fsync"]


@pytest.mark.parametrize("has_it", [True, False])
def test_on_macos_the_cache_of_the_drive_is_flushed_where_the_file_system_can(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, *, has_it: bool
) -> None:
    def control(descriptor: int, command: int) -> None:
        if not has_it:
            raise OSError(45, "not supported")
        calls.append(f"fcntl {command}")

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", control)
    sync_data(0)
    assert calls == (["fcntl 51"] if has_it else ["fsync"])


@pytest.mark.parametrize(("module", "name"), [(fcntl, "flock"), (os, "O_NOFOLLOW"), (os, "pwrite")])
def test_a_host_needs_locks_and_safe_opening(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> None:
    assert is_supported()
    monkeypatch.delattr(module, name)
    assert not is_supported()


def test_a_host_without_kernel_locks_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert not is_supported()


@pytest.mark.parametrize(("system", "clock"), [("linux", "BOOTTIME"), ("darwin", "MONOTONIC"), ("win32", "monotonic")])
def test_the_clock_of_each_system_counts_the_time_that_it_sleeps(
    monkeypatch: pytest.MonkeyPatch, system: str, clock: str
) -> None:
    """Windows has no such clock."""
    clocks = {time.CLOCK_BOOTTIME: "BOOTTIME", time.CLOCK_MONOTONIC: "MONOTONIC"}
    seconds = {"BOOTTIME": 30.0, "MONOTONIC": 20.0, "monotonic": 10.0}
    monkeypatch.setattr(sys, "platform", system)
    with monkeypatch.context() as patch:
        patch.setattr(time, "clock_gettime", lambda number: seconds[clocks[number]])
        patch.setattr(time, "monotonic", lambda: seconds["monotonic"])
        told = boot_time()
    assert told == seconds[clock]
