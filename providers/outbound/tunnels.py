"""A plain connection to a host that someone else named, only to checked addresses. Its content isn't read."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

from providers.outbound.addresses import AddressPolicy, address_problem, is_loopback_host
from providers.outbound.lookups import BoundedLookup
from providers.outbound.messages import AddressRefused, NotReached

_PATIENCE: Final = 15.0  # seconds for one connection
_lookup: Final = BoundedLookup()


async def open_tunnel(
    host: str, port: int, *, policy: AddressPolicy, proxy: str | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the host, through the operator's `proxy` if there is one, except to this machine.

    The proxy gets the checked address, as for other calls. Raises AddressRefused, or NotReached if no one answers.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            addresses = await _lookup(host, port)
            for address in addresses:  # one bad address disqualifies the name, as for other outbound calls
                if address_problem(address, policy, host=host) is not None:
                    raise AddressRefused("address not allowed")
            if proxy is None or is_loopback_host(host):
                return await _connect(addresses, port)
            return await _connect_through(proxy, addresses[0], port)
    except TimeoutError as error:
        raise NotReached("connecting took too long") from error
    except OSError as error:
        raise NotReached("couldn't connect") from error


async def _connect_through(proxy: str, address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A tunnel (CONNECT, RFC 9110 §9.3.6)."""
    parts = urlsplit(proxy)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    is_open = False
    try:
        writer.write(_head(f"[{address}]:{port}" if ":" in address else f"{address}:{port}", proxy))
        await writer.drain()
        answer = await reader.readuntil(b"\r\n\r\n")
        is_open = answer.split(maxsplit=2)[1:2] == [b"200"]
    except (EOFError, asyncio.LimitOverrunError) as error:
        raise NotReached("the outbound proxy refused") from error
    finally:
        if not is_open:
            writer.close()
    if not is_open:
        raise NotReached("the outbound proxy refused")
    return reader, writer


def _head(target: str, proxy: str) -> bytes:
    parts = urlsplit(proxy)
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {b64encode(pair.encode()).decode()}")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


async def _connect(addresses: Sequence[str], port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    failure = OSError("no address")
    for address in addresses:
        try:
            return await asyncio.open_connection(address, port)
        except OSError as error:
            failure = error
    raise failure
