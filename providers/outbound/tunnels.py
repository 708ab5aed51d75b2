"""A plain connection to a host that somebody else named, to checked addresses only. What passes is not looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from providers.outbound.addresses import AddressPolicy, address_problem
from providers.outbound.lookups import BoundedLookup
from providers.outbound.messages import AddressRefused, NotReached

_PATIENCE: Final = 15.0  # seconds for one connection
_lookup: Final = BoundedLookup()


async def open_tunnel(
    host: str, port: int, *, policy: AddressPolicy
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the host. Raises AddressRefused, or NotReached where nobody answers."""
    try:
        async with asyncio.timeout(_PATIENCE):
            addresses = await _lookup(host, port)
            for address in addresses:  # one bad address spoils the name, as for the other outbound calls
                if address_problem(address, policy, host=host) is not None:
                    raise AddressRefused("address not allowed")
            return await _connect(addresses, port)
    except TimeoutError as error:
        raise NotReached("connecting took too long") from error
    except OSError as error:
        raise NotReached("couldn't connect") from error


async def _connect(addresses: Sequence[str], port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    failure = OSError("no address")
    for address in addresses:
        try:
            return await asyncio.open_connection(address, port)
        except OSError as error:
            failure = error
    raise failure
