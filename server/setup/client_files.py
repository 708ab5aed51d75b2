"""Adds an entry to a client's configuration file and removes it again, leaving everything else unchanged.

The first write keeps a copy of the original file next to it. Undoing restores exactly that, unless the file has changed
since: then only our entry is removed. A file that can't be changed safely is refused.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from server.setup import client_json, client_toml, client_yaml
from server.setup.client_json import EntryError

BACKUP_SUFFIX: Final = ".before-token-vault"
FormatName = Literal["json", "toml", "yaml"]  # json: with comments


class ClientFileRefused(Exception):
    """The file can't be changed safely. The one-line message includes the fix."""


class FileFormat(Protocol):
    """The module of one format: each function takes a text, the section's and the entry's name. Raises EntryError."""

    def entry_of(self, text: str, section: str, name: str, /) -> object:
        """The entry; None if there is none."""
        ...

    def rest_of(self, text: str, section: str, name: str, /) -> object:
        """The rest of the file, comparable; a section with only the entry is left out."""
        ...

    def with_entry(self, text: str, section: str, name: str, entry: object, /) -> str:
        """The text with the entry."""
        ...

    def without_entry(self, text: str, section: str, name: str, /) -> str:
        """The text without the entry."""
        ...

    def render(self, section: str, name: str, entry: object, /) -> str:
        """A text with only the entry."""
        ...


FORMATS: Final[Mapping[FormatName, FileFormat]] = {"json": client_json, "toml": client_toml, "yaml": client_yaml}


@dataclass(frozen=True, slots=True)
class Place:
    """The location of an entry."""

    file: Path
    format: FormatName
    section: str
    name: str


def backup_of(file: Path) -> Path:
    """The path of the original file's copy."""
    target = file.resolve()  # a link to a file elsewhere stays a link
    return target.with_name(target.name + BACKUP_SUFFIX)


def put(place: Place, entry: Mapping[str, object]) -> Path | None:
    """Write the entry; the backup's path, None when there was no file before. Raises ClientFileRefused."""
    target, backup = place.file.resolve(), backup_of(place.file)
    before = _read(target)
    try:
        changed = FORMATS[place.format].with_entry(_text(before), place.section, place.name, dict(entry))
    except EntryError as error:
        raise _by_hand(target, error) from error
    if before is not None and not backup.exists():
        _replace(backup, before, mode=0o600)
    _replace(target, _content(changed, before))
    return backup if backup.exists() else None


def take_out(place: Place) -> str:
    """Undo `put`; returns what was done: `restored`, `removed` or `deleted`. Raises ClientFileRefused."""
    target, backup = place.file.resolve(), backup_of(place.file)
    now, kept = _read(target), _read(backup)
    if now is None:
        raise ClientFileRefused(f"{place.file} doesn't exist: nothing to undo")
    form, section, name = FORMATS[place.format], place.section, place.name
    try:
        if form.entry_of(_text(now), section, name) is None:
            raise ClientFileRefused(f"{place.file} has no entry {name!r}: nothing to undo")
        rest = form.rest_of(_text(now), section, name)
        if kept is not None and form.rest_of(_text(kept), section, name) == rest:
            _replace(target, kept)
            outcome = "restored"
        elif kept is None and not rest:
            target.unlink()
            return "deleted"
        else:
            old = None if kept is None else form.entry_of(_text(kept), section, name)
            if old is None:
                changed = form.without_entry(_text(now), section, name)
            else:
                changed = form.with_entry(_text(now), section, name, old)
            _replace(target, _content(changed, now))
            outcome = "removed"
    except EntryError as error:
        raise _by_hand(target, error) from error
    backup.unlink(missing_ok=True)
    return outcome


def _by_hand(path: Path, error: EntryError) -> ClientFileRefused:
    return ClientFileRefused(f"can't change {path} safely: {error}. Add the printed entry by hand")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ClientFileRefused(f"can't read {path}: {error.strerror}") from error


def _text(content: bytes | None) -> str:
    try:
        return (content or b"").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EntryError("it isn't UTF-8") from error


def _content(text: str, before: bytes | None) -> bytes:
    """With the byte order mark that the file had."""
    return text.encode("utf-8-sig" if (before or b"").startswith(b"\xef\xbb\xbf") else "utf-8")


def _replace(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Replace the content in one step, with the file's existing mode (0600 for a new one)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode is None:
            mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ClientFileRefused(f"can't write {path}: {error.strerror}") from error
