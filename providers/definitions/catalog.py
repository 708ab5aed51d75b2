"""The catalog of upstream services: reads provider files, built in and the operator's own, and checks them.

An invalid file is refused with one line: file, field, fix. `providers.definitions.model` defines what a file may
contain.
"""

from __future__ import annotations

import functools
import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from providers.definitions.discovery import Endpoints, generic_provider
from providers.definitions.enterprise import IdJag
from providers.definitions.field_texts import CREDENTIAL, PROVIDER, RULE, field_texts
from providers.definitions.file_errors import reason_of
from providers.definitions.grant_facts import ProbeFacts
from providers.definitions.inputs import InputRefused, input_values, names_in, with_inputs
from providers.definitions.model import BY_CERTIFICATE, Provider, Registration, Rule
from providers.definitions.remote import RemoteServer, provider_of
from providers.definitions.suggestions import did_you_mean, suggest_field
from providers.definitions.unruled_calls import UnruledCalls
from providers.definitions.unruled_rules import unruled_problem, with_unruled_calls
from providers.definitions.validation import address_problems, problems_of
from providers.outbound.addresses import AddressPolicy
from providers.outbound.json_values import at, is_array, is_object, parse_object

__all__ = [
    "Catalog",
    "Provider",
    "ProviderFileRefused",
    "ProviderOverrides",
    "check_file",
    "is_shipped",
    "load_catalog",
    "parse_provider",
    "read_provider",
    "schema",
    "shipped_files",
]

SHELF: Final = Path(__file__).parent.parent / "services"
KEYS: Final = SHELF / "keys"  # services whose accounts are connected by a credential that people enter
_ALIASES: Final = b"[aliases"
_built_rules: Final[dict[Path, tuple[bytes, tuple[object, ...]]]] = {}  # by file: its digest, and its rules
# Fields of `ProviderOverrides`.
_OF_CLIENTS: Final = (
    "client_id",
    "client_secret",
    "authorize_url",
    "token_url",
    "refresh_url",
    "long_lived_url",
    "revoke_url",
    "userinfo_url",
    "testing",
    "id_jag",
)
WITH_TOOLS: Final = ("google", "slack")  # always present: their tools ask people to connect them


class ProviderFileRefused(Exception):
    """A provider file, or an address set for it, is invalid. One line that says what to fix."""


@dataclass(frozen=True, slots=True)
class ProviderOverrides:
    """What the operator sets for one provider: our registration there, and addresses that replace the file's."""

    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    certificate_file: str | None = None  # client certificate by which the provider recognizes us
    authorize_url: str | None = None
    token_url: str | None = None
    refresh_url: str | None = None
    long_lived_url: str | None = None
    revoke_url: str | None = None
    userinfo_url: str | None = None
    apis: Mapping[str, str] = field(default_factory=dict[str, str])
    scopes: frozenset[str] | None = None  # no token ever has more
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    title: str | None = None  # for a provider without a file
    endpoints: Endpoints | None = None  # for one that is an issuer
    testing: bool = False  # our app there isn't published yet
    enabled: bool = True  # for a service with a credential: people may enter one
    is_loopback: bool = False  # our redirect address is on this machine
    reach: AddressPolicy | None = None  # how its addresses are reached, if different from others
    unruled_calls: UnruledCalls = "refuse"  # what happens to a call that no request rule judges
    id_jag: IdJag | None = None  # instead of the file's
    regions: frozenset[str] = frozenset()  # the only regions in which accounts are used
    downloads: frozenset[str] | None = None  # instead of the file's


