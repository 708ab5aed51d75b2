"""Determines the address of a request, and the part of it that rate limits apply to.

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
    return UNKNOWN if request.client is None else _as_written(request.client.host)


@lru_cache(maxsize=1024)
def _as_written(host: str) -> str:
    """The address in its usual form; `unknown` if it isn't one."""
    found = parse_address(host)
    return UNKNOWN if found is None else str(found)


@lru_cache(maxsize=1024)
def counting_key(address: str) -> str:
    """What rate limits count `address` as: an IPv6 address by its /64, which is one customer, an IPv4 address whole."""
    found = parse_address(address)
    if found is None:
        return UNKNOWN
    if isinstance(found, IPv4Address):
        return str(found)
    network = IPv6Address(int(found) >> (128 - _PREFIX) << (128 - _PREFIX))
    return f"{network}/{_PREFIX}"


@lru_cache(maxsize=1024)
def network_of(address: str) -> str:
    """The network of an address (IPv4 /16, IPv6 /32), coarse enough to stay the same if a provider changes the address.

    All addresses that aren't routed on the internet (this machine, local networks) are one network, `private`.
    """
    found = parse_address(address)
    if found is None:
        return UNKNOWN
    if not found.is_global:
        return "private"
    return str(ip_network((found, 16 if isinstance(found, IPv4Address) else 32), strict=False))


def parse_address(address: str) -> IPv4Address | IPv6Address | None:
    """The address without its zone, or None; an IPv4-mapped address (RFC 4291 §2.5.5.2) becomes the IPv4 address."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def behind_proxies(app: ASGIApp, trusted: tuple[str, ...]) -> ASGIApp:
    """Wrap `app` to use the last address in these proxies' X-Forwarded-For, and their X-Request-Id.

    For all other peers, it uses their own address and drops their id.
    """
    if not trusted:
        return app
    proxies = ProxyHeadersMiddleware(app, trusted_hosts=list(trusted))  # type: ignore[arg-type] -- uvicorn's names for the same ASGI types

    async def see(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (scope["client"] or ("",))[0] not in proxies.trusted_hosts:
            request_ids.forget(scope)
        await proxies(scope, receive, send)  # type: ignore[arg-type] -- as above

    return see
