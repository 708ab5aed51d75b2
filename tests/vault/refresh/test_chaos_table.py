"""What `make chaos` prints: one table or JSON; a group that breaks or never ends counts as a missed figure."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from types import ModuleType

import pytest

from tests.chaos import __main__ as chaos
from tests.chaos.figures import Figure, Scale
from tests.chaos.replicas import master_key_rotation

GOOD = Figure("calls", "3 of 3", "all", holds=True)


@pytest.fixture(autouse=True)
def kept_handler() -> Generator[None]:
    """The command lets a signal end it, as nothing else in this process does."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def group(figures: object, *, limit: float = 5.0) -> ModuleType:
    module = ModuleType("group")
    module.figures, module.LIMIT = figures, limit
    return module


async def good(scale: Scale) -> list[Figure]:
    return [GOOD]


async def fail(scale: Scale) -> list[Figure]:
    raise ValueError("something is wrong")


async def endless(scale: Scale) -> list[Figure]:
    await asyncio.Event().wait()
    return []


async def test_a_group_that_keeps_its_promise_is_printed_and_counted() -> None:
    ran = await chaos.run("good", group(good), Scale.SMALL)
    assert "1 of 1 figures reached" in chaos.as_table([ran])
    said = json.loads(chaos.as_json([ran]))
    assert (said["reached"], said["groups"][0]["figures"][0]["measured"]) == (True, "3 of 3")


@pytest.mark.parametrize(("figures", "words"), [(fail, "ValueError"), (endless, "not done after 0 s")])
async def test_a_group_that_breaks_or_never_ends_is_a_missed_figure(figures: object, words: str) -> None:
    ran = await chaos.run("bad", group(figures, limit=0.05), Scale.SMALL)
    good_one = await chaos.run("good", group(good), Scale.SMALL)
    table = chaos.as_table([ran, good_one])
    assert "1 of 2 figures reached" in table
    assert words in table
    assert not json.loads(chaos.as_json([ran, good_one]))["reached"]


def test_what_is_done_so_far_is_kept_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "table.md"

    async def second(scale: Scale) -> list[Figure]:
        assert "| calls | `first` | 3 of 3 | all |" in kept.read_text(encoding="utf-8")
        return [GOOD]

    monkeypatch.setattr(chaos, "groups", lambda: {"first": group(good), "second": group(second)})
    monkeypatch.setattr("sys.argv", ["chaos", "--write", str(kept)])
    assert chaos.main() == 0
    assert "2 of 2 figures reached" in kept.read_text(encoding="utf-8")


def test_every_group_says_what_it_does(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["chaos", "--list"])
    assert chaos.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == set(chaos.groups())
    assert all(len(line) > 40 for line in lines)


def test_failed_calls_while_keys_are_rotated_are_told_by_kind_and_judged_by_what_they_are() -> None:
    late = Counter({"TimeoutError": 2, "503": 1})
    said, faults = master_key_rotation.judge(late, load=0.5, cores=2)
    assert (said, faults) == (" (2 x TimeoutError, 1 x 503)", 3)
    said, faults = master_key_rotation.judge(late, load=20.0, cores=2)
    assert (said, faults) == (" (2 x TimeoutError, 1 x 503; not judged at load 20 on 2 cores)", 0)
    told = Counter({'[{"type": "text", "text": "Slack is slow. Try again in 2 s."}]': 5})
    assert master_key_rotation.judge(told, load=20.0, cores=2)[1] == 0
    assert master_key_rotation.judge(told, load=0.5, cores=2)[1] == 5
    said, faults = master_key_rotation.judge(late + Counter({"401": 4}), load=20.0, cores=2)
    assert faults == 4
    assert "4 x 401" in said
    assert master_key_rotation.judge(Counter(), load=20.0, cores=2) == ("", 0)