class Catalog:
    """The providers by name and alias, in the order of their names.

    `names` and iteration have the providers that matter here: those with tools, set up, or the operator's own. The
    others, in `shelf`, are read on request.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        shelf: Mapping[str, Path] | None = None,
        *,
        registered: frozenset[str] = frozenset(),
        remote: Mapping[str, RemoteServer] | None = None,
        unknown: Mapping[str, str] | None = None,
    ) -> None:
        self._providers = {provider.name: provider for provider in sorted(providers, key=lambda found: found.name)}
        self._aliases = {alias: provider.name for provider in providers for alias in provider.aliases}
        self._shelf = shelf or {}
        self.registered = registered  # names of providers for which the operator set something
        self.remote = remote or {}  # other people's MCP servers, by name
        self.unknown = unknown or {}  # names that only settings have, and the refusal of each if nothing is imported
        self._fetched: dict[str, Provider] = {}
        self._is_complete = False  # whether all aliases are known

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._providers)

    def __iter__(self) -> Iterator[Provider]:
        return iter(self._providers.values())

    def all_providers(self) -> tuple[Provider, ...]:
        """All providers, in the order of their names; reads every file."""
        for name, path in self._shelf.items():
            if name not in self._providers and name not in self._fetched:
                provider = self._fetched[name] = read_provider(path)
                self._aliases.update(dict.fromkeys(provider.aliases, name))
        self._is_complete = True
        return tuple(sorted((*self._providers.values(), *self._fetched.values()), key=lambda found: found.name))

    def get(self, name: str) -> Provider | None:
        """The provider of that name or alias."""
        found = self._providers.get(self._aliases.get(name, name))
        if found is not None:
            return found
        if name in self._shelf and name not in self._fetched:
            self._fetched[name] = read_provider(self._shelf[name])
        elif name not in self._fetched and not self._is_complete:
            self._read_aliases()
        return self._fetched.get(name) or self._fetched.get(self._aliases.get(name, name))

    def _read_aliases(self) -> None:
        """Read the few files that have aliases."""
        for name, path in self._shelf.items():
            if name not in self._providers and name not in self._fetched and _ALIASES in path.read_bytes():
                provider = self._fetched[name] = read_provider(path)
                self._aliases.update(dict.fromkeys(provider.aliases, name))
        self._is_complete = True

    def provider(self, name: str) -> Provider:
        """The provider with that name or alias. Raises KeyError when there is none."""
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def resolve(self, name: str) -> tuple[Provider, frozenset[str]]:
        """The provider, and the scopes that connecting it under this name requests. Raises KeyError when there is
        none."""
        provider = self.provider(name)
        return provider, provider.aliases.get(name, provider.scope.default)


def load_catalog(
    folders: Sequence[Path] = (),
    overrides: Mapping[str, ProviderOverrides] | None = None,
    remote: Sequence[tuple[RemoteServer, Registration]] = (),
    imported: Sequence[Provider] = (),
    *,
    may_import: bool = False,
) -> Catalog:
    """The built-in providers and those of `folders`; a file of a later folder replaces an earlier one.

    `remote`: other people's MCP servers, with our registration at each. `imported`: own APIs without a file.
    `may_import`: settings of an unknown provider are recorded in `Catalog.unknown`.

    Raises ProviderFileRefused with one line.
    """
    shelf = {path.stem: path for path in shipped_files()}
    own: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ProviderFileRefused(f"{folder}: no such folder; create it or correct provider_folders")
        own |= {path.stem: path for path in sorted(folder.glob("*.toml"))}
    found: dict[str, tuple[Path, Provider]] = {}
    for path in (*(shelf[name] for name in WITH_TOOLS if name not in own), *own.values()):
        provider = read_provider(path)
        found[provider.name] = (path, provider)
    for provider in imported:
        if provider.name in found or provider.name in shelf:
            raise ProviderFileRefused(f"{provider.name}: a provider has this name; import the API under another one")
        found[provider.name] = (Path(f"{provider.name}.toml"), provider)
    unknown: dict[str, str] = {}
    for name in overrides or {}:
        if name not in found and name in shelf:
            found[name] = (shelf[name], read_provider(shelf[name]))
        elif name not in found and (generic := _generic(name, (overrides or {})[name])) is not None:
            found[name] = (Path(name), generic)
        elif name not in found:
            near = did_you_mean(name, [*shelf, *found]) or " See token-vault providers list"
            unknown[name] = f"providers.{name}: no provider file of that name, and no imported API.{near}"
            if not may_import:
                raise ProviderFileRefused(unknown[name])
    for name, settings in (overrides or {}).items():
        if name not in unknown and settings.endpoints is not None and found[name][0].suffix:
            raise ProviderFileRefused(f"providers.{name}.issuer: {name} has a provider file; remove this setting")
    providers = [_with_overrides(provider, (overrides or {}).get(name)) for name, (_, provider) in found.items()]
    _check_names(found)
    for server, registration in remote:
        if server.name in found or server.name in shelf:
            raise ProviderFileRefused(f"{server.name}: a provider has this name; add the MCP server by another one")
        providers.append(_remote(server).with_registration(registration))
    return Catalog(
        providers,
        shelf,
        registered=(frozenset(overrides or {}) - unknown.keys()) | {server.name for server, _ in remote},
        remote={server.name: server for server, _ in remote},
        unknown=unknown,
    )


def _remote(server: RemoteServer) -> Provider:
    """The provider for someone else's MCP server. Raises ProviderFileRefused."""
    try:
        provider = provider_of(server)
    except ValidationError as error:
        raise ProviderFileRefused(f"{server.name}: {next(_in_words(error))}") from error
    for line in problems_of(provider, stem=server.name):
        raise ProviderFileRefused(f"{server.name}: {line}")
    return provider


