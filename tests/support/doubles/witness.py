"""A small witness of its own (https://c2sp.org/tlog-witness): it cosigns whatever continues the tree that it saw last.
It shares no code with the vault's own notes and trees, so that it reveals mistakes there.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.support.harness import free_socket, serve_app

NAME = "witness.test/one"


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def is_consistent(old: int, size: int, before: bytes, whole: bytes, path: Sequence[bytes]) -> bool:
    """Whether a consistency proof holds (RFC 9162 §2.1.4.2)."""
    if old in {0, size}:
        return not path and (old == 0 or before == whole)
    if not path or not 0 < old < size:
        return False
    rest = list(path) if old & (old - 1) else [before, *path]
    at, last = old - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = rest[0]
    for one in rest[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = _node(one, first), _node(one, second)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            second = _node(second, one)
        at, last = at >> 1, last >> 1
    return first == before and second == whole and last == 0


@dataclass
class Witness:
    """What it knows: each log's public key by origin, and the size and root that it cosigned last.

    `spoil` changes what it answers.
    """

    keys: dict[str, list[bytes]] = field(default_factory=dict)
    seen: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    url: str = ""
    spoil: Callable[[str], str] = str

    @property
    def verifier(self) -> str:
        public = b"\x04" + self.key.public_key().public_bytes_raw()
        number = hashlib.sha256(f"{NAME}\n".encode() + public).digest()[:4]
        return f"{NAME}+{number.hex()}+{b64encode(public).decode()}"

    def trust(self, verifier: str) -> None:
        """Trust a log's verifier key."""
        name, _, encoded = verifier.split("+", 2)
        self.keys.setdefault(name, []).append(b64decode(encoded)[1:])

    async def answer(self, request: Request) -> Response:
        head, _, note = (await request.body()).decode().partition("\n\n")
        old_line, *lines = head.split("\n")
        old, path = int(old_line.removeprefix("old ")), [b64decode(line) for line in lines]
        text, _, signatures = note.rpartition("\n\n")
        origin, count, encoded = f"{text}\n".split("\n")[:3]
        size, whole = int(count), b64decode(encoded)
        if origin not in self.keys:
            return Response(status_code=404)
        if not any(self._holds(f"{text}\n", line, origin) for line in signatures.splitlines()):
            return Response(status_code=403)
        if old > size:
            return Response(status_code=400)
        known, before = self.seen.get(origin, (0, b""))
        if old != known or (known == size and before != whole):
            return PlainTextResponse(f"{known}\n", status_code=409, headers={"content-type": "text/x.tlog.size"})
        if not is_consistent(old, size, before, whole, path):
            return Response(status_code=422)
        self.seen[origin] = (size, whole)
        return PlainTextResponse(self.spoil(self.cosign(f"{text}\n", at=1_800_000_000)))

    def cosign(self, text: str, *, at: int) -> str:
        value = at.to_bytes(8, "big") + self.key.sign(f"cosignature/v1\ntime {at}\n{text}".encode())
        number = bytes.fromhex(self.verifier.split("+")[1])
        return f"— {NAME} {b64encode(number + value).decode()}\n"

    def _holds(self, text: str, line: str, origin: str) -> bool:
        _, name, encoded = line.split(" ")
        for public in self.keys[origin] if name == origin else ():
            try:
                Ed25519PublicKey.from_public_bytes(public).verify(b64decode(encoded)[4:], text.encode())
            except InvalidSignature:
                continue
            return True
        return False


@asynccontextmanager
async def running_witness() -> AsyncGenerator[Witness]:
    """Run one on loopback, at `url`."""
    witness = Witness()
    listening = free_socket()
    witness.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    routes = [Route("/add-checkpoint", witness.answer, methods=["POST"])]
    async with serve_app(Starlette(routes=routes), listening):
        yield witness
