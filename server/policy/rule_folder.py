"""Change several files in the folder of the rules together, so that a crash can't put a mixture of rules in force.

The new files are written to a staging folder, which gets its final name `.applying` in one step. While it exists, no
process loads rules: running ones keep the earlier rules. `finish` moves the files into place, also after a crash.
`.applied.json` lists the files that were written this way, with their digests: only these are ever removed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from server.policy.files import UNFINISHED, RulesRefused, read_contents
from vault.keys.sources.private_file import sync_folder
from vault.storage.host_files import lock, sync

RECORD: Final = ".applied.json"
_STAGING: Final = f"{UNFINISHED}.new"
_PLAN: Final = "plan.json"  # in the staging folder; becomes the record


class FolderChanged(Exception):
    """The rule files are no longer those that the change was planned for. Nothing was written."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    files: Mapping[str, str]  # SHA-256 by name
    removed: tuple[str, ...] = ()  # by the change that wrote this record


@dataclass(frozen=True, slots=True)
class FolderState:
    """The content of every rule file, and the digests of those that `write` wrote."""

    contents: Mapping[str, bytes]
    written: Mapping[str, str]


@contextmanager
def hold(folder: Path) -> Generator[None]:
    """Keep other changes by this module away. Raises FolderChanged while there is one, and OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            lock(descriptor)
        except BlockingIOError:
            raise FolderChanged from None
        yield
    finally:
        os.close(descriptor)


def read_state(folder: Path, *, setting: str) -> FolderState:
    """The files as they are, or will be once an interrupted change is finished. Raises RulesRefused and OSError."""
    contents = read_contents(folder, setting=setting)
    staged = folder / UNFINISHED
    if not os.path.lexists(staged):
        return FolderState(contents, _record(folder / RECORD, setting).files)
    plan = _record(staged / _PLAN, setting) if (staged / _PLAN).exists() else _record(folder / RECORD, setting)
    contents |= {name: (staged / name).read_bytes() for name in plan.files if (staged / name).exists()}
    return FolderState({name: text for name, text in contents.items() if name not in plan.removed}, plan.files)


def write(
    folder: Path, before: FolderState, texts: Mapping[str, bytes], removed: Collection[str], *, setting: str
) -> None:
    """Write and remove these files, together. Call it within `hold`. Raises FolderChanged, RulesRefused, and OSError.

    New files get the mode of the folder without its execute bits, and its owner and group if that is allowed.
    """
    if os.path.lexists(folder / UNFINISHED) or read_state(folder, setting=setting) != before:
        raise FolderChanged
    if any((folder / name).is_symlink() for name in (*texts, *removed)):  # it may have been one file before
        raise FolderChanged
    for name in texts:
        if (folder / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / name))
    kept = {name: digest for name, digest in before.written.items() if name in before.contents and name not in removed}
    plan = _Record(files=kept | {name: digest_of(text) for name, text in texts.items()}, removed=tuple(sorted(removed)))
    staging = folder / _STAGING
    shutil.rmtree(staging, ignore_errors=True)  # of a process that ended before it changed anything
    staging.mkdir()
    for name, content in {**texts, _PLAN: json.dumps(plan.model_dump()).encode()}.items():
        _create(staging / name, content, like=folder)
    _own(staging, like=folder, mode=folder.stat().st_mode & 0o777)
    sync_folder(staging)
    staging.rename(folder / UNFINISHED)
    sync_folder(folder)
    finish(folder, setting=setting)


def finish(folder: Path, *, setting: str) -> bool:
    """Put every staged file in place; False if no change is unfinished. Call it within `hold`.

    Raises RulesRefused and OSError.
    """
    staged = folder / UNFINISHED
    if not os.path.lexists(staged):
        return False
    if (staged / _PLAN).exists():
        plan = _record(staged / _PLAN, setting)
        for name in plan.files:
            if (staged / name).exists():
                (staged / name).replace(folder / name)
        for name in plan.removed:
            (folder / name).unlink(missing_ok=True)
        sync_folder(folder)
        (staged / _PLAN).replace(folder / RECORD)
    staged.rmdir()
    sync_folder(folder)
    return True


def digest_of(content: bytes) -> str:
    """The digest of a file in the record."""
    return hashlib.sha256(content).hexdigest()


def _create(path: Path, content: bytes, *, like: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        _own(path, like=like, mode=like.stat().st_mode & 0o666)
        sync(descriptor)


def _own(made: Path, *, like: Path, mode: int) -> None:
    about = like.stat()
    with suppress(PermissionError):  # only root gives files to others
        os.chown(made, about.st_uid, about.st_gid)
    made.chmod(mode)


def _record(file: Path, setting: str) -> _Record:
    try:
        return _Record.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return _Record(files={})
    except ValidationError:
        raise RulesRefused(setting, [f"{file}: isn't a record of `token-vault apply`: remove it"]) from None