def _generic(name: str, settings: ProviderOverrides) -> Provider | None:
    """A provider that only settings describe; None when they don't name its endpoints."""
    endpoints = settings.endpoints
    if endpoints is None and settings.authorize_url and settings.token_url and settings.userinfo_url:
        endpoints = Endpoints(settings.authorize_url, settings.token_url, settings.userinfo_url, settings.revoke_url)
    if endpoints is None:
        return None
    if settings.userinfo_url is not None:
        endpoints = replace(endpoints, userinfo_url=settings.userinfo_url)
    try:
        provider = generic_provider(
            name, endpoints, title=settings.title, scopes=settings.scopes or (), apis=settings.apis
        )
    except ValidationError as error:
        raise ProviderFileRefused(f"providers.{next(_in_words(error))}") from error
    for line in problems_of(provider, stem=name, reach=settings.reach):
        raise ProviderFileRefused(f"providers.{name}: {line}")
    return provider


def shipped_files() -> tuple[Path, ...]:
    """The built-in provider files: those with OAuth and, in `keys`, those without."""
    return tuple(sorted((*SHELF.glob("*.toml"), *KEYS.glob("*.toml")), key=lambda path: path.stem))


def is_shipped(name: str) -> bool:
    """Whether this provider has a built-in file."""
    return any((folder / f"{name}.toml").is_file() for folder in (SHELF, KEYS))


def read_provider(path: Path) -> Provider:
    """The provider of one file; built-in files are read once. Raises ProviderFileRefused with one line."""
    return _read_shipped(path) if path.parent in (SHELF, KEYS) else _read_valid(path)


@functools.cache
def _read_shipped(path: Path) -> Provider:
    return _read_valid(path)


def _read_valid(path: Path) -> Provider:
    provider, problems = _read(path)
    if provider is None or problems:
        raise ProviderFileRefused(problems[0])
    return provider


def schema() -> dict[str, object]:
    """The JSON Schema of a provider file, for editors that check and complete TOML."""
    described = Provider.model_json_schema(by_alias=True)
    parts = described["$defs"]
    for part, texts in ((described, PROVIDER), (parts["Rule"], RULE), (parts["Credential"], CREDENTIAL)):
        for name, text in field_texts(texts):
            if name in part["properties"]:
                part["properties"][name]["description"] = text
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", **described, "title": "Provider file"}
    return {name: _in_order(_on_one_line(value)) for name, value in made.items()}


