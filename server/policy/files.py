"""The rules in their folder: each with its text and place, and the digest of all. Doesn't parse Cedar.

Cedar's parser reports no positions, so the text is split at the semicolons that end rules, and each rule is parsed
separately.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from providers.definitions.file_errors import reason_of
from server.provider_settings import SettingsRefused

SUFFIX: Final = ".cedar"
MOST_RULES: Final = 5000
MOST_BYTES: Final = 2 * 1024 * 1024  # of one file
UNFINISHED: Final = ".applying"  # in the folder while several files change together (`rule_folder`)
Fingerprint = tuple[tuple[str, int, int, int, int], ...]
_PIECE: Final = re.compile(r'//[^\n]*|"(?:\\.|[^"\\])*"|;|[^/";]+|.', re.DOTALL)


class RulesRefused(SettingsRefused):
    """The rules can't be used. The message is one line; `problems` has one line for each, with its place and fix."""

    def __init__(self, setting: str, problems: Sequence[str]) -> None:
        more = f" ({len(problems) - 1} more: token-vault policy check)" if len(problems) > 1 else ""
        super().__init__(f"{setting}: {problems[0]}{more}")
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class RuleText:
    """The text of one rule. `place`: its file relative to the folder, and its first line."""

    place: str
    text: str


@dataclass(frozen=True, slots=True)
class RuleFiles:
    """All rules of a folder. The digest is over the files' names and contents: equal on every replica."""

    rules: tuple[RuleText, ...]
    digest: str


def fingerprint(folder: Path) -> Fingerprint:
    """A value that changes when a rule file is added, removed, renamed, or written; empty if the folder doesn't
    exist."""
    try:
        found = [(str(path), path.stat()) for path in _files(folder)]
    except OSError as error:
        return ((str(error), 0, 0, 0, 0),)
    return tuple((name, one.st_ino, one.st_mtime_ns, one.st_ctime_ns, one.st_size) for name, one in found)


def read_rules(folder: Path, *, setting: str) -> RuleFiles:
    """Every rule in the folder. Raises RulesRefused, also while only some of several files have changed."""
    if os.path.lexists(folder / UNFINISHED):
        problem = f"{folder}: a `token-vault apply` changes it, or was interrupted: run it again to finish"
        raise RulesRefused(setting, [problem])
    return rules_of(read_contents(folder, setting=setting), setting=setting)


def read_contents(folder: Path, *, setting: str) -> dict[str, bytes]:
    """The content of every rule file, by its name relative to the folder. Raises RulesRefused."""
    if not folder.is_dir():
        raise RulesRefused(setting, [f"no folder {folder}: create it, or remove the setting"])
    try:
        found = _files(folder)
    except OSError as error:
        raise RulesRefused(setting, [f"{error.filename}: can't be read: {reason_of(error)}"]) from error
    contents: dict[str, bytes] = {}
    for path in found:
        name = path.relative_to(folder).as_posix()
        try:
            contents[name] = path.read_bytes()
        except OSError as error:
            raise RulesRefused(setting, [f"{name}: can't be read: {reason_of(error)}"]) from error
    return contents


def rules_of(contents: Mapping[str, bytes], *, setting: str) -> RuleFiles:
    """The rules in these files, by their names relative to the folder. Raises RulesRefused."""
    rules: list[RuleText] = []
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RulesRefused(setting, [f"{name}: can't be read: {reason_of(error)}"]) from error
        if len(content) > MOST_BYTES:
            raise RulesRefused(setting, [f"{name}: larger than {MOST_BYTES} bytes: split it"])
        for part in (name.encode(), content):
            digest.update(len(part).to_bytes(8, "big") + part)
        rules += [RuleText(f"{name}:{line}", rule) for line, rule in split(text)]
    if len(rules) > MOST_RULES:
        raise RulesRefused(setting, [f"{len(rules)} rules, more than {MOST_RULES}: remove some"])
    return RuleFiles(tuple(rules), digest.hexdigest())


def split(text: str) -> Iterator[tuple[int, str]]:
    """The rules in a text, each with its first line; the last one may lack its semicolon."""
    begins, line, parts = 1, 1, list[str]()
    for found in _PIECE.finditer(text):
        piece = found[0]
        if not parts and (piece.startswith("//") or not piece.strip()):
            line += piece.count("\n")
            continue
        if not parts:
            begins = line + piece[: len(piece) - len(piece.lstrip())].count("\n")
        parts.append(piece)
        line += piece.count("\n")
        if piece == ";":
            yield begins, "".join(parts).strip()
            parts = []
    if "".join(parts).strip():
        yield begins, "".join(parts).strip()


def _files(folder: Path) -> list[Path]:
    """In the order of their names, on every machine; none without the folder. Raises OSError for an unreadable one."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=_refuse) if folder.is_dir() else ():
        folders[:] = [one for one in folders if not one.startswith(".")]
        shown = (Path(parent, one) for one in names if one.endswith(SUFFIX) and not one.startswith("."))
        found += [one for one in shown if one.is_file()]
    return sorted(found, key=lambda one: one.relative_to(folder).as_posix())


def _refuse(error: OSError) -> None:
    raise error
