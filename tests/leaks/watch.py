"""A watch over this process: it notes every secret that is made and everything that is output.

Output means log records at DEBUG in both of our formats, spans, Prometheus metrics, the contents of refusals, the
`repr` of our records, HTTP answers, and files, including those of PostgreSQL servers. `may_be_told` lists the answers
whose purpose is to return a secret.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import pytest
from joserfc import jwt
from starlette.types import Message, Receive, Scope, Send

from providers.simulator.state.keys import Keys
from server.http import edge
from server.oauth.rules import OAuthError
from server.runtime import logs
from tests.leaks.canaries import Canaries, Sighting
from tests.leaks.purposes import IDENTIFIERS, is_ours, may_be_told
from tests.leaks.server_files import ServerFiles
from tests.support.doubles.upstream_double import UpstreamDouble
from vault import spans, tickets
from vault.keys import passwords
from vault.keys.sources.local import LocalKey
from vault.refusals import VaultError
from vault.storage import sqlite

ROOT = Path(__file__).parents[2]
SECRET_SIZE = 20  # bytes; shorter random values are identifiers
REPRS = 200  # per class between two searches


class Collector(logging.Handler):
    """Writes each record as the product would, in both formats."""

    def __init__(self, write: Callable[[str, str], None]) -> None:
        super().__init__(logging.DEBUG)
        self._write = write
        self._forms = (logs.JsonRecords(), logs._Lines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self.addFilter(logs._NoForeignDetails())

    def emit(self, record: logging.LogRecord) -> None:
        for form in self._forms:
            self._write(f"log of {record.name}", form.format(record))


class _NotedSpan:
    """A span that keeps what was recorded."""

    def __init__(self, attributes: dict[str, spans.Attribute]) -> None:
        self.attributes = dict(attributes)
        self.inner: spans.Span | None = None

    def note(self, **attributes: spans.Attribute) -> None:
        self.attributes |= attributes
        if self.inner is not None:
            self.inner.note(**attributes)


class Watch:
    """Collects secrets, and finds them in the output.

    `includes_keys`: also people's keys and the root secret, which are stored wrapped. As bytes, they are searched one
    by one, so not in the whole suite.
    """

    def __init__(self, *, includes_keys: bool = False) -> None:
        self._includes_keys = includes_keys
        self.canaries = Canaries()
        self.looked_at: Counter[str] = Counter()  # how much was searched, by kind
        self._texts: dict[tuple[str, str | bytes], None] = {}  # in order, each once
        self._told: dict[tuple[str, str, bytes], None] = {}
        self._reprs: Counter[type] = Counter()
        self._makers: dict[type, Callable[..., None]] = {}  # constructors of the watched classes
        self._files: dict[Path, tuple[int, int]] = {}
        self.folders: set[Path] = set()  # of the SQLite vaults that were opened
        self.servers: list[ServerFiles] = []

    # output

    def text(self, place: str, content: str | bytes) -> None:
        """Note output that must not contain any secret."""
        self._texts.setdefault((place, content))

    def note_answer(self, path: str, part: str, content: bytes) -> None:
        """Note part of an answer: a header (by its name), or the body."""
        self._told.setdefault((path, part, content))

    def look(self, folders: Iterable[Path] = ()) -> list[Sighting]:
        """Search the output since the last search, and what changed in the folders."""
        found: list[Sighting] = []
        texts, told = list(self._texts), list(self._told)
        self._texts.clear()
        self._told.clear()
        self._reprs.clear()
        for place, content in texts:
            self.looked_at[place.split(" of ")[0]] += 1
            found += self.canaries.find(content, place)
        for path, part, content in told:
            self.looked_at["answer"] += 1
            found += [
                sighting
                for sighting in self.canaries.find(content, f"{part} of {path}")
                if not may_be_told(sighting.kind, part, path)
            ]
        for folder in folders:
            for path in self._changed_files(folder):
                self.looked_at["file"] += 1
                found += self.canaries.find(path.read_bytes(), f"file {path.name}")
        for server in self.servers:
            for part, content in server.changes():
                self.looked_at[f"PostgreSQL's {part}"] += 1
                found += self.canaries.find(content, f"PostgreSQL's {part}")
        return found

    def _changed_files(self, folder: Path) -> Generator[Path]:
        for where, _, names in os.walk(folder):
            for name in names:
                path = Path(where, name)
                if path.is_symlink() or not path.is_file() or not is_ours(path):
                    continue
                stat = path.stat()
                seen = (stat.st_mtime_ns, stat.st_size)
                if self._files.get(path) != seen:
                    self._files[path] = seen
                    yield path

    # noting

    @contextmanager
    def install(self) -> Generator[Watch]:
        """Note everything in this process until the block ends."""
        with pytest.MonkeyPatch.context() as patch:
            self._watch_makers(patch)
            self._watch_vaults(patch)
            self._watch_ways_out(patch)
            yield self
        spans.listen(None)
        for kind, make in self._makers.items():
            kind.__init__ = make
        self._makers.clear()

    @contextmanager
    def watch_logs(self) -> Generator[None]:
        """Note log records at DEBUG, whatever levels a test sets."""
        handler, root, ours = Collector(self.text), logging.getLogger(), logging.getLogger("token_vault")
        level = ours.level
        root.addHandler(handler)
        ours.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            root.removeHandler(handler)
            ours.setLevel(level)

    def _watch_makers(self, patch: pytest.MonkeyPatch) -> None:
        made_text, sign, user_code = secrets.token_urlsafe, jwt.encode, tickets.new_user_code
        hash_password, upstream_name, make_key = passwords.hash_password, UpstreamDouble._name, Keys.make

        def token_urlsafe(nbytes: int | None = None) -> str:
            value = made_text(nbytes)
            if (nbytes or 32) >= SECRET_SIZE:
                place = _maker()
                if place not in IDENTIFIERS:
                    self.canaries.add(f"{place} {nbytes or 32}", value)
            return value

        def encode(*arguments: object, **options: object) -> str:
            token = sign(*arguments, **options)
            self.canaries.add_signed("a signed token", token)
            return token

        def new_user_code() -> str:
            code = user_code()
            self.canaries.add("a user code", code)
            return code

        async def note_and_hash(password: str) -> str:
            if len(password) >= 12:
                self.canaries.add("a password", password)
            return await hash_password(password)

        def _name(double: UpstreamDouble, kind: str) -> str:
            name = upstream_name(double, kind)
            self.canaries.add("an upstream token", name)
            return name

        def make(keys: Keys, account: str) -> str:
            key = make_key(keys, account)
            self.canaries.add("an entered key", key)
            return key

        def wrap(master: LocalKey, key: bytes, context: bytes) -> bytes:
            if self._includes_keys:
                self.canaries.add("a wrapped key", key)
            return wrap_key(master, key, context)

        wrap_key = LocalKey.wrap
        patch.setattr(LocalKey, "wrap", wrap)
        patch.setattr(Keys, "make", make)
        patch.setattr(secrets, "token_urlsafe", token_urlsafe)
        patch.setattr(jwt, "encode", encode)
        patch.setattr(tickets, "new_user_code", new_user_code)
        patch.setattr(passwords, "hash_password", note_and_hash)
        patch.setattr(UpstreamDouble, "_name", _name)

    def _watch_vaults(self, patch: pytest.MonkeyPatch) -> None:
        prepare = sqlite.prepare

        def note_and_prepare(stores: sqlite.SqliteFiles) -> object:
            self.folders.add(stores.vault.parent)
            return prepare(stores)

        patch.setattr(sqlite, "prepare", note_and_prepare)

    def _watch_ways_out(self, patch: pytest.MonkeyPatch) -> None:
        listen, answer = spans.listen, edge.Edge.__call__

        def listen_and_note(listener: spans.Listener | None) -> None:
            listen(lambda name, attributes, parent: self._span(listener, name, attributes, parent))

        async def call(app: edge.Edge, scope: Scope, receive: Receive, send: Send) -> None:
            body = bytearray()

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    for name, value in message["headers"]:
                        self.note_answer(scope["path"], name.decode("latin-1"), value)
                elif message["type"] == "http.response.body":
                    body.extend(message.get("body", b""))
                await send(message)

            try:
                await answer(app, scope, receive, send_and_note)
            finally:
                if scope["type"] == "http":
                    self.note_answer(scope["path"], "body", bytes(body))

        for kind in (VaultError, OAuthError):
            patch.setattr(kind, "__init__", self._wrap_refusal(kind.__init__))
        patch.setattr(edge.Edge, "__call__", call)
        patch.setattr(spans, "listen", listen_and_note)
        listen_and_note(None)

    def _wrap_refusal(self, refuse: Callable[..., None]) -> Callable[..., None]:
        def refuse_and_note(error: VaultError | OAuthError, *arguments: object, **options: object) -> None:
            refuse(error, *arguments, **options)
            self.text("refusal", f"{error!r} {error} {error.detail}")

        return refuse_and_note

    @contextmanager
    def _span(
        self, listener: spans.Listener | None, name: str, attributes: dict[str, spans.Attribute], parent: object
    ) -> Generator[spans.Span]:
        noted = _NotedSpan(attributes)
        try:
            if listener is None:
                yield noted
            else:
                with listener(name, attributes, parent) as inner:
                    noted.inner = inner
                    yield noted
        finally:
            self.text("span", f"{name} {noted.attributes}")

    def watch_reprs(self) -> None:
        """From now on, note the `repr` of new records of our loaded classes."""
        for name, module in list(sys.modules.items()):
            if not name.startswith(("vault.", "server.", "providers.")) or name.startswith("providers.simulator"):
                continue
            for found in list(vars(module).values()):
                if isinstance(found, type) and dataclasses.is_dataclass(found) and found.__module__ == name:
                    self._watch_repr(found)

    def _watch_repr(self, kind: type) -> None:
        if kind in self._makers or kind.__repr__ is object.__repr__:
            return
        make: Callable[..., None] = kind.__init__
        self._makers[kind] = make

        def make_and_note(record: object, *arguments: object, **options: object) -> None:
            make(record, *arguments, **options)
            if self._reprs[kind] < REPRS and type(record) is kind:
                self._reprs[kind] += 1
                self.text(f"repr of {kind.__name__}", repr(record))

        kind.__init__ = make_and_note


def _maker() -> str:
    """Our file that made the secret; never this file, because two watches may be installed."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path != Path(__file__) and path.is_relative_to(ROOT) and ".venv" not in path.parts:
            return path.relative_to(ROOT).as_posix()
        frame = frame.f_back
    return "a library"