def _on_one_line(value: object) -> object:
    """The schema with each description on one line, however the source wraps it."""
    if is_object(value):
        return {
            name: " ".join(inner.split()) if name == "description" and isinstance(inner, str) else _on_one_line(inner)
            for name, inner in value.items()
        }
    return [_on_one_line(inner) for inner in value] if is_array(value) else value


def _in_order(value: object) -> object:
    """The schema with the defaults of sets in a fixed order, independent of this run's hashes."""
    if is_array(value):
        return [_in_order(item) for item in value]
    if not is_object(value):
        return value
    found = {name: _in_order(inner) for name, inner in value.items()}
    default = value.get("default")
    if is_object(default):
        del found["default"]
    elif is_array(default) and value.get("uniqueItems") is True:
        found["default"] = sorted(str(item) for item in default)
    return found


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


def parse_provider(name: str, content: Mapping[str, object]) -> Provider:
    """The provider from the content of a file that takes no rules from others. Raises ProviderFileRefused."""
    try:
        provider = Provider.model_validate(content)
    except ValidationError as error:
        raise ProviderFileRefused(f"{name}: {next(_in_words(error))}") from error
    for line in problems_of(provider, stem=name):
        raise ProviderFileRefused(f"{name}: {line}")
    return provider


def _read(path: Path) -> tuple[Provider | None, list[str]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        return None, [f"{path.name}: can't be read: {reason_of(error)}; make it a readable UTF-8 file"]
    except tomllib.TOMLDecodeError as error:
        return None, [f"{path.name}: isn't valid TOML: {error}; correct that line"]
    try:
        content = _with_more_rules(path, content)
        provider = Provider.model_validate(content)
    except ProviderFileRefused as error:
        return None, [f"{path.name}: {error}"]
    except ValidationError as error:
        return None, [f"{path.name}: {line}" for line in _in_words(error)]
    problems = [f"{path.name}: {line}" for line in problems_of(provider, stem=path.stem)]
    return provider, problems


def _with_more_rules(path: Path, content: dict[str, object]) -> dict[str, object]:
    """The file with the rules that it takes from others, after its own. Raises ProviderFileRefused."""
    names, own = content.get("rules_from"), content.get("rules", [])
    if not is_array(names) or not is_array(own):
        return content
    rules: list[object] = list(own)
    for name in names:
        if not isinstance(name, str) or re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name) is None:
            raise ProviderFileRefused(f"rules_from: {name!r} isn't a file name; name a file of the folder rules")
        shared = path.parent / "rules" / f"{name}.json"
        try:
            written = shared.read_bytes()
        except OSError as error:
            problem = f"rules_from: can't read rules/{name}.json: {error.__class__.__name__}; put it there"
            raise ProviderFileRefused(problem) from error
        rules += _shared_rules(shared, written)
    return {**content, "rules": rules}


def _shared_rules(path: Path, written: bytes) -> tuple[object, ...]:
    """The rules of a shared file, built only once for the hundreds of files that use them."""
    digest = hashlib.sha256(written).digest()
    built = _built_rules.get(path)
    if built is None or built[0] != digest:
        built = _built_rules[path] = digest, _build_rules(path.stem, written)
    return built[1]


def _build_rules(name: str, written: bytes) -> tuple[object, ...]:
    found = at(parse_object(written, shares_texts=True), "rules")
    if not is_array(found):
        raise ProviderFileRefused(f"rules_from: rules/{name}.json contains no rules; write them as in a provider file")
    try:
        return tuple(Rule.model_validate(rule) for rule in found)
    except ValidationError:
        return tuple(found)  # the file that uses them reports what is wrong


def _in_words(error: ValidationError) -> Iterator[str]:
    errors = error.errors(include_url=False, include_input=False)
    for found in sorted(errors, key=lambda one: one["type"] != "extra_forbidden"):  # it may be missing, too
        where = ".".join(str(part) for part in found["loc"]) or "file"
        match found["type"]:
            case "missing":
                yield f"{where}: missing; add it"
            case "extra_forbidden":
                near = suggest_field(Provider, found["loc"]) or " Remove it or correct its spelling"
                yield f"{where}: no such field.{near}"
            case _:
                yield f"{where}: {found['msg'][:1].lower()}{found['msg'][1:]}; correct it"


