"""The KEK in a separate file, mode 0600, created on the first run. Back it up separately from the database.

It has one line per key, and several while the vault moves from one key to the next.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from vault.keys.sources.local import KEY_LENGTH, LocalKey, LocalKeySource, format_key, parse_keys
from vault.keys.sources.private_file import append_private, create_private, read_private
from vault.refusals import KeyUnavailable


class FileKeySource(LocalKeySource):
    """Reads the file each time it is asked."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def fix(self) -> str:
        return f"restore the key file {self._path} that belongs to this database"

    def describe(self) -> str:
        return str(self._path)

    def read(self) -> tuple[LocalKey, ...]:
        text = read_private(self._path)
        if text is None:
            raise KeyUnavailable(f"the key file {self._path} is missing: restore it, or correct keys.file")
        return parse_keys(text, where=str(self._path), kind="file")

    def first(self) -> tuple[LocalKey, ...]:
        if read_private(self._path) is None:
            create_private(self._path, _new_line())  # or another process is first, and its key is used
        return self.read()

    def add(self) -> tuple[LocalKey, ...]:
        append_private(self._path, _new_line())
        return self.read()


def _new_line() -> str:
    return format_key(secrets.token_bytes(KEY_LENGTH)) + "\n"
