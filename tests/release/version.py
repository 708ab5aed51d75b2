"""The version in every file that names it (`make version V=1.2.0`), and the changelog's newest section.

Without a date the section stays "(unreleased)"; with one (`DATE=2026-12-01`) it becomes the release. A version after a
dated one gets its own section.

    python -m tests.release.version 1.2.0 [--date 2026-12-01]
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)((?:a|b|rc)\d+)?")
HEADING = re.compile(r"^## (\S+) \(([^)]*)\)$", re.MULTILINE)
UNRELEASED = "unreleased"


class VersionRefused(Exception):
    """The requested version isn't valid, or the files contradict each other."""


@dataclass(frozen=True)
class Place:
    """One file with the version, and a pattern whose second group is the version, found `count` times."""

    path: str
    pattern: str
    count: int = 1


PLACES = (
    Place("pyproject.toml", r'(?m)^(version = ")([^"]+)(")$'),
    Place("server.json", r'(?m)^( *"version": ")([^"]+)(")', count=2),
    Place("deploy/helm/token-vault/Chart.yaml", r"(?m)^((?:appV|v)ersion: )(\S+)()$", count=2),
)


def versions_in_files(root: Path) -> set[str]:
    """The versions that the files name; only one, unless someone edited a file by hand."""
    found = {match[1] for place in PLACES for match in re.findall(place.pattern, _text(root, place))}
    heading = HEADING.search((root / "CHANGELOG.md").read_text(encoding="utf-8"))
    return found | ({heading[1]} if heading else set())


def _text(root: Path, place: Place) -> str:
    text = (root / place.path).read_text(encoding="utf-8")
    if len(re.findall(place.pattern, text)) != place.count:
        raise VersionRefused(f"{place.path} doesn't name the version as expected")
    return text


def set_version(root: Path, version: str, *, date: str | None = None) -> None:
    """Write the version everywhere. Raises VersionRefused before anything is written."""
    if VERSION.fullmatch(version) is None:
        raise VersionRefused(f"{version} isn't a version: write 1.2.0, or 1.2.0rc1 before a release")
    if date is not None:
        try:
            datetime.date.fromisoformat(date)
        except ValueError as error:
            raise VersionRefused(f"{date} isn't a date: write 2026-12-01") from error
    changed = {
        place.path: re.sub(place.pattern, lambda found: f"{found[1]}{version}{found[3]}", _text(root, place))
        for place in PLACES
    }
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    changed["CHANGELOG.md"] = with_heading(changelog, version, date=date)
    for path, text in changed.items():
        (root / path).write_text(text, encoding="utf-8")


def with_heading(changelog: str, version: str, *, date: str | None) -> str:
    """The changelog with this version at the top."""
    newest = HEADING.search(changelog)
    if newest is None:
        raise VersionRefused("CHANGELOG.md has no section such as: ## 1.2.0 (unreleased)")
    heading = f"## {version} ({date or UNRELEASED})"
    if newest[2] == UNRELEASED:
        return changelog[: newest.start()] + heading + changelog[newest.end() :]
    if any(found[1] == version for found in HEADING.finditer(changelog)):
        raise VersionRefused(f"{version} was released already")
    if date is not None:
        raise VersionRefused(f"CHANGELOG.md has no unreleased section: run make version V={version} first")
    return changelog[: newest.start()] + heading + "\n\n" + changelog[newest.start() :]


def main(arguments: Sequence[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="make version")
    parser.add_argument("version")
    parser.add_argument("--date")
    given = parser.parse_args(arguments)
    try:
        set_version(ROOT, given.version, date=given.date)
    except VersionRefused as refused:
        sys.exit(str(refused))
    print(f"{given.version} is written to {', '.join(place.path for place in PLACES)}, CHANGELOG.md")


if __name__ == "__main__":
    main(sys.argv[1:])
