"""Read and create files that only their owner may read. Refuses symbolic links and loose modes (V-06)."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from vault.refusals import KeyUnavailable
from vault.storage.host_files import sync

_LIMIT = 64 * 1024


def read_private(path: Path) -> str | None:
    """The text, or None when there is no file. Raises KeyUnavailable when others could read it too."""
    try:
        # O_NONBLOCK: a named pipe put in its place must not stop the start
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        cause = "is a symbolic link: name the file itself" if path.is_symlink() else f"can't be read: {error.strerror}"
        raise KeyUnavailable(f"{path} {cause}") from error
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise KeyUnavailable(f"{path} isn't a regular file: name the file itself")
        if facts.st_mode & 0o077:
            raise KeyUnavailable(f"other users of this machine can read {path}: run chmod 600 {path}")
        if facts.st_uid not in {os.geteuid(), 0}:
            raise KeyUnavailable(f"another user owns {path}: chown it to the user that runs the vault")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(_LIMIT + 1)
    finally:
        os.close(descriptor)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise KeyUnavailable(f"{path} doesn't contain text") from error


def create_private(path: Path, text: str) -> bool:
    """Create the file, complete and durable in one step; False when one already exists."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                sync(file.fileno())
            try:
                os.link(temporary, path)  # so that two first starts can't overwrite each other
            except FileExistsError:
                return False
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        sync_folder(path.parent)
    except OSError as error:
        raise KeyUnavailable(f"can't write {path}: {error.strerror}") from error
    return True


def append_private(path: Path, line: str) -> None:
    """Add a line to a file that `read_private` accepts; durable on return. Raises KeyUnavailable."""
    text = read_private(path)
    start = "" if not text or text.endswith("\n") else "\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _append_whole(descriptor, (start + line).encode())
            sync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise KeyUnavailable(
            f"can't write {path}: {error.strerror}. Add a line with a new key to it yourself (openssl rand -base64 32)"
        ) from error


def _append_whole(descriptor: int, content: bytes) -> None:
    """Write everything in one call, or nothing. Raises OSError."""
    before = os.fstat(descriptor).st_size
    written = os.write(descriptor, content)
    if written != len(content):
        os.ftruncate(descriptor, before)
        sync(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sync_folder(folder: Path) -> None:
    """Make the file names in a folder durable, as `fsync` does for their bytes. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)