def _with_overrides(provider: Provider, settings: ProviderOverrides | None) -> Provider:
    """The provider at the operator's addresses."""
    if settings is None:
        return provider
    if provider.audience is not None:
        _check_own_api(provider, settings)
    for key in settings.apis:
        if key not in provider.apis:
            known = ", ".join(provider.apis)
            raise ProviderFileRefused(f"providers.{provider.name}.apis.{key}: no such API; known: {known}")
    provider = _without_foreign_hosts(provider, settings)
    urls: dict[str, str | None] = {
        name: value
        for name in ("authorize_url", "token_url", "refresh_url", "revoke_url")
        if (value := getattr(settings, name)) is not None
    }
    needed = _names_in_kept_addresses(provider, settings, replaced=urls)
    try:
        provider = with_inputs(provider, input_values(provider, settings.inputs, needed=needed))
    except InputRefused as error:
        raise ProviderFileRefused(f"providers.{provider.name}.{error}") from error
    if provider.hosts.issuer is not None and names_in(provider.hosts.issuer):
        urls["issuer"] = None  # the operator's own server has a different one
    changes: dict[str, object] = {
        "hosts": provider.hosts.model_copy(update=urls),
        "apis": {**provider.apis, **settings.apis},
    }
    if provider.revoke.probe.url is not None and urls.keys() & {"token_url", "revoke_url"}:
        # Don't send tokens of the operator's own server to the server that the file names.
        changes["revoke"] = provider.revoke.model_copy(update={"probe": ProbeFacts()})
    if settings.long_lived_url is not None:
        if provider.long_lived is None:
            raise ProviderFileRefused(
                f"providers.{provider.name}.long_lived_url: its file has no such step; remove this setting"
            )
        changes["long_lived"] = provider.long_lived.model_copy(update={"url": settings.long_lived_url})
    if settings.userinfo_url is not None:
        changes["identity"] = provider.identity.model_copy(
            update={"url": settings.userinfo_url, "api": None, "path": None}
        )
    if settings.id_jag is not None:
        changes["enterprise"] = provider.enterprise.model_copy(update={"id_jag": settings.id_jag})
    if settings.downloads is not None:
        changes["proxied"] = provider.proxied.model_copy(update={"downloads": settings.downloads})
    changed = Provider.model_validate({**{n: getattr(provider, n) for n in provider.model_fields_set}, **changes})
    for line in address_problems(changed, reach=settings.reach):
        raise ProviderFileRefused(f"providers.{provider.name}: {line}")
    for scope in sorted((settings.scopes or frozenset()) - set(provider.scopes)):
        raise ProviderFileRefused(f"providers.{provider.name}.scopes: unknown scope {scope!r}; correct its spelling")
    if settings.testing:
        changed = _in_testing(changed)
    if settings.certificate_file is not None:
        changed = _by_certificate(changed, settings)
    elif settings.client_id is not None and settings.client_secret is None and settings.is_loopback:
        changed = changed.as_public_client()
    if settings.unruled_calls != "refuse" and (problem := unruled_problem(changed, settings.unruled_calls)):
        raise ProviderFileRefused(f"providers.{provider.name}.unruled_calls: {problem}")
    changed = with_unruled_calls(changed, settings.unruled_calls)
    if settings.regions:
        _check_regions(changed, settings.regions)
    registration = Registration(
        settings.client_id,
        settings.client_secret,
        settings.scopes,
        settings.reach,
        is_testing=settings.testing,
        is_on=settings.enabled,
        certificate_file=settings.certificate_file,
        regions=settings.regions,
    )
    return changed.with_registration(registration)


