"""The KEK in a file of its own, mode 0600, created on the first run. Back it up separately from the database."""

from __future__ import annotations

import secrets
from pathlib import Path

from vault.keys.sources.local import KEY_LENGTH, LocalKey, LocalKeySource, format_key, parse_key
from vault.keys.sources.private_file import create_private, read_private
from vault.refusals import KeyUnavailable


class FileKeySource(LocalKeySource):
    """Reads the file once, when first needed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    @property
    def fix(self) -> str:
        return f"restore the key file {self._path} that belongs to this database"

    def read(self, *, may_create: bool) -> LocalKey:
        text = read_private(self._path)
        if text is None and may_create:
            create_private(self._path, format_key(secrets.token_bytes(KEY_LENGTH)) + "\n")
            text = read_private(self._path)  # ours, or that of a process that was first
        if text is None:
            raise KeyUnavailable(f"the key file {self._path} is missing: restore it, or correct keys.file")
        return LocalKey(parse_key(text, where=str(self._path)), kind="file")
