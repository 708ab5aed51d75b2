"""Receivers for `activity export --to`: syslog over TCP or TLS, or an OpenTelemetry collector."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from providers.outbound.addresses import policy_for_host_of
from providers.outbound.messages import HttpError, OutboundRequest

if TYPE_CHECKING:
    from providers.outbound.client import Outbound

_PATIENCE: Final = 15.0  # seconds for a connection, and for an answer
_ANSWER_LIMIT: Final = 64 * 1024  # bytes
_PORTS: Final = {"tcp": 601, "tls": 6514}  # RFC 6587 §3.2, RFC 5425 §4.1
FORMAT_OF: Final = {"tcp": "syslog", "tls": "syslog", "http": "otlp", "https": "otlp"}


class NotReceived(Exception):
    """The receiver didn't accept the events. The message is one line."""


class Receiver(Protocol):
    """A receiver of lines in its format."""

    async def send(self, lines: Sequence[str]) -> int:
        """Send the lines in order; returns how many were permanently refused. After a failure, all may be sent again.

        Raises NotReceived.
        """
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


def receiver_at(address: str, http: Outbound) -> Receiver:
    """The receiver at `tcp://HOST:PORT`, `tls://HOST:PORT`, or a collector's address. Raises ValueError."""
    parts = urlsplit(address)
    if parts.scheme not in FORMAT_OF or not parts.hostname:
        raise ValueError("use tcp://HOST:PORT or tls://HOST:PORT for syslog, or the http(s) address of a collector")
    if parts.scheme in _PORTS:
        port = parts.port or _PORTS[parts.scheme]
        return SyslogReceiver(parts.hostname, port, is_tls=parts.scheme == "tls")
    return OtlpReceiver(address if parts.path.strip("/") else f"{address.rstrip('/')}/v1/logs", http)


class SyslogReceiver:
    """Sends messages framed by length (RFC 6587 §3.4.1, over TLS RFC 5425 §4.3). Their arrival isn't confirmed."""

    def __init__(self, host: str, port: int, *, is_tls: bool) -> None:
        self._host = host
        self._port = port
        self._context = ssl.create_default_context() if is_tls else None
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether there is no connection, or the receiver closed it."""
        return self._open is None or self._open[0].at_eof()

    async def send(self, lines: Sequence[str]) -> int:
        """Write the messages, on a new connection if the last one was closed."""
        encoded = [line.encode() for line in lines]
        try:
            async with asyncio.timeout(_PATIENCE):
                if self._open is None or self.is_closed:
                    await self.close()
                    self._open = await asyncio.open_connection(self._host, self._port, ssl=self._context)
                writer = self._open[1]
                writer.write(b"".join(b"%d %s" % (len(one), one) for one in encoded))
                await writer.drain()
        except (OSError, TimeoutError) as error:
            await self.close()
            raise NotReceived(f"{self._host}:{self._port} can't be reached: {error or 'no answer'}") from error
        return 0

    async def close(self) -> None:
        """Close the connection after flushing it."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


class OtlpReceiver:
    """Posts to a collector's `/v1/logs` (OTLP/HTTP, JSON)."""

    def __init__(self, url: str, http: Outbound) -> None:
        self._url = url
        self._http = http
        self._policy = policy_for_host_of(url)

    async def send(self, lines: Sequence[str]) -> int:
        """Send all in one request. Records that a partial success left out must not be sent again."""
        logs = [one for line in lines for one in json.loads(line)["resourceLogs"]]
        request = OutboundRequest(
            "POST",
            self._url,
            headers={"Content-Type": "application/json", "User-Agent": "token-vault"},
            body=json.dumps({"resourceLogs": logs}, separators=(",", ":")).encode(),
            timeout=_PATIENCE,
            max_bytes=_ANSWER_LIMIT,
            policy=self._policy,
            peer="collector",
        )
        try:
            answer = await self._http.send(request)
        except HttpError as error:
            raise NotReceived(f"{self._url} didn't answer: {error.reason}") from error
        if answer.status >= 300:
            raise NotReceived(f"{self._url} answered with status {answer.status}")
        return _count_rejected(answer.json_content())

    async def close(self) -> None:
        """Do nothing, since no connection is kept open."""


def _count_rejected(content: object) -> int:
    """The number of records that a partial success left out (OTLP specification, "Partial Success")."""
    partial: object = content.get("partialSuccess") if isinstance(content, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] -- parsed JSON
    count: object = partial.get("rejectedLogRecords", 0) if isinstance(partial, dict) else 0  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] -- parsed JSON
    return int(count) if isinstance(count, int | str) and str(count).isdigit() else 0