def _check_regions(provider: Provider, regions: frozenset[str]) -> None:
    """Refuse a limit that couldn't be enforced, or that names no region."""
    field = None if provider.credential is None else provider.credential.region_field
    if provider.credential is None or field is None:
        raise ProviderFileRefused(
            f"providers.{provider.name}.regions: people enter no region of {provider.title}; remove this setting"
        )
    about = provider.credential.fields[field]
    for one in sorted(regions):
        if about.shape.fullmatch(one) is None or (about.choices and one not in about.choices):
            raise ProviderFileRefused(
                f"providers.{provider.name}.regions: unknown region {one!r}; correct its spelling"
            )


def _by_certificate(provider: Provider, settings: ProviderOverrides) -> Provider:
    """The provider that recognizes us by a certificate instead of a secret, or in addition to one."""
    if provider.credential is not None or provider.audience is not None:
        raise ProviderFileRefused(
            f"providers.{provider.name}.client_certificate_file: {provider.title} has no OAuth; remove this setting"
        )
    if settings.client_secret is not None or provider.client_auth in BY_CERTIFICATE:
        return provider
    return provider.model_copy(update={"client_auth": "tls_client_auth"})


def _check_own_api(provider: Provider, settings: ProviderOverrides) -> None:
    """Refuse fields about our client or people's sign-in: an API that accepts our tokens has neither."""
    for name in _OF_CLIENTS:
        if getattr(settings, name):
            raise ProviderFileRefused(
                f"providers.{provider.name}.{name}: {provider.title} takes this vault's own tokens, so it needs no "
                f"client and no sign-in. Remove this setting; set its address in providers.{provider.name}.apis"
            )


def _without_foreign_hosts(provider: Provider, settings: ProviderOverrides) -> Provider:
    """The provider without the hosts of git and of files that its file names, if the other APIs are at the operator's
    own server: those hosts get no tokens."""
    git, errors = provider.git, provider.errors
    beside = errors.file_apis if git is None else errors.file_apis | {git.api}
    foreign = beside - settings.apis.keys()
    if not settings.apis or not foreign:
        return provider
    changes: dict[str, object] = {
        "git": None if git is None or git.api in foreign else git,
        "errors": errors.model_copy(update={"file_apis": errors.file_apis - foreign}),
        "apis": {key: url for key, url in provider.apis.items() if key not in foreign},
        "rules": tuple(rule for rule in provider.rules if rule.api not in foreign),
    }
    return Provider.model_validate({**{name: getattr(provider, name) for name in provider.model_fields_set}, **changes})


def _names_in_kept_addresses(
    provider: Provider, settings: ProviderOverrides, *, replaced: Mapping[str, str | None]
) -> frozenset[str]:
    """The inputs that are still in use when settings replace these addresses."""
    hosts = provider.hosts
    kept = [
        url
        for name in ("authorize_url", "token_url", "refresh_url", "revoke_url")
        if name not in replaced and (url := getattr(hosts, name)) is not None
    ]
    kept += [hosts.issuer] if hosts.issuer is not None and "authorize_url" not in replaced else []
    kept += [url for key, url in provider.apis.items() if key not in settings.apis]
    kept += [provider.identity.url] if provider.identity.url is not None and settings.userinfo_url is None else []
    kept += [provider.long_lived.url] if provider.long_lived is not None and settings.long_lived_url is None else []
    params = provider.params
    kept += [*params.authorize.values(), *params.token.values(), *params.refresh.values()]
    return frozenset[str]().union(*(names_in(text) for text in kept))


def _in_testing(provider: Provider) -> Provider:
    """The provider with the grant lifetime of an unpublished app."""
    lifetime = provider.expires.testing
    if lifetime is None:
        raise ProviderFileRefused(
            f"providers.{provider.name}.testing: {provider.title} has no testing mode; remove this setting"
        )
    return provider.model_copy(update={"expires": provider.expires.model_copy(update={"grant": lifetime})})
