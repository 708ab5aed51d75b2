"""Which API of which provider a program's call is for, by host and path. Pure.

Hosts that no provider here has are none of ours. Addresses that differ by account have no host that could be known
before the account, so programs reach those only through their handles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from providers.definitions.model import Provider

_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """Where programs call one API of a provider: `path` is the beginning of all its paths, without a slash at the end.

    `url` is the same as one text.
    """

    provider: str
    api: str
    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.path}"


class HostMap:
    """The APIs of the providers that a program can reach."""

    def __init__(self, addresses: Iterable[ApiAddress]) -> None:
        self._by_place: dict[tuple[str, int], list[ApiAddress]] = {}
        for one in addresses:
            self._by_place.setdefault((one.host, one.port), []).append(one)

    @property
    def hosts(self) -> frozenset[str]:
        """Their host names, in lower case."""
        return frozenset(host for host, _ in self._by_place)

    @property
    def providers(self) -> frozenset[str]:
        return frozenset(one.provider for found in self._by_place.values() for one in found)

    def address(self, provider: str, api: str) -> str:
        """Where programs call this API: the published address, where there is another one; empty if none is known."""
        found = [
            one for places in self._by_place.values() for one in places if (one.provider, one.api) == (provider, api)
        ]
        return found[-1].url if found else ""

    def at(self, host: str, port: int) -> tuple[ApiAddress, ...]:
        """All APIs at this host."""
        return tuple(self._by_place.get((host.lower(), port), ()))

    def find(self, host: str, port: int, path: str) -> tuple[ApiAddress, ...]:
        """The APIs that this path belongs to: of each provider, the one whose path is the longest."""
        found: dict[str, ApiAddress] = {}
        for one in self.at(host, port):
            if not path.startswith(one.path + "/"):
                continue
            known = found.get(one.provider)
            if known is None or len(known.path) < len(one.path):
                found[one.provider] = one
        return tuple(found.values())


def addresses_of(provider: Provider, *, published: Mapping[str, str] | None = None) -> Iterable[ApiAddress]:
    """Where its APIs are; with `published`, also at the addresses that its file has and settings replace."""
    for api, url in (*provider.apis.items(), *(published or {}).items()):
        parts = urlsplit(url)
        if "{" in url or parts.hostname is None or parts.scheme not in _PORTS or api not in provider.apis:
            continue
        port = parts.port or _PORTS[parts.scheme]
        yield ApiAddress(provider.name, api, parts.scheme, parts.hostname, port, parts.path.rstrip("/"))
