"""Determines the address of a request, and the part of it that limits count.

A forwarded address counts only when the connection comes from a proxy that `server.trusted_proxies` names.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from server.http import request_ids

UNKNOWN = "unknown"
_PREFIX = 64  # bits of an IPv6 address: a customer holds at least a /64 (RFC 6177)


def address_of(request: HTTPConnection) -> str:
    """The peer's IP address, or the one that a trusted proxy forwards for; `unknown` for anything else."""
    found = None if request.client is None else parse_address(request.client.host)
    return UNKNOWN if found is None else str(found)


@lru_cache(maxsize=1024)
def counting_key(address: str) -> str:
    """The unit that limits count for `address`: an IPv6 /64 is one customer; an IPv4 address is one unit."""
    found = parse_address(address)
    if found is None:
        return UNKNOWN
    if isinstance(found, IPv4Address):
        return str(found)
    network = IPv6Address(int(found) >> (128 - _PREFIX) << (128 - _PREFIX))
    return f"{network}/{_PREFIX}"


@lru_cache(maxsize=1024)
def network_of(address: str) -> str:
    """The network of an address, coarse enough for one that changes at its provider: IPv4 /16, IPv6 /32.

    Everything that the internet does not route is one network, `private`: this machine and local networks.
    """
    found = parse_address(address)
    if found is None:
        return UNKNOWN
    if not found.is_global:
        return "private"
    return str(ip_network((found, 16 if isinstance(found, IPv4Address) else 32), strict=False))


def parse_address(address: str) -> IPv4Address | IPv6Address | None:
    """The address without its zone, or None; an IPv4-mapped one (RFC 4291 §2.5.5.2) as the IPv4 address."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def behind_proxies(app: ASGIApp, trusted: tuple[str, ...]) -> ASGIApp:
    """Wrap `app` to see the address that these proxies put last into X-Forwarded-For, and their X-Request-Id.

    For all others: their own address, and no id.
    """
    if not trusted:
        return app
    proxies = ProxyHeadersMiddleware(app, trusted_hosts=list(trusted))  # type: ignore[arg-type] -- uvicorn's names for the same ASGI types

    async def see(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (scope["client"] or ("",))[0] not in proxies.trusted_hosts:
            request_ids.forget(scope)
        await proxies(scope, receive, send)  # type: ignore[arg-type] -- as above

    return see
