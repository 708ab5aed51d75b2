"""Files of rules that change together: a kill at any step leaves all of the earlier rules, or all of the new ones."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from server.app import open_deployment
from server.policy.files import UNFINISHED, RulesRefused, read_contents, read_rules
from server.policy.rule_folder import FolderChanged, finish, hold, read_state, write
from server.settings import load_settings
from tests.support.processes import ROOT
from tests.support.rules import look_twice
from vault.refusals import TemporarilyUnavailable

RULE = '@id("{name}") forbid(principal, action, resource) when {{ context.hour == {hour} }};\n'
OLD = {f"{name}.cedar": RULE.format(name=name, hour=1).encode() for name in ("first", "second", "third")}
NEW = {f"{name}.cedar": RULE.format(name=name, hour=2).encode() for name in ("first", "second", "fourth")}
HAND = RULE.format(name="by-hand", hour=3).encode()

DYING = """
import os, signal, sys
from pathlib import Path
from tests.policy.test_rule_folder import change
folder, last = sys.argv[1], int(sys.argv[2])
steps = []

def count(event, arguments):
    if event in {"os.mkdir", "os.rename", "os.remove", "os.rmdir"} and str(arguments[0]).startswith(folder):
        steps.append(event)
        if len(steps) > last:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
change(Path(folder))
"""


def change(folder: Path) -> None:
    """From the old files to the new ones; the third one is removed."""
    with hold(folder):
        state = read_state(folder, setting="policies")
        write(folder, state, NEW, {"third.cedar"}, setting="policies")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "rules"
    made.mkdir()
    (made / "by-hand.cedar").write_bytes(HAND)
    with hold(made):
        write(made, read_state(made, setting="policies"), OLD, (), setting="policies")
    return made


def _load(folder: Path) -> dict[str, bytes] | None:
    """The files that a process would use; None if it would refuse them."""
    try:
        read_rules(folder, setting="policies")
    except RulesRefused as refused:
        assert "run it again to finish" in str(refused)
        return None
    return read_contents(folder, setting="policies")


def test_a_kill_at_any_step_leaves_the_old_rules_or_the_new_ones(folder: Path, tmp_path: Path) -> None:
    old, new = {**OLD, "by-hand.cedar": HAND}, {**NEW, "by-hand.cedar": HAND}
    seen: list[str] = []
    for step in range(50):
        made = tmp_path / f"rules-{step}"
        subprocess.run(["cp", "-a", str(folder), str(made)], check=True)
        ended = subprocess.run([sys.executable, "-c", DYING, str(made), str(step)], cwd=ROOT, check=False)
        assert ended.returncode in {0, -signal.SIGKILL}
        loaded, coming = _load(made), read_state(made, setting="policies").contents
        assert loaded in (None, old, new)
        assert coming == (old if loaded == old else new), "an interrupted change is all there, to be finished"
        seen.append("refused" if loaded is None else "old" if loaded == old else "new")
        with hold(made):
            assert finish(made, setting="policies") == (loaded is None)
        if coming == old:
            change(made)
        assert _load(made) == new
        assert {one.name for one in made.iterdir()} == {*new, ".applied.json"}
        if ended.returncode == 0:
            break
    assert seen[-1] == "new"
    assert seen == sorted(seen, key=["old", "refused", "new"].index)
    assert seen.count("refused") >= len(NEW) + 1, "the kills reached each file"


def test_only_the_planned_state_is_changed_and_only_by_one_at_a_time(folder: Path) -> None:
    state = read_state(folder, setting="policies")
    (folder / "by-hand.cedar").write_bytes(HAND + b"\n")
    with hold(folder):
        with pytest.raises(FolderChanged):
            write(folder, state, NEW, (), setting="policies")
        with pytest.raises(FolderChanged), hold(folder):
            pass
        (folder / "taken.cedar").mkdir()
        state = read_state(folder, setting="policies")
        with pytest.raises(IsADirectoryError):
            write(folder, state, {"taken.cedar": HAND}, (), setting="policies")
        assert read_contents(folder, setting="policies") == {**OLD, "by-hand.cedar": HAND + b"\n"}
        write(folder, state, NEW, (), setting="policies")
    assert read_contents(folder, setting="policies") == {**OLD, **NEW, "by-hand.cedar": HAND + b"\n"}


def test_a_file_that_became_a_link_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    state = read_state(folder, setting="policies")
    for name in ("first.cedar", "third.cedar"):  # one to write, one to remove
        elsewhere = (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(elsewhere)
        with pytest.raises(FolderChanged), hold(folder):
            write(folder, state, NEW, {"third.cedar"}, setting="policies")
        assert (folder / name).is_symlink()
        elsewhere.replace(folder / name)
    change(folder)
    assert _load(folder) == {**NEW, "by-hand.cedar": HAND}


def test_files_get_the_mode_of_the_folder_and_a_strange_record_is_refused(folder: Path) -> None:
    folder.chmod(0o750)
    change(folder)
    assert {(folder / name).stat().st_mode & 0o777 for name in NEW} == {0o640}
    record = folder / ".applied.json"
    kept = record.read_bytes()
    assert set(json.loads(kept)["files"]) == set(NEW)
    record.write_text('{"files": 1}')
    with pytest.raises(RulesRefused, match="remove it"):
        read_state(folder, setting="policies")
    record.write_bytes(kept)
    assert read_state(folder, setting="policies").written.keys() == NEW.keys()


async def test_a_running_vault_keeps_its_rules_until_an_interrupted_change_is_finished(
    folder: Path, tmp_path: Path
) -> None:
    settings = load_settings(overrides={"policy": {"folder": str(folder)}})
    async with open_deployment(settings, data=tmp_path / "data") as deployment:
        gate = deployment.policy
        assert gate is not None
        before = gate.digest
        command = [sys.executable, "-c", DYING, str(folder), "3"]
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
        assert (folder / UNFINISHED).is_dir()
        assert read_contents(folder, setting="policies") != {**OLD, "by-hand.cedar": HAND}, "some files changed"
        with pytest.raises(TemporarilyUnavailable, match="run it again to finish"):
            await look_twice(gate)
        assert gate.digest == before
        with pytest.raises(RulesRefused, match="run it again to finish"):
            async with open_deployment(settings, data=tmp_path / "other"):
                pass
        with hold(folder):
            assert finish(folder, setting="policies")
        await look_twice(gate)
        assert gate.digest not in {before, None}
    async with open_deployment(settings, data=tmp_path / "other") as deployment:
        assert deployment.policy is not None
