"""The catalogue of upstream services: reads provider files, built in and the operator's own, and checks them.

A file that does not make sense is refused with one line: file, field, mend. What a file may say is
`providers.provider`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from yarl import URL

from providers.address import AddressPolicy, is_loopback_host, url_problem
from providers.provider import Provider, Registration

__all__ = ["Catalog", "Provider", "ProviderFileRefused", "ProviderOverrides", "check_file", "load_catalog"]

BUILT_IN: Final = Path(__file__).parent
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_FIELD_PATH = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


class ProviderFileRefused(Exception):
    """A provider file, or an address set for it, does not make sense. One line that says what to mend."""


@dataclass(frozen=True, slots=True)
class ProviderOverrides:
    """What the operator sets for one provider: our registration there, and addresses other than the file's."""

    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    authorize_url: str | None = None
    token_url: str | None = None
    refresh_url: str | None = None
    revoke_url: str | None = None
    userinfo_url: str | None = None
    apis: Mapping[str, str] = field(default_factory=dict[str, str])
    scopes: frozenset[str] | None = None  # no token ever carries more
    testing: bool = False  # our app there is not published yet
    is_loopback: bool = False  # our redirect address is on this machine


class Catalog:
    """All providers by name and alias, in the order of their names."""

    def __init__(self, providers: Sequence[Provider]) -> None:
        self._providers = {provider.name: provider for provider in sorted(providers, key=lambda found: found.name)}
        self._aliases = {alias: provider.name for provider in providers for alias in provider.aliases}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._providers)

    def __iter__(self) -> Iterator[Provider]:
        return iter(self._providers.values())

    def get(self, name: str) -> Provider | None:
        """The provider of that name or alias."""
        return self._providers.get(self._aliases.get(name, name))

    def provider(self, name: str) -> Provider:
        """The provider of that name or alias. KeyError when there is none."""
        return self._providers[self._aliases.get(name, name)]

    def resolve(self, name: str) -> tuple[Provider, frozenset[str]]:
        """The provider, and the scopes that connecting it under this name asks for. KeyError when there is none."""
        provider = self.provider(name)
        return provider, provider.aliases.get(name, provider.scope.default)


def load_catalog(folders: Sequence[Path] = (), overrides: Mapping[str, ProviderOverrides] | None = None) -> Catalog:
    """The built-in providers and those of `folders`; a file of a later folder takes the place of an earlier one.

    Raises ProviderFileRefused with one line.
    """
    found: dict[str, tuple[Path, Provider]] = {}
    for folder in (BUILT_IN, *folders):
        if not folder.is_dir():
            raise ProviderFileRefused(f"{folder}: there is no such folder; create it or correct provider_folders")
        for path in sorted(folder.glob("*.toml")):
            provider, problems = _read(path)
            if provider is None or problems:
                raise ProviderFileRefused(problems[0])
            found[provider.name] = (path, provider)
    providers: list[Provider] = []
    for name, (_, provider) in found.items():
        providers.append(_overridden(provider, (overrides or {}).get(name)))
    for name in overrides or {}:
        if name not in found:
            known = ", ".join(sorted(found))
            raise ProviderFileRefused(f"providers.{name}: there is no provider file of that name; known: {known}")
    _check_names(found)
    return Catalog(providers)


def check_file(path: Path) -> list[str]:
    """Every problem of one provider file, one line each; empty when it can be used."""
    return _read(path)[1]


def _check_names(found: Mapping[str, tuple[Path, Provider]]) -> None:
    taken: dict[str, str] = {name: name for name in found}
    for name, (path, provider) in found.items():
        for alias in provider.aliases:
            if alias in taken:
                raise ProviderFileRefused(f"{path.name}: aliases.{alias}: already means {taken[alias]}; choose another")
            taken[alias] = name


def _read(path: Path) -> tuple[Provider | None, list[str]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        return None, [f"{path.name}: cannot be read: {error.__class__.__name__}; make it a readable UTF-8 file"]
    except tomllib.TOMLDecodeError as error:
        return None, [f"{path.name}: not TOML: {error}; correct that line"]
    try:
        provider = Provider.model_validate(content)
    except ValidationError as error:
        return None, [f"{path.name}: {line}" for line in _in_words(error)]
    problems = [f"{path.name}: {line}" for line in _problems(provider, stem=path.stem)]
    return provider, problems


def _in_words(error: ValidationError) -> Iterator[str]:
    for found in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in found["loc"]) or "file"
        match found["type"]:
            case "missing":
                yield f"{where}: missing; add it"
            case "extra_forbidden":
                yield f"{where}: there is no such field; remove it or correct its spelling"
            case _:
                yield f"{where}: {found['msg'][:1].lower()}{found['msg'][1:]}; correct it"


def _problems(provider: Provider, *, stem: str) -> Iterator[str]:
    if provider.name != stem:
        yield f"name: {provider.name!r} is not the file's name; call the file {provider.name}.toml"
    yield from _address_problems(provider)
    yield from _scope_problems(provider)
    yield from _identity_problems(provider)
    for index, rule in enumerate(provider.rules):
        where = f"rules.{index}"
        if rule.api not in provider.apis:
            yield f"{where}.api: unknown API {rule.api!r}; add it under [apis]"
        for parameter, pattern in rule.where.items():
            try:
                re.compile(pattern)
            except re.error:
                yield f"{where}.where.{parameter}: not a regular expression; correct it"
    if len(provider.scope.separator) != 1:
        yield "scope.separator: must be one character; correct it"
    ends = provider.response.grant_expires
    if ends is not None and _FIELD_PATH.fullmatch(ends) is None:
        yield f"response.grant_expires: {ends!r} is not a path like expires.grant; correct it"
    for name, path in provider.response.keep.items():
        if _FIELD_PATH.fullmatch(path) is None:
            yield f"response.keep.{name}: {path!r} is not a path like team.id; correct it"


