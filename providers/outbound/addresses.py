"""Which addresses an outbound request may reach: pure rules over URLs and IP addresses.

`providers.outbound.client` applies them twice, to the URL as written and to every address that a name resolves to; it
also looks up names and connects.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import urlsplit

from yarl import URL

# Not public, from the IANA special-purpose registries. 168.63.129.16 is public, but on Azure the host agent answers.
_REFUSED_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# Only global unicast is allowed, which excludes ULA, link-local, multicast, v4-mapped and NAT64.
_GLOBAL_V6 = IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments; Teredo (2001::/32) carries an IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4 carries an IPv4 address
        "3fff::/20",
    )
)
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)*")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
URL_LIMIT = 8192


# What an operator can allow for one provider: the networks of organizations (RFC 1918, RFC 6598, RFC 4193).
_PRIVATE_V4 = tuple(IPv4Network(one) for one in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
_PRIVATE_V6 = IPv6Network("fc00::/7")
# Cloud metadata addresses (a machine's own credentials) inside private networks; the others are link-local.
_METADATA = frozenset(ipaddress.ip_address(address) for address in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200"))
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """What is allowed in addition to public addresses over https: nothing, or the sandbox's loopback (then also http).
    For one provider, an operator can allow private addresses (those that the names in `private_hosts` resolve to, and
    those in `private_networks`), and trust the certificate authority in a PEM file in addition to the system's.
    """

    allow_loopback: bool = False
    private_hosts: frozenset[str] = frozenset()  # lowercase
    private_networks: tuple[Network, ...] = ()
    ca_file: str | None = None


PUBLIC_ONLY = AddressPolicy()


def policy_for_host_of(url: str) -> AddressPolicy:
    """The policy for an address in the operator's settings: its own host is allowed, wherever that is."""
    host = (urlsplit(url).hostname or "").lower()
    return AddressPolicy(allow_loopback=is_loopback_host(host), private_hosts=frozenset({host}))


def private_network(text: str) -> Network | None:
    """A network, or one address, that can be allowed; None for a name. Raises ValueError for any other text."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        if _HOST.fullmatch(text) is None or _NUMERIC_LABEL.fullmatch(text.rsplit(".", 1)[-1]) is not None:
            raise ValueError(f"{text!r} is neither a host name nor a network such as 10.20.0.0/16") from None
        if is_loopback_host(text) or text.lower().endswith(".localhost"):
            raise ValueError(f"{text!r} is this machine, not a private network") from None
        return None
    if isinstance(network, IPv4Network):
        is_private = any(network.subnet_of(one) for one in _PRIVATE_V4)
    else:
        is_private = network.subnet_of(_PRIVATE_V6)
    if not is_private:
        known = ", ".join(str(one) for one in (*_PRIVATE_V4, _PRIVATE_V6))
        raise ValueError(f"{text} isn't inside a private network: {known}")
    return network


def address_problem(address: str, policy: AddressPolicy, *, host: str = "") -> str | None:
    """Why this IP address may not be connected to; None when it may. `host` is the name that resolved to it."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "not an IP address"
    if policy.allow_loopback and parsed.is_loopback:
        return None
    return None if _is_public(parsed) or _is_allowed(parsed, policy, host.lower()) else "not a public address"


def _is_allowed(address: IPv4Address | IPv6Address, policy: AddressPolicy, host: str) -> bool:
    """Whether the operator allowed this private address. Addresses of cloud metadata, which give out credentials, never
    are."""
    if address in _METADATA:
        return False
    if isinstance(address, IPv4Address):
        is_private = any(address in network for network in _PRIVATE_V4)
    else:
        is_private = address.scope_id is None and address in _PRIVATE_V6
    if not is_private:
        return False
    return host in policy.private_hosts or any(address in network for network in policy.private_networks)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    if address.scope_id is not None or address not in _GLOBAL_V6:
        return False
    return not any(address in network for network in _REFUSED_V6)


@lru_cache(maxsize=1024)
def url_problem(url: str, policy: AddressPolicy) -> str | None:
    """Why this URL may not be requested, before any name is looked up; None when it may.

    Uses the HTTP client's own parser, so that two parsers can't disagree about the host.
    """
    if len(url) > URL_LIMIT or _PRINTABLE.fullmatch(url) is None or "\\" in url:
        return "not a plain absolute URL"
    try:
        parsed = URL(url, encoded=True)
        host, port = parsed.raw_host, parsed.port
    except ValueError:
        return "not a plain absolute URL"
    if not host or not parsed.absolute:
        return "not a plain absolute URL"
    if parsed.raw_user is not None or parsed.raw_password is not None or "@" in parsed.raw_authority:
        return "contains a user name or password"
    if port == 0:
        return "port 0"
    problem = _host_problem(host, policy)
    if problem is not None:
        return problem
    if parsed.scheme == "https" or (parsed.scheme == "http" and policy.allow_loopback and is_loopback_host(host)):
        return None
    return "not https"


def matching_host(url: str, hosts: Iterable[str]) -> str | None:
    """The one of these hosts that this URL is at; None if it is at another one.

    `*.files.example` matches all names below it. A host without a port is meant with the scheme's own port.
    """
    try:
        parsed = URL(url, encoded=True)
        place = (parsed.raw_host or "").lower()
        if not parsed.is_default_port():
            place = f"{place}:{parsed.port}"
    except ValueError:
        return None
    return next((one for one in sorted(hosts) if place == one or (one[:2] == "*." and place.endswith(one[1:]))), None)


@lru_cache(maxsize=1024)
def _host_problem(host: str, policy: AddressPolicy) -> str | None:
    if ":" in host:
        return address_problem(host, policy)
    if _HOST.fullmatch(host) is None:
        return "not a valid host name"
    if _NUMERIC_LABEL.fullmatch(host.rsplit(".", 1)[-1]) is not None:
        # 2130706433, 0x7f.1, 0177.0.0.1, 127.1: resolvers read them as addresses, so only the plain form is allowed.
        return address_problem(host, policy)
    if (host.lower() == "localhost" or host.lower().endswith(".localhost")) and not policy.allow_loopback:
        return "not a public address"
    return None


@lru_cache(maxsize=1024)
def is_loopback_host(host: str) -> bool:
    """Whether a host as written means this machine: `localhost`, 127.0.0.0/8 or ::1."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
