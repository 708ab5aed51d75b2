"""Puts an entry into a client's JSON file and removes it again, leaving everything else in it as it is.

The first write keeps a copy of the original file beside it. Undoing restores exactly that, unless the file has changed
since: then only our entry is removed. A file with comments (JSONC) is refused, since writing it would lose them.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

BACKUP_SUFFIX: Final = ".before-token-vault"


class ClientFileRefused(Exception):
    """The file cannot be changed safely. The message is one line that says the fix."""


def backup_of(file: Path) -> Path:
    """The path of the original file's copy."""
    target = file.resolve()  # a link to a file elsewhere stays a link
    return target.with_name(target.name + BACKUP_SUFFIX)


def put(file: Path, *, section: str, name: str, entry: Mapping[str, object]) -> Path | None:
    """Write the entry; the backup's path, None when there was no file before. Raises ClientFileRefused."""
    target, backup = file.resolve(), backup_of(file)
    before = _read(target)
    content = {} if before is None else _parse(target, before)
    entries = _section(target, content, section)
    if before is not None and not backup.exists():
        _replace(backup, before, mode=0o600)
    _replace(target, _render({**content, section: {**entries, name: dict(entry)}}))
    return backup if backup.exists() else None


def take_out(file: Path, *, section: str, name: str) -> str:
    """Undo `put`; returns what was done: `restored`, `removed` or `deleted`. Raises ClientFileRefused."""
    target, backup = file.resolve(), backup_of(file)
    now = _read(target)
    if now is None:
        raise ClientFileRefused(f"{file} doesn't exist: nothing to undo")
    content = _parse(target, now)
    entries = _section(target, content, section)
    if name not in entries:
        raise ClientFileRefused(f"{file} has no entry {name!r}: nothing to undo")
    kept = _read(backup)
    before = {} if kept is None else _parse(backup, kept)
    old = _section(backup, before, section)
    restored = _without(content, section, name)
    if kept is not None and _without(before, section, name) == restored:
        _replace(target, kept)
        outcome = "restored"
    elif kept is None and not restored:
        target.unlink()
        return "deleted"
    else:
        others = {key: value for key, value in entries.items() if key != name}
        _replace(target, _render({**content, section: {**others, **({name: old[name]} if name in old else {})}}))
        outcome = "removed"
    backup.unlink(missing_ok=True)
    return outcome


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ClientFileRefused(f"can't read {path}: {error.strerror}") from error


def _parse(path: Path, content: bytes) -> dict[str, object]:
    if not content.strip():
        return {}
    try:
        found: object = json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ClientFileRefused(
            f"{path} line {error.lineno} isn't plain JSON (comments and trailing commas would be lost): add "
            "the printed entry by hand"
        ) from error
    except UnicodeDecodeError as error:
        raise ClientFileRefused(f"{path} isn't UTF-8: add the printed entry by hand") from error
    if not isinstance(found, dict):
        raise ClientFileRefused(f"{path} doesn't contain a JSON object: add the printed entry by hand")
    return {str(key): value for key, value in found.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- JSON of another program


def _section(path: Path, content: Mapping[str, object], section: str) -> dict[str, object]:
    found = content.get(section, {})
    if not isinstance(found, dict):
        raise ClientFileRefused(f"{path}: {section} isn't an object: add the printed entry by hand")
    return {str(key): value for key, value in found.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- as above


def _without(content: Mapping[str, object], section: str, name: str) -> dict[str, object]:
    """The content without our entry, and without a section that held nothing else."""
    rest = {key: value for key, value in _section(Path(), content, section).items() if key != name}
    out = {key: value for key, value in content.items() if key != section}
    return {**out, section: rest} if rest else out


def _render(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


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
