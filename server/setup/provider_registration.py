"""Writes our registration at a provider or an issuer: the secret to a file, the settings into the settings file.

Keeps everything that it replaces until the setup is undone. `server.setup.settings_file` edits the settings file;
`server.setup.provider_consoles` has the values for a provider's console.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from server.setup.settings_file import Setting, names_in, values_of, with_values

KEYS: Final = ("client_id", "client_secret", "client_secret_file", "testing")
SIGN_IN: Final = ("sign_in", "openid")
SIGN_IN_KEYS: Final = ("issuer", "client_id", "client_secret", "client_secret_file", "title", "create_users", "domains")


class NothingToUndo(Exception):
    """No setup of this provider is recorded. The message is one line."""


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one provider's registration.

    `config` is the settings file, `data` the data directory, `section` its place in the settings.
    """

    config: Path
    data: Path
    provider: str
    section: tuple[str, ...] = ("providers",)
    keys: tuple[str, ...] = KEYS

    @property
    def _stem(self) -> str:
        return self.provider if self.section == ("providers",) else f"{'-'.join(self.section)}-{self.provider}"

    @property
    def secret(self) -> Path:
        return self.data / f"{self._stem}.secret"

    @property
    def kept_secret(self) -> Path:
        return self.data / f"{self._stem}.secret.before-setup"

    @property
    def backup(self) -> Path:
        return self.config.with_name(f"{self.config.name}.before-{self._stem}-setup")

    @property
    def memory(self) -> Path:
        """Contains the digest of the written content, or a dash if the file has been changed since."""
        return self.data / f"{self._stem}.setup"

    @property
    def table(self) -> tuple[str, ...]:
        return (*self.section, self.provider)


def write(
    files: Files,
    *,
    values: Mapping[str, Setting],
    client_secret: str | None,
    inputs: Mapping[str, str] | None = None,
) -> None:
    """Write the registration; without a secret, removes an existing one. Raises ConfigFileRefused."""
    old = _text(files.config)
    stored: dict[str, Setting] = {
        **values,
        "client_secret": None,
        "client_secret_file": None if client_secret is None else str(files.secret),
    }
    new = with_values(old or "", files.table, stored)
    if inputs:
        new = with_values(new, (*files.table, "inputs"), dict(inputs))
    _remember(files, old=old, new=new)
    if client_secret is not None:
        _put(files.secret, client_secret + "\n")
    elif files.secret.exists():
        files.secret.unlink()
    _put(files.config, new)


def undo(files: Files) -> None:
    """Undo the last setup: restore the settings file, or only this provider's values if the file has changed since.

    Raises NothingToUndo.
    """
    written = _text(files.memory)
    if written is None:
        raise NothingToUndo(f"no setup of {files.provider} to undo in {files.data}")
    now, before = _text(files.config) or "", _text(files.backup)
    if written != _digest(now):
        for table, keys in (
            (files.table, files.keys),
            ((*files.table, "inputs"), names_in(now, (*files.table, "inputs"))),
        ):
            earlier = values_of(before or "", table, keys)
            now = with_values(now, table, {key: earlier.get(key) for key in keys})
        _put(files.config, now)
    elif before is not None:
        _put(files.config, before)
    else:
        files.config.unlink(missing_ok=True)
    if files.kept_secret.exists():
        files.kept_secret.replace(files.secret)
    else:
        files.secret.unlink(missing_ok=True)
    files.backup.unlink(missing_ok=True)
    files.memory.unlink()


def _remember(files: Files, *, old: str | None, new: str) -> None:
    """Keep the state before the first of several setups; later ones only update the record of what they wrote."""
    written = _text(files.memory)
    if written is None:
        if old is not None:
            _put(files.backup, old)
        if files.secret.exists():
            _put(files.kept_secret, files.secret.read_text(encoding="utf-8"))
    is_ours = written is None or written == _digest(old or "")
    _put(files.memory, _digest(new) if is_ours else "-")


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode()  # line ends unchanged
    except FileNotFoundError:
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _put(path: Path, content: str) -> None:
    """Replace the file in one step; only its owner may read it."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    fresh.touch(mode=0o600, exist_ok=False)
    try:
        fresh.write_bytes(content.encode())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
