"""Find the provider and API of a program's call by host and path.

Hosts that belong to no provider here aren't handled. A part of a host that differs by account, as in
`s3.{region}.amazonaws.com`, matches one label or a part of it; `access` checks that the account is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from providers.definitions.catalog import is_shipped, load_catalog
from providers.definitions.model import Provider
from server.deployment import Deployment
from vault import shared_connections
from vault.records import Event, Principal

HOST_REFUSED: Final = "host_refused"
_PORTS: Final = {"https": 443, "http": 80}
_PLACEHOLDER: Final = re.compile(r"\{[A-Za-z0-9_]+\}")


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """Where programs call one API of a provider. `path` is the prefix of all its paths, without a trailing slash.

    `url` is the whole address.
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

    @property
    def is_pattern(self) -> bool:
        return "{" in self.host

    @property
    def domain(self) -> str:
        """The domain for its certificates: the host, or the suffix that is the same for all accounts."""
        return self.host.rpartition("}")[2].partition(".")[2] if self.is_pattern else self.host


class HostMap:
    """The APIs of the providers that a program can reach."""

    def __init__(self, addresses: Iterable[ApiAddress]) -> None:
        self._all = tuple(addresses)
        self._by_place: dict[tuple[str, int], list[ApiAddress]] = {}
        self._patterns: list[tuple[re.Pattern[str], ApiAddress]] = []
        for one in self._all:
            if one.is_pattern:
                self._patterns.append((_pattern(one.host), one))
            else:
                self._by_place.setdefault((one.host, one.port), []).append(one)

    def __iter__(self) -> Iterator[ApiAddress]:
        return iter(self._all)

    @property
    def domains(self) -> frozenset[str]:
        """The domains for certificates of its hosts, in lowercase."""
        return frozenset(one.domain for one in self._all)

    @property
    def providers(self) -> frozenset[str]:
        return frozenset(one.provider for one in self._all)

    def address(self, provider: str, api: str) -> str:
        """Where programs call this API: the published address if there is a different one; empty if none is known."""
        found = [one for one in self._all if (one.provider, one.api) == (provider, api) and not one.is_pattern]
        return found[-1].url if found else ""

    def at(self, host: str, port: int) -> tuple[ApiAddress, ...]:
        """All APIs at this host."""
        name = host.lower()
        patterns = (
            replace(one, host=name)
            for pattern, one in self._patterns
            if one.port == port and pattern.fullmatch(name) is not None
        )
        return (*self._by_place.get((name, port), ()), *patterns)

    def find(self, host: str, port: int, path: str) -> tuple[ApiAddress, ...]:
        """The APIs that this path belongs to: for each provider, the one with the longest path."""
        found: dict[str, ApiAddress] = {}
        for one in self.at(host, port):
            if not path.startswith(one.path + "/"):
                continue
            known = found.get(one.provider)
            if known is None or len(known.path) < len(one.path):
                found[one.provider] = one
        return tuple(found.values())


async def hosts_of(deployment: Deployment, principal: Principal) -> HostMap:
    """The APIs of the providers that are set up here, or that the person has accounts at."""
    usable = await shared_connections.usable_by(deployment.database, principal.user_id, now=deployment.now())
    with_accounts = {one.provider for one in usable}
    catalog = deployment.catalog
    chosen = [one for one in catalog if _is_set_up(one) or one.name in with_accounts]
    known = {one.name for one in chosen}
    chosen += [found for name in sorted(with_accounts - known) if (found := catalog.get(name)) is not None]
    return host_map(deployment, [one for one in chosen if not one.is_remote])


def host_map(deployment: Deployment, chosen: Iterable[Provider]) -> HostMap:
    """The APIs of these providers, also at their published addresses if a simulator replaces them."""
    published, simulated = load_catalog(), deployment.settings.sandbox.loopback_upstreams
    return HostMap(
        address
        for one in chosen
        for address in addresses_of(
            one, published=published.provider(one.name).apis if simulated and is_shipped(one.name) else None
        )
    )


def note_host(
    deployment: Deployment, principal: Principal, host: str, port: int, *, code: str = "", tool: str = ""
) -> None:
    """Record that a program called a host that belongs to no account; `code`: why it was refused."""
    more = {name: value for name, value in (("tool", tool), ("code", code)) if value}
    event = Event(
        "program.called",
        outcome="refused" if code else "ok",
        user_id=principal.user_id,
        client_id=principal.client_id,
        details={"host": host[:253], "port": port, **more},
    )
    activity = deployment.activity
    (activity.note_refusal if code else activity.note)(event)


def _is_set_up(provider: Provider) -> bool:
    return provider.registration.client_id is not None or (
        provider.credential is not None and provider.registration.is_on
    )


def addresses_of(provider: Provider, *, published: Mapping[str, str] | None = None) -> Iterator[ApiAddress]:
    """Where its APIs are; with `published`, also at the addresses that its file has and settings replace.

    Excludes those with a host or path prefix that is entirely account-specific.
    """
    for api, url in (*provider.apis.items(), *(published or {}).items()):
        scheme, _, rest = url.partition("://")
        host, slash, path = rest.partition("/")
        if scheme not in _PORTS or api not in provider.apis or "{" in path:
            continue
        if "{" in host:
            found = ApiAddress(provider.name, api, scheme, host, _PORTS[scheme], f"{slash}{path}".rstrip("/"))
            if ":" not in host and "." in found.domain:
                yield found
            continue
        parts = urlsplit(url)
        port = parts.port or _PORTS[scheme]
        yield ApiAddress(provider.name, api, scheme, parts.hostname or "", port, parts.path.rstrip("/"))


def _pattern(host: str) -> re.Pattern[str]:
    parts = _PLACEHOLDER.split(host)
    return re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?".join(re.escape(part) for part in parts))
