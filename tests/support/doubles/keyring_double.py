"""A keyring in a file in place of the operating system's, and one that stores nothing (PYTHON_KEYRING_BACKEND)."""

from __future__ import annotations

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError, PasswordSetError


class Keyring(KeyringBackend):
    priority = 5

    def _read(self) -> dict[str, str]:
        file = Path(os.environ["KEYRING_DOUBLE"])
        return json.loads(file.read_text()) if file.exists() else {}

    def _write(self, entries: dict[str, str]) -> None:
        Path(os.environ["KEYRING_DOUBLE"]).write_text(json.dumps(entries))

    def get_password(self, service: str, username: str) -> str | None:
        return self._read().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        if len(password.encode("utf-16-le")) > 2560:  # as Windows
            raise PasswordSetError("too long")
        self._write(self._read() | {f"{service}/{username}": password})

    def delete_password(self, service: str, username: str) -> None:
        entries = self._read()
        if entries.pop(f"{service}/{username}", None) is None:
            raise PasswordDeleteError("there is none")
        self._write(entries)


class RefusingKeyring(Keyring):
    def set_password(self, service: str, username: str, password: str) -> None:
        raise PasswordSetError("locked for good")
