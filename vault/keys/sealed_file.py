"""A sealed stream of bytes in a file, with a readable but authenticated header. Blocking.

Layout: magic, length and bytes of the header, then chunks, each with its length. A chunk is AES-256-GCM under the
file's own key. The nonce encodes the chunk's number and whether it is the last one; each chunk authenticates the
header. A file that was truncated, reordered, spliced or given another header doesn't open. `FORMATS.md` has the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.envelope import TAG
from vault.refusals import VaultError

MAGIC = b"token-vault backup\x00\x01"
CHUNK = 256 * 1024

_LENGTH = 4
_HEADER_LIMIT = 64 * 1024


class BackupRefused(VaultError):
    """The file is not a backup, is damaged, or belongs to another vault; or the restore would overwrite something."""

    code = "backup_refused"


def _nonce(number: int, *, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if is_last else b"\x00")


class SealedWriter:
    """Seals what is written; without `finish` the file doesn't open."""

    def __init__(self, file: BinaryIO, *, key: bytes, header: bytes) -> None:
        self._file = file
        self._cipher = AESGCM(key)
        self._header = header
        self._number = 0
        self._pending = bytearray()
        file.write(MAGIC + len(header).to_bytes(_LENGTH, "big") + header)

    def write(self, content: bytes) -> None:
        """Append bytes."""
        self._pending += content
        while len(self._pending) > CHUNK:
            self._seal(bytes(self._pending[:CHUNK]), is_last=False)
            del self._pending[:CHUNK]

    def finish(self) -> None:
        """Seal the rest; no write may follow."""
        self._seal(bytes(self._pending), is_last=True)
        self._pending.clear()

    def _seal(self, content: bytes, *, is_last: bool) -> None:
        sealed = self._cipher.encrypt(_nonce(self._number, is_last=is_last), content, self._header)
        self._file.write(len(sealed).to_bytes(_LENGTH, "big") + sealed)
        self._number += 1


def read_header(file: BinaryIO) -> bytes:
    """The header; it is authentic only if the content opens with it. Raises BackupRefused."""
    if file.read(len(MAGIC)) != MAGIC:
        raise BackupRefused("this isn't a Token Vault backup, or a newer version made it")
    length = int.from_bytes(file.read(_LENGTH), "big")
    if not 0 < length <= _HEADER_LIMIT:
        raise BackupRefused("the backup is damaged: use another one", detail="the length of the header is wrong")
    header = file.read(length)
    if len(header) != length:
        raise BackupRefused("the backup is damaged: use another one", detail="the header is cut off")
    return header


def read_content(file: BinaryIO, *, key: bytes, header: bytes) -> Iterator[bytes]:
    """The content after the header, chunk by chunk. Raises BackupRefused at the first byte that was changed."""
    cipher = AESGCM(key)
    number, head = 0, file.read(_LENGTH)
    while True:
        length = int.from_bytes(head, "big")
        damaged = BackupRefused(
            "the backup is damaged: use another one", detail=f"chunk {number} doesn't open or is missing"
        )
        if len(head) != _LENGTH or not TAG <= length <= CHUNK + TAG:
            raise damaged
        sealed = file.read(length)
        if len(sealed) != length:
            raise damaged
        head = file.read(_LENGTH)
        try:
            content = cipher.decrypt(_nonce(number, is_last=not head), sealed, header)
        except InvalidTag as error:
            raise damaged from error
        yield content
        if not head:
            return
        number += 1
