"""The secrets of a run, and where they occur in a text or file: verbatim, in base64, in hex, URL-encoded.

A long secret is recognized by its first and last 20 characters, so that a shortened one is found, too. The lookup takes
one step per character, regardless of the number of secrets.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus

WIDTH = 20
FEW = 3  # different characters of the filler of a long text, which any test may use
_RUN = re.compile(rb"[A-Za-z0-9+/_=%.~-]{20,}")
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+")


@dataclass(frozen=True)
class Canary:
    """One secret. `kind` says what it is or where it was made."""

    kind: str
    value: bytes = field(repr=False)


@dataclass(frozen=True)
class Sighting:
    """A secret where it doesn't belong."""

    kind: str
    form: str
    place: str
    around: str

    def __str__(self) -> str:
        return f"{self.kind}, {self.form}, in {self.place}: {self.around}"


def forms_of(value: bytes) -> Iterator[tuple[str, bytes]]:
    """The ways to write the secret. Base64 depends on the secret's position in a longer text."""
    yield "as it is", value
    yield "hex", value.hex().encode()
    yield "HEX", value.hex().upper().encode()
    for before in range(3):
        for form, written in (
            ("base64", base64.b64encode(b"\0" * before + value)),
            ("base64url", base64.urlsafe_b64encode(b"\0" * before + value)),
        ):
            # only the characters that depend on the secret alone
            first, last = -(-8 * before // 6), (8 * (before + len(value))) // 6
            yield form, written[first:last]
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return
    if not _PLAIN.fullmatch(text):
        yield "URL-encoded", quote(text, safe="").encode()
        yield "URL-encoded", quote_plus(text).encode()


class Canaries:
    """All secrets of a run."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()
        self._pieces: dict[bytes, tuple[str, Canary]] = {}
        self._short: dict[bytes, tuple[str, Canary]] = {}  # searched one by one

    def __len__(self) -> int:
        return len(self._known)

    def add(self, kind: str, secret: str | bytes) -> None:
        """Add a secret of at least eight characters; shorter ones could be words."""
        value = secret.encode() if isinstance(secret, str) else secret
        if len(value) < 8 or value in self._known:
            return
        self._known.add(value)
        canary = Canary(kind, value)
        for form, written in forms_of(value):
            if len(written) >= WIDTH and _RUN.fullmatch(written):
                for piece in (written[:WIDTH], written[-WIDTH:]):
                    if len(set(piece)) > FEW:
                        self._pieces.setdefault(piece, (form, canary))
            elif len(written) >= 8:
                self._short.setdefault(written, (form, canary))

    def add_signed(self, kind: str, token: str) -> None:
        """Add a signed token by its signature, because header and claims aren't secret."""
        self.add(kind, token.rpartition(".")[2])

    def find(self, content: str | bytes, place: str) -> list[Sighting]:
        """Find the secrets in the content, each once."""
        data = content.encode(errors="surrogatepass") if isinstance(content, str) else content
        found: dict[bytes, Sighting] = {}
        for run in _RUN.finditer(data):
            start, end = run.span()
            for at in range(start, end - WIDTH + 1):
                known = self._pieces.get(data[at : at + WIDTH])
                if known is not None:
                    found.setdefault(known[1].value, _make_sighting(known, data, at, place))
        for written, known in tuple(self._short.items()):  # other threads keep making secrets
            if (at := data.find(written)) >= 0:
                found.setdefault(known[1].value, _make_sighting(known, data, at, place))
        return list(found.values())


def _make_sighting(known: tuple[str, Canary], data: bytes, at: int, place: str) -> Sighting:
    form, canary = known
    before = data[max(0, at - 120) : at].decode("latin-1")
    return Sighting(canary.kind, form, place, f"...{' '.join(before.split())}[secret]")
