"""One command writes the version everywhere, and refuses to contradict the changelog."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.release import version
from tests.release.version import PLACES, ROOT, VersionRefused, set_version, versions_in_files

RELEASED = "# Changelog\n\n## 1.1.0 (2026-12-01)\n\n- Something.\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files that name the version."""
    for path in (*(place.path for place in PLACES), "CHANGELOG.md"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    return tmp_path


def top(root: Path) -> list[str]:
    return [line for line in (root / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line.startswith("## ")]


def test_all_files_of_this_checkout_name_one_version() -> None:
    assert len(versions_in_files(ROOT)) == 1


def test_the_section_of_what_is_not_released_gets_the_new_version(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.0 (unreleased)\n\n- Something.\n", encoding="utf-8")
    set_version(checkout, "9.8.7")
    assert versions_in_files(checkout) == {"9.8.7"}
    assert top(checkout) == ["## 9.8.7 (unreleased)"]
    set_version(checkout, "9.8.7", date="2026-12-01")
    assert top(checkout) == ["## 9.8.7 (2026-12-01)"]


def test_the_version_after_a_release_gets_a_section_of_its_own(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text(RELEASED, encoding="utf-8")
    set_version(checkout, "1.2.0rc1")
    assert versions_in_files(checkout) == {"1.2.0rc1"}
    assert top(checkout) == ["## 1.2.0rc1 (unreleased)", "## 1.1.0 (2026-12-01)"]


@pytest.mark.parametrize(
    ("wanted", "date", "said"),
    [
        ("1.2", None, "isn't a version"),
        ("v1.2.0", None, "isn't a version"),
        ("1.2.0", "1.12.2026", "isn't a date"),
        ("1.1.0", None, "was released already"),
        ("1.2.0", "2026-12-02", "no unreleased section"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    checkout: Path, wanted: str, date: str | None, said: str
) -> None:
    (checkout / "CHANGELOG.md").write_text(RELEASED, encoding="utf-8")
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    with pytest.raises(VersionRefused, match=said):
        set_version(checkout, wanted, date=date)
    assert before == {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    set_version(checkout, "1.2.0")  # the same command with a valid version


def test_a_file_that_no_longer_names_the_version_is_noticed(checkout: Path) -> None:
    (checkout / "server.json").write_text("{}", encoding="utf-8")
    with pytest.raises(VersionRefused, match=r"server\.json"):
        set_version(checkout, "9.8.7")
    with pytest.raises(SystemExit, match="isn't a version"):
        version.main(["x"])
