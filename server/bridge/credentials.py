"""Stored credentials of a sign-in at a remote vault: in the system's keyring, or in a file that only its owner can
read.

One process at a time renews them, under a lock that the operating system releases when its holder ends. Calls here
block, since a keyring may prompt the person.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from server.bridge.address import RemoteVault
from server.bridge.refusals import BridgeRefused
from vault.keys.sources.private_file import read_private
from vault.storage.host_files import lock, sync

_SERVICE: Final = "token-vault"
_LOOK: Final = 0.05  # seconds between checks whether the lock is free
_PASSING: Final = frozenset({"access_token", "expires_at"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """An agent's registration at the vault, and its person's tokens."""

    client_id: str
    registration_url: str = ""
    registration_token: str = field(default="", repr=False)  # RFC 7592; empty for a client that was configured
    refresh_token: str = field(default="", repr=False)
    access_token: str = field(default="", repr=False)
    expires_at: int = 0

    def without_tokens(self) -> Credentials:
        """The registration without tokens."""
        return replace(self, refresh_token="", access_token="", expires_at=0)


class CredentialStore(Protocol):
    """The place where processes share credentials."""

    @property
    def place(self) -> str:
        """A description for the person."""
        ...

    def load(self) -> Credentials | None: ...

    def save(self, credentials: Credentials) -> None: ...

    def erase(self) -> None: ...


def credential_store(data: Path, vault: RemoteVault) -> CredentialStore:
    """The keyring if there is one, otherwise a file in the data directory."""
    path = data / "remote" / f"{vault.name}.json"
    try:
        import keyring  # an optional dependency; some of its backends are slow to load
    except ImportError:
        return FileStore(path, why="the keyring package isn't installed: pip install 'mcp-token-vault[keyring]'")
    file = FileStore(path, why="this machine has no usable keyring")
    return KeyringStore(file, account=vault.account) if keyring.get_keyring().priority >= 1 else file


class FileStore:
    """A file with mode 0600 in a folder with mode 0700."""

    def __init__(self, path: Path, *, why: str) -> None:
        self._path = path
        self._why = why

    @property
    def place(self) -> str:
        return f"{self._path}, which only you can read ({self._why})"

    def load(self) -> Credentials | None:
        text = read_private(self._path)
        return None if text is None else _parse(text)

    def save(self, credentials: Credentials) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    json.dump(asdict(credentials), file)
                    file.flush()
                    sync(file.fileno())
                temporary.replace(self._path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise BridgeRefused(f"can't write {self._path}: {error.strerror}") from error

    def erase(self) -> None:
        self._path.unlink(missing_ok=True)


class KeyringStore:
    """The keyring, in two entries: Windows takes 2560 bytes per entry. Falls back to the file if it refuses."""

    def __init__(self, file: FileStore, *, account: str) -> None:
        self._file = file
        self._account = account
        self._is_refusing = False

    @property
    def place(self) -> str:
        return self._file.place if self._is_refusing else "the keyring of this machine"

    def load(self) -> Credentials | None:
        import keyring
        from keyring.errors import KeyringError

        try:
            lasting = keyring.get_password(_SERVICE, self._account)
            passing = keyring.get_password(_SERVICE, f"{self._account} access") if lasting else None
        except KeyringError as error:
            raise BridgeRefused("can't open the keyring of this machine: unlock it and try again") from error
        if lasting is None:
            return self._file.load()
        return _parse(lasting, passing or "{}")

    def save(self, credentials: Credentials) -> None:
        import keyring
        from keyring.errors import KeyringError

        members = asdict(credentials)
        lasting = {name: value for name, value in members.items() if name not in _PASSING}
        try:
            keyring.set_password(_SERVICE, self._account, json.dumps(lasting))
            passing = {name: members[name] for name in sorted(_PASSING)}
            keyring.set_password(_SERVICE, f"{self._account} access", json.dumps(passing))
        except KeyringError:
            self._is_refusing = True
            self._forget()  # otherwise an old entry would be read before the file
            self._file.save(credentials)
        else:
            self._file.erase()

    def erase(self) -> None:
        self._forget()
        self._file.erase()

    def _forget(self) -> None:
        import keyring
        from keyring.errors import KeyringError

        for account in (self._account, f"{self._account} access"):
            with suppress(KeyringError):  # also raised if there is none
                keyring.delete_password(_SERVICE, account)


def _parse(*texts: str) -> Credentials | None:
    """Credentials in this version's format; anything else counts as none, so that the person signs in again."""
    members: dict[str, object] = {}
    try:
        for text in texts:
            content: object = json.loads(text)
            if isinstance(content, dict):
                members |= {str(name): value for name, value in content.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- json.loads
    except ValueError:
        return None
    client_id, expires_at = members.get("client_id"), members.get("expires_at", 0)
    if not isinstance(client_id, str) or not client_id or not isinstance(expires_at, int):
        return None
    known = ("registration_url", "registration_token", "refresh_token", "access_token")
    return Credentials(client_id, *(str(members.get(name) or "") for name in known), expires_at=expires_at)


@asynccontextmanager
async def one_at_a_time(data: Path, vault: RemoteVault, *, on_wait: Callable[[], None]) -> AsyncGenerator[None]:
    """Allow only one process of this agent in the block. `on_wait` is called once if another process is in it."""
    path = data / "remote" / f"{vault.name}.lock"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BridgeRefused(f"can't write {path}: {error.strerror}") from error
    try:
        if not _is_taken(descriptor):
            on_wait()
            while not _is_taken(descriptor):  # noqa: ASYNC110 -- another process holds it
                await asyncio.sleep(_LOOK)
        yield
    finally:
        os.close(descriptor)  # also releases the lock


def _is_taken(descriptor: int) -> bool:
    try:
        lock(descriptor)
    except BlockingIOError:
        return False
    return True
