"""The servers in `database.url`, and connecting to the one that accepts writes.

Tries several hosts in turn with a head start, the last good one first, so that a stopped or disconnected host delays a
connection by a fraction of a second. Also detects a connection pooler such as PgBouncer, which accepts no session
settings and keeps no session state for its clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import asyncpg

from vault.refusals import StorageUnavailable
from vault.storage.database import Value, split_url

CONNECT_TIMEOUT = 8.0  # seconds; longer than a pooler keeps a client in its queue (`query_wait_timeout`)
HEAD_START = 0.3  # seconds until the next host is tried in parallel with one that hasn't answered
ASK_AGAIN = 1.0  # seconds until a host that refused is tried again while another one stays silent
READ_WRITE = "read-write"
ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    UnicodeEncodeError,  # text that no column can hold
)

# When the answering server was started; differs for each server.
STARTED = "select cast(extract(epoch from pg_postmaster_start_time()) * 1000000 as bigint) as started"
_BEGIN = "begin isolation level read committed"
_WHO = f"{STARTED}, pg_backend_pid() as pid"
_SAID = (asyncpg.PostgresError, asyncpg.TargetServerAttributeNotMatched)
_WRITES = frozenset({READ_WRITE, "primary"})
_EXAMPLE = "postgresql://USER:PASSWORD@HOST1:5432,HOST2:5432/DATABASE?target_session_attrs=read-write"


class Block(Protocol):
    """A transaction of the driver."""

    async def __aenter__(self) -> object: ...
    async def __aexit__(self, kind: object, error: object, traceback: object, /) -> object: ...


class DriverConnection(Protocol):
    """The part of asyncpg's connection that we use; asyncpg declares no types."""

    async def fetch(
        self,
        query: str,
        /,
        *args: Value,
        timeout: float | None = None,  # noqa: ASYNC109  the driver's own
    ) -> Sequence[Mapping[str, Value]]: ...
    async def fetchrow(
        self,
        query: str,
        /,
        *args: Value,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Mapping[str, Value] | None: ...
    async def fetchmany(self, query: str, /, args: Sequence[Sequence[Value]]) -> Sequence[Mapping[str, Value]]: ...
    async def fetchval(self, query: str, /, *args: Value) -> int | None: ...
    async def execute(self, query: str, /, *args: Value, timeout: float | None = None) -> str: ...  # noqa: ASYNC109
    async def executemany(self, command: str, /, args: Sequence[Sequence[Value]], *, timeout: float | None) -> None: ...  # noqa: ASYNC109
    async def prepare(self, query: str, /, *, name: str) -> object: ...
    def transaction(self, *, isolation: str) -> Block: ...
    def is_closed(self) -> bool: ...
    def is_in_transaction(self) -> bool: ...
    def get_server_pid(self) -> int: ...
    async def close(self) -> None: ...
    def terminate(self) -> None: ...


def split_hosts(url: str) -> tuple[str, ...]:
    """One URL per host, each for a server that accepts writes; a URL with one host stays unchanged.

    Raises StorageUnavailable with the fix. Errors count hosts instead of repeating them, because what looks like a host
    may be part of a password with a character that should have been escaped.
    """
    parts = split_url(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    who, at, netloc = parts.netloc.rpartition("@")
    hosts = (netloc or query.get("host", "")).split(",")
    if not netloc and "port" in query:
        ports = query["port"].split(",")
        if len(ports) not in {1, len(hosts)}:
            raise StorageUnavailable(
                f"database.url names {len(hosts)} hosts but {len(ports)} ports: name one port for each host"
            )
    else:
        ports = [""]
    for number, host in enumerate(hosts):
        _check_host(host, number=number + 1, of=len(hosts))
    wanted = query.get("target_session_attrs")
    if wanted is not None and wanted not in _WRITES and (wanted != "any" or len(hosts) > 1):
        raise StorageUnavailable(
            f"database.url: target_session_attrs={wanted} can lead to a read-only server: use "
            f"target_session_attrs={READ_WRITE}"
        )
    if len(hosts) == 1:
        return (url,)
    found: list[str] = []
    for number, host in enumerate(hosts):
        own = query | {"target_session_attrs": wanted or READ_WRITE}
        if not netloc:
            own |= {"host": host} | ({"port": ports[number % len(ports)]} if ports != [""] else {})
        place = f"{who}{at}{host if netloc else ''}"
        found.append(urlunsplit(parts._replace(netloc=place, query=urlencode(own, quote_via=quote))))
    return tuple(found)


def _check_host(host: str, *, number: int, of: int) -> None:
    if of > 1 and not host.strip():
        raise StorageUnavailable(f"database.url: host {number} of {of} has no name: use {_EXAMPLE}")
    if host.startswith("/"):  # a socket's folder
        return
    try:
        urlsplit(f"//{host}")
    except ValueError as error:
        raise StorageUnavailable(
            f"can't read database.url: use {_EXAMPLE}, and escape other characters of the password as %XX"
        ) from error
    port = host.rpartition("]")[2].partition(":")[2]
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise StorageUnavailable(
            f"database.url: the port of host {number} of {of} must be a number from 1 to 65535: use "
            f"{_EXAMPLE}, and escape the characters :/?#[]@% of the password as %XX"
        )


def place_of(url: str) -> str:
    """Hosts and database without user and password."""
    parts = split_url(url)
    return f"{parts.netloc.rpartition('@')[2] or 'its socket'}{parts.path}"


def _seconds_left(until: float) -> float:
    """Seconds until this event loop time; at least a few milliseconds, because asyncpg refuses a timeout of 0."""
    return max(until - asyncio.get_running_loop().time(), 0.005)


@dataclass(slots=True)
class Servers:
    """The servers of one `database.url`. `settings` are the settings that each session of the vault needs."""

    urls: tuple[str, ...] = field(repr=False)  # including their passwords
    settings: Mapping[str, str]
    is_pooled: bool = False  # a pooler is in between, so session state isn't ours
    changes: int = 0  # how often a different server answered; it may hold an older state
    _first: int = 0
    _started: int | None = None

    def note(self, started: object) -> None:
        """Record that the answering server was started at this instant (`STARTED`)."""
        if isinstance(started, int):
            self.changes += self._started not in (None, started)
            self._started = started

    async def connect(self, *, within: float = CONNECT_TIMEOUT, **options: object) -> DriverConnection:
        """A connection to a server that accepts writes, in at most `within` seconds; `options` are asyncpg's.

        Raises the driver's error of the host that got furthest.
        """
        count, until = len(self.urls), asyncio.get_running_loop().time() + within
        if count == 1:
            return await self._connect(0, options, until)
        order = [(self._first + step) % count for step in range(count)]
        chosen, connection = await self._race(order, options, until)
        self._first = chosen
        return connection

    async def _race(
        self, order: Sequence[int], options: Mapping[str, object], until: float
    ) -> tuple[int, DriverConnection]:
        waiting, refused = list(order), list[int]()
        running, errors = dict[asyncio.Task[DriverConnection], int](), list[BaseException]()
        try:
            while waiting or running:
                if waiting:
                    number = waiting.pop(0)
                    running[asyncio.create_task(self._connect(number, options, until))] = number
                patience = HEAD_START if waiting else ASK_AGAIN if refused else None
                done, _ = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    number, error = running.pop(task), task.exception()
                    if error is None:
                        return number, task.result()
                    errors.append(error)
                    refused.append(number)
                if not done and not waiting:  # a standby may have been promoted since
                    waiting, refused = refused, []
            # a server's own error is more useful than a refused connection
            raise next((error for error in errors if isinstance(error, _SAID)), errors[0])
        finally:
            for task in running:
                task.cancel()
            for result in await asyncio.gather(*running, return_exceptions=True):
                if not isinstance(result, BaseException):
                    result.terminate()

    async def _connect(self, number: int, options: Mapping[str, object], until: float) -> DriverConnection:
        try:
            return await self._open(number, options, until)
        except asyncpg.ProtocolViolationError as error:
            if self.is_pooled or "startup parameter" not in str(error):
                raise
        self.is_pooled = True  # PgBouncer refuses settings that it can't keep per client
        return await self._open(number, options, until)

    async def _open(self, number: int, options: Mapping[str, object], until: float) -> DriverConnection:
        own = options.get("server_settings")
        settings: dict[str, object] = {"application_name": "token-vault"}
        settings |= {} if self.is_pooled else self.settings
        if isinstance(own, Mapping) and not self.is_pooled:
            settings |= own  # pyright: ignore[reportUnknownArgumentType] -- a mapping of text, as asyncpg wants it
        connection: DriverConnection = await asyncpg.connect(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportAssignmentType] -- no types
            self.urls[number],
            **{**options, "server_settings": settings, "timeout": _seconds_left(until)},  # pyright: ignore[reportArgumentType] -- as above
        )
        ending = asyncio.get_running_loop().call_at(until, connection.terminate)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] -- as above
        try:
            return await self._recognize(connection, _seconds_left(until) + 1)  # pyright: ignore[reportUnknownArgumentType] -- as above
        except BaseException:
            connection.terminate()  # pyright: ignore[reportUnknownMemberType] -- as above
            raise
        finally:
            ending.cancel()

    async def _recognize(self, connection: DriverConnection, timeout: float) -> DriverConnection:  # noqa: ASYNC109
        """A pooler gives its clients its own process numbers, which reveals one that ignores settings.

        The caller terminates the connection before `timeout` (seconds): at a statement's timeout the driver would open
        another connection to send a cancel request, which adds load to a server that is already slow.
        """
        await connection.execute(_BEGIN, timeout=timeout)  # otherwise a pooler may prepare here, run elsewhere
        row = await connection.fetchrow(_WHO, timeout=timeout)
        await connection.execute("commit", timeout=timeout)
        if row is not None:
            self.note(row["started"])
            self.is_pooled = self.is_pooled or row["pid"] != connection.get_server_pid()
        return connection
