"""Signed notes, checkpoints, cosignatures and proofs as text: the C2SP formats signed-note, tlog-checkpoint,
tlog-cosignature and tlog-proof. Pure functions only.

https://c2sp.org/signed-note defines a signature line. Signatures are Ed25519 (RFC 8032); a verifier key is
`NAME+ID+KEY`, with the ID in 8 hex digits and the type and the 32 bytes of the key in base64.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from vault.classes.immutable import immutable

ED25519 = 1
COSIGNATURE = 4
LONGEST = 64 * 1024  # characters of a note
_DASH = "— "
_PROOF = "c2sp.org/tlog-proof@v1"


class NoteRefused(Exception):
    """A note with the wrong format or an invalid signature; `description` says which."""

    def __init__(self, description: str) -> None:
        super().__init__(description)
        self.description = description


@immutable
class Verifier:
    """A public key by its name; `kind` is ED25519 or COSIGNATURE."""

    name: str
    public: bytes
    kind: int = ED25519

    @property
    def id(self) -> bytes:
        """4 bytes that name the key."""
        return hashlib.sha256(f"{self.name}\n".encode() + bytes([self.kind]) + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{b64encode(bytes([self.kind]) + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """A verifier key as `str` writes it. Raises NoteRefused."""
        name, _, rest = text.strip().partition("+")
        number, _, encoded = rest.partition("+")
        key = _decode(encoded)
        found = cls(name, key[1:], int.from_bytes(key[:1], "big"))
        if not _is_name(name) or found.kind not in {ED25519, COSIGNATURE} or len(found.public) != 32:
            raise NoteRefused("a verifier key must be NAME+ID+KEY, with an Ed25519 key")
        if found.id.hex() != number.lower():
            raise NoteRefused("the ID of a verifier key doesn't match its name and key")
        return found


@immutable
class Signature:
    """A signature line: `key_id` of 4 bytes, then the signature."""

    name: str
    key_id: bytes
    value: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {b64encode(self.key_id + self.value).decode()}"

    @classmethod
    def parse(cls, line: str) -> Signature:
        """Raises NoteRefused."""
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        value = _decode(encoded)
        if not line.startswith(_DASH) or not _is_name(name) or len(value) < 5:
            raise NoteRefused("a signature line doesn't have the format of a signed note")
        return cls(name, value[:4], value[4:])


@immutable
class Note:
    """A signed text; `text` ends with a newline."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return f"{self.text}\n" + "".join(f"{one}\n" for one in self.signatures)

    @classmethod
    def parse(cls, note: str) -> Note:
        """Raises NoteRefused."""
        text, gap, lines = note.rpartition("\n\n")
        has_controls = any(letter < " " and letter != "\n" for letter in note)
        if not gap or not text or not note.endswith("\n") or has_controls or len(note) > LONGEST:
            raise NoteRefused("this isn't a signed note")
        return cls(f"{text}\n", tuple(Signature.parse(line) for line in lines.split("\n")[:-1]))

    def signed_by(self, verifiers: Iterable[Verifier]) -> tuple[Verifier, ...]:
        """The keys that signed it; signatures of unknown keys are ignored. Raises NoteRefused at an invalid
        signature."""
        known = {(one.name, one.id): one for one in verifiers}
        found: list[Verifier] = []
        for signature in self.signatures:
            verifier = known.get((signature.name, signature.key_id))
            if verifier is not None:
                _check(verifier, signature, self.text)
                found.append(verifier)
        return tuple(found)


@immutable
class TreeHead:
    """The text of a checkpoint: which log, how many leaves, and their root (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> TreeHead:
        """Raises NoteRefused."""
        lines = text.split("\n")
        if len(lines) < 4 or not lines[0] or not lines[1].isdecimal() or len(lines[1]) > 18:
            raise NoteRefused("this isn't a checkpoint")
        found = cls(lines[0], int(lines[1]), _decode(lines[2]))
        if len(found.root) != 32 or str(found.size) != lines[1]:
            raise NoteRefused("this isn't a checkpoint")
        return found


def sign(text: str, *, name: str, key: Ed25519PrivateKey) -> Signature:
    """Sign a note's text."""
    verifier = Verifier(name, key.public_key().public_bytes_raw())
    return Signature(name, verifier.id, key.sign(text.encode()))


def cosigned_at(signature: Signature) -> int:
    """When a witness signed, in seconds."""
    return int.from_bytes(signature.value[:8], "big")


def write_proof(*, index: int, path: Sequence[bytes], note: Note, extra: bytes) -> str:
    """A proof that a leaf is in the checkpointed tree; `extra` is the leaf's data (https://c2sp.org/tlog-proof)."""
    lines = [_PROOF, f"extra {b64encode(extra).decode()}", f"index {index}", *(b64encode(one).decode() for one in path)]
    return "".join(f"{line}\n" for line in lines) + f"\n{note}"


def _check(verifier: Verifier, signature: Signature, text: str) -> None:
    value, message = signature.value, text.encode()
    if verifier.kind == COSIGNATURE:
        message = f"cosignature/v1\ntime {cosigned_at(signature)}\n".encode() + message
        value = value[8:]
    try:
        Ed25519PublicKey.from_public_bytes(verifier.public).verify(value, message)
    except InvalidSignature as error:
        raise NoteRefused(f"the signature of {verifier.name} is wrong") from error


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(letter.isspace() for letter in name)


def _decode(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise NoteRefused("a note's base64 doesn't decode") from error
