"""Files for other programs, encrypted to an operator's key with age (age-encryption.org/v1), and decrypted."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pyrage

from providers.definitions.file_errors import reason_of

FORMAT: Final = "token-vault-accounts"
_Recipient = pyrage.x25519.Recipient | pyrage.ssh.Recipient
_Identity = pyrage.x25519.Identity | pyrage.ssh.Identity


class SealRefused(Exception):
    """A key that can't be used, or a file that it can't decrypt; the text may be shown."""


def seal(content: bytes, *, recipients: tuple[str, ...]) -> bytes:
    """The content, encrypted to each of these recipients. Raises SealRefused."""
    return pyrage.encrypt(content, [_recipient(one) for one in recipients])


def _recipient(text: str) -> _Recipient:
    kind = pyrage.ssh.Recipient if text.startswith("ssh-") else pyrage.x25519.Recipient
    try:
        return kind.from_str(text.strip())
    except pyrage.RecipientError as error:
        raise SealRefused(f"{text[:80]} isn't an age recipient: use the output of age-keygen -y") from error


def open_sealed(content: bytes, *, identity: Path) -> bytes:
    """The decrypted content. `identity` is a file from age-keygen, or an SSH key. Raises SealRefused."""
    try:
        keys = _identities(identity.read_bytes())
        return pyrage.decrypt(content, keys)
    except OSError as error:
        raise SealRefused(f"can't read the key {identity}: {reason_of(error)}") from error
    except (UnicodeDecodeError, pyrage.IdentityError) as error:
        raise SealRefused(f"{identity} isn't a key: use a file from age-keygen, or an SSH key") from error
    except pyrage.DecryptError as error:
        raise SealRefused(f"it isn't a file that the key {identity} decrypts") from error


def _identities(content: bytes) -> list[_Identity]:
    if content.startswith(b"-----BEGIN"):
        return [pyrage.ssh.Identity.from_buffer(content)]
    lines = (line.strip() for line in content.decode().splitlines())
    return [pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
