"""Check that an event is in the signed activity of a Token Vault, without the vault. Needs `pip install cryptography`.

    python check_activity_proof.py PROOF KEY [WITNESS_KEY]

PROOF is a file from `token-vault activity prove`, KEY the key from `token-vault activity keys` that you got from the
vault's operator beforehand, WITNESS_KEY the verifier key of a witness that you trust.
"""

import hashlib
import json
import sys
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class NotProved(Exception):
    """The proof doesn't hold."""


def hash_node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that a path from a leaf leads to (RFC 9162, section 2.1.3.2)."""
    if index >= size:
        raise NotProved("the event isn't in the checkpoint")
    found, at, last = hashlib.sha256(b"\x00" + leaf).digest(), index, size - 1
    for sibling in path:
        if last == 0:
            raise NotProved("the path is too long")
        if at % 2 or at == last:
            found = hash_node(sibling, found)
            while at and at % 2 == 0:
                at, last = at // 2, last // 2
        else:
            found = hash_node(found, sibling)
        at, last = at // 2, last // 2
    if last:
        raise NotProved("the path is too short")
    return found


def check_signature(text: str, signatures: list[str], key: str) -> int | None:
    """Check the key's signature of a note; when it was made, if a witness made it (C2SP signed-note, cosignature)."""
    name, number, encoded = key.split("+", 2)
    kind, public = b64decode(encoded)[0], b64decode(encoded)[1:]
    for line in signatures:
        dash, signer, value = line.split(" ")
        made = b64decode(value)
        if dash != "—" or signer != name or made[:4].hex() != number:
            continue
        message, at = text.encode(), None
        if kind == 4:
            at, made = int.from_bytes(made[4:12], "big"), made[8:]
            message = f"cosignature/v1\ntime {at}\n".encode() + message
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(made[4:], message)
        except InvalidSignature:
            raise NotProved(f"the signature of {name} is forged") from None
        return at
    raise NotProved(f"{name} didn't sign this checkpoint with the key {number}")


def check(proof: str, key: str, witness: str | None = None) -> str:
    """What was proved, in words."""
    head, _, note = proof.partition("\n\n")
    kind, extra, index, *path = head.split("\n")
    if kind != "c2sp.org/tlog-proof@v1":
        raise NotProved("this file isn't a proof")
    text, _, signatures = note.rpartition("\n\n")
    origin, size, root = f"{text}\n".split("\n")[:3]
    if origin != key.split("+")[0]:
        raise NotProved(f"this is a proof from another log than the key's: {origin}")
    lines = signatures.strip().split("\n")
    check_signature(f"{text}\n", lines, key)
    seen = None if witness is None else check_signature(f"{text}\n", lines, witness)
    leaf = b64decode(extra.removeprefix("extra "))
    if root_of(leaf, int(index.removeprefix("index ")), int(size), [b64decode(one) for one in path]) != b64decode(root):
        raise NotProved("the event was changed, or it was never in this log")
    event = json.loads(leaf[16:])  # after the salt: tenant, number, time, kind, outcome, ids of user, agent and account
    when = datetime.fromtimestamp(event[2], UTC).isoformat()
    told = f"Proved: event {event[1]} of {origin}, {event[3]} ({event[4]}) at {when}.\n{leaf[16:].decode()}"
    return told if seen is None else f"{told}\nWitnessed at {datetime.fromtimestamp(seen, UTC).isoformat()}."


if __name__ == "__main__":
    proof_file, *given = sys.argv[1:] if len(sys.argv) in {3, 4} else sys.exit(__doc__)
    try:
        keys = [one.split()[-1] for one in given]  # a whole line of `activity keys` ends with the key
        print(check(Path(proof_file).read_text(encoding="utf-8"), *keys))
    except (NotProved, OSError) as error:
        sys.exit(f"NOT PROVED: {error}")
    except (ValueError, IndexError):
        sys.exit("NOT PROVED: the file isn't a proof, or the key isn't a verifier key")