def _addresses(provider: Provider) -> Iterator[tuple[str, str]]:
    hosts = provider.hosts
    yield "hosts.authorize_url", hosts.authorize_url
    yield "hosts.token_url", hosts.token_url
    for name, url in (("refresh_url", hosts.refresh_url), ("revoke_url", hosts.revoke_url)):
        if url is not None:
            yield f"hosts.{name}", url
    if provider.identity.url is not None:
        yield "identity.url", provider.identity.url
    for key, url in provider.apis.items():
        yield f"apis.{key}", url


def _address_problems(provider: Provider) -> Iterator[str]:
    loopback: dict[bool, str] = {}
    for where, url in _addresses(provider):
        problem = url_problem(url, AddressPolicy(allow_loopback=True))
        if problem is not None:
            yield f"{where}: {problem}; give an absolute https URL"
            continue
        parsed = URL(url, encoded=True)
        if parsed.raw_fragment or (where.startswith("apis.") and parsed.raw_query_string):
            yield f"{where}: has a query or fragment; remove it"
        loopback.setdefault(is_loopback_host(parsed.raw_host or ""), where)
    if len(loopback) == 2:
        yield f"{loopback[True]}: on this machine while {loopback[False]} is not; override all of them or none"


def _scope_problems(provider: Provider) -> Iterator[str]:
    known = set(provider.scopes) | provider.always_granted
    named: list[tuple[str, frozenset[str]]] = [("scope.default", provider.scope.default)]
    named += [(f"aliases.{alias}", scopes) for alias, scopes in provider.aliases.items()]
    named += [(f"scopes.{name}.covers", scope.covers) for name, scope in provider.scopes.items()]
    for index, rule in enumerate(provider.rules):
        named += [(f"rules.{index}.scopes", rule.scopes), (f"rules.{index}.inseparable", rule.inseparable)]
    for where, scopes in named:
        for scope in sorted(scopes - known):
            yield f"{where}: unknown scope {scope!r}; add it under [scopes]"
    for name in provider.scopes:
        if any(name in provider.covers.get(other, ()) for other in provider.covers.get(name, ())):
            yield f"scopes.{name}.covers: covers itself in a circle; remove one step"


def _identity_problems(provider: Provider) -> Iterator[str]:
    identity = provider.identity
    if (identity.url is None) == (identity.api is None or identity.path is None):
        yield "identity: needs either url, or api and path; give one of them"
    elif identity.api is not None and identity.api not in provider.apis:
        yield f"identity.api: unknown API {identity.api!r}; add it under [apis]"
    for name, template in (("id", identity.id), ("label", identity.label)):
        paths = _PLACEHOLDER.findall(template)
        if not paths or any(_FIELD_PATH.fullmatch(path) is None for path in paths):
            yield f"identity.{name}: needs a {{path}} into the answer, such as {{user.id}}; correct it"


def _overridden(provider: Provider, settings: ProviderOverrides | None) -> Provider:
    """The provider at the operator's addresses."""
    if settings is None:
        return provider
    for key in settings.apis:
        if key not in provider.apis:
            known = ", ".join(provider.apis)
            raise ProviderFileRefused(f"providers.{provider.name}.apis.{key}: there is no such API; known: {known}")
    urls = {
        name: value
        for name in ("authorize_url", "token_url", "refresh_url", "revoke_url")
        if (value := getattr(settings, name)) is not None
    }
    changes: dict[str, object] = {
        "hosts": provider.hosts.model_copy(update=urls),
        "apis": {**provider.apis, **settings.apis},
    }
    if settings.userinfo_url is not None:
        changes["identity"] = provider.identity.model_copy(
            update={"url": settings.userinfo_url, "api": None, "path": None}
        )
    changed = Provider.model_validate({**{n: getattr(provider, n) for n in provider.model_fields_set}, **changes})
    for line in _address_problems(changed):
        raise ProviderFileRefused(f"providers.{provider.name}: {line}")
    for scope in sorted((settings.scopes or frozenset()) - set(provider.scopes)):
        raise ProviderFileRefused(f"providers.{provider.name}.scopes: unknown scope {scope!r}; correct its spelling")
    if settings.testing:
        changed = _in_testing(changed)
    if settings.client_id is not None and settings.client_secret is None and settings.is_loopback:
        changed = changed.as_public_client()
    registration = Registration(settings.client_id, settings.client_secret, settings.scopes)
    return changed.registered(registration)


def _in_testing(provider: Provider) -> Provider:
    """The provider with the lifetime that it gives the grants of an unpublished app."""
    lifetime = provider.expires.testing
    if lifetime is None:
        raise ProviderFileRefused(
            f"providers.{provider.name}.testing: {provider.title} treats all apps alike; remove this setting"
        )
    return provider.model_copy(update={"expires": provider.expires.model_copy(update={"grant": lifetime})})
