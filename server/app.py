"""Construct everything from settings: one deployment and the ASGI application around it. Decides nothing else.

Modules that only the application needs are loaded when it is built: commands don't need them, and a process that starts
after a crash first finishes what the last one left behind. Agents wait for their first answer, so the authorization
server, the proxy, and the pages are loaded a moment later, or at their first request.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from providers.definitions.catalog import Catalog, ProviderFileRefused
from providers.definitions.discovery import Endpoints
from providers.definitions.model import Provider
from providers.definitions.suggestions import did_you_mean
from providers.oauth.assertions import CompanyAssertions
from providers.oauth.client import OAuthUpstream
from providers.oauth.credential_upstream import CredentialUpstream
from providers.oauth.secret_references import ReferencedUpstream
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.remote.sightings import Sightings
from providers.tools.imported_api import read_imported
from server.connecting.entered_keys import open_keys
from server.deployment import Deployment
from server.errors import status_of
from server.live_providers import LiveProviders, ProviderSet, imported_registrations, make_of_usable
from server.local_server_settings import overlap_with, shared_writable, shown_file
from server.mcp.approval_settings import ApprovalRules
from server.mcp.offer.registry import load_away, load_offer, load_tools
from server.oauth.own_apis import OwnApis
from server.oauth.rules import canonical_resource, own_resources
from server.provider_settings import SettingsRefused
from server.remote.offered_tools import note_tools
from server.runtime.catalog import is_set_here, read_catalog
from server.runtime.data_directory import prepare_data_directory
from server.runtime.kept_answers import KeptAnswers
from server.runtime.late_names import LateName, check_late_names
from server.runtime.rate_limits import HOUR, Budgets
from server.secret_sources import (
    EnteredSecrets,
    SecretSources,
    VaultReferences,
    is_reference,
    reference_problem,
)
from server.settings import Settings
from server.sign_in.discovery import endpoints_of_issuers
from server.sign_in.identities import identity_policy, identity_upstreams
from vault.audit.audit import Activity
from vault.exchange.exchange import Vault
from vault.keys.key_ring import KeyRing, vault_id
from vault.keys.sources import key_source
from vault.mcp import imported_apis, servers
from vault.refresh import consents
from vault.refresh.journal import Journal
from vault.refresh.journal_recovery import adopt_all
from vault.refresh.rotation import RefreshTasks
from vault.registrations import EnteredRegistration, list_registrations
from vault.storage.database import Reader
from vault.storage.database_url import open_database
from vault.storage.presence import Presence
from vault.upstream import UpstreamOAuth, UpstreamPolicy

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Scope

    from server.policy.gate import PolicyGate
    from server.programs.hosted.pool import HostedServers
    from server.runtime.deferred_app import DeferredApp, LatePart
    from server.telemetry.export import Telemetry

Made = TypeVar("Made")
Policies = Mapping[str, UpstreamPolicy]  # what the vault needs to know about each provider
_AT_ONCE: Final = ("server.mcp.transports", "server.http.edge")
_SOON: Final = (
    "server.oauth.token",
    "server.oauth.authorize",
    "server.oauth.clients.registration",
    "server.portal.site",
)
HEAD_START: Final = 1.0  # seconds for callers that wait for this process, before it loads the rest


@asynccontextmanager
async def open_deployment(
    settings: Settings,
    *,
    data: Path,
    open_browser: Callable[[str], bool] | None = None,
    creates: bool = True,
    is_measured: bool = False,
    database_patience: float = 0.0,
) -> AsyncGenerator[Deployment]:
    """Open the database, keys, providers, and outbound HTTP, and close them in reverse order.

    `creates`: create a vault if there is none. `is_measured`: report metrics and traces if the settings say where.
    `database_patience`: seconds to wait for a database server that doesn't accept connections yet.

    Raises StorageUnavailable, KeyUnavailable, SettingsRefused, ProviderFileRefused or ToolFileRefused, each with a
    one-line message that includes the fix, before anything listens.
    """
    _check_secrets(settings)
    data = prepare_data_directory(data)
    async with AsyncExitStack() as stack:
        telemetry = await _telemetry(settings, stack) if is_measured and settings.telemetry.is_on else None
        outbound = outbound_of(settings, kind=Outbound if telemetry is None else telemetry.outbound_kind)
        stack.push_async_callback(outbound.close)
        endpoints = await endpoints_of_issuers(settings, data=data, outbound=outbound)
        sightings = Sightings()
        live = LiveProviders(
            partial(_provider_set, settings, data, endpoints, outbound, sightings), sightings=sightings
        )
        presence = Presence(settings.database_url(), data=data)
        stack.callback(presence.close)
        presence.enter()
        database = await open_database(
            settings.database_url(),
            data=data,
            has_locks=settings.database.liveness == "locks",
            patience=database_patience,
        )
        stack.push_async_callback(database.close)
        if telemetry is not None:
            database = telemetry.watch(database, outbound, live)
        keys = await KeyRing.open(database, key_source(settings.keys, data=data), creates=creates)
        activity = Activity(database)
        stack.push_async_callback(activity.close)
        await live.refresh(database, keys)
        live.check_names(await imported_apis.list_names(database))
        policy = _policy(settings, live, activity, outbound)
        hosted = _local_servers(settings, data=data)
        if hosted is not None:
            stack.push_async_callback(hosted.close)
        journal = Journal(data)
        stack.callback(journal.close)
        tasks = RefreshTasks()
        stack.push_async_callback(tasks.close)
        lookups = KeptAnswers()
        stack.push_async_callback(lookups.close)
        vault = Vault(
            database=database,
            keys=keys,
            activity=activity,
            policies=live.policies,
            upstreams=live.upstreams,
            tasks=tasks,
            journal=journal,
            owner=secrets.token_urlsafe(16),
            issuer=settings.public_url,
            mint=OwnApis(settings, keys),
            assertions=live.assertions if any(one.id_jag for one in settings.sign_in.openid.values()) else None,
            policy_check=policy,
            references=VaultReferences(lambda name: (live.current.catalog.get(name), live.current.secrets)),
        )
        await adopt_all(vault)
        await consents.adopt_all(vault)
        deployment = Deployment(
            settings=settings,
            data=data,
            database=database,
            keys=keys,
            activity=activity,
            live=live,
            http=outbound,
            vault=vault,
            vault_id=vault_id(keys),
            open_browser=open_browser,
            lookups=lookups,
            budgets=Budgets(settings.tools.calls_per_minute),
            token_requests=Budgets(settings.tokens.per_agent_hourly, window=HOUR),
            proxy_calls=Budgets(settings.proxy.per_agent_hourly, window=HOUR),
            admin_requests=Budgets(settings.admin.requests_per_minute),
            telemetry=telemetry,
            policy=policy,
            hosted=hosted,
        )
        sightings.on_seen = partial(note_tools, deployment)
        yield deployment


def _local_servers(settings: Settings, *, data: Path) -> HostedServers | None:
    """The runner of MCP servers on this machine, or None if the settings have none. Raises SettingsRefused."""
    if not settings.local_servers:
        return None
    from server.programs.hosted.pool import HostedServers

    if (found := overlap_with(data, settings.local_servers)) is not None:
        name, folder = found
        raise SettingsRefused(f"local_servers.{name}: {folder} would give it access to the vault's data directory")
    if (found := shared_writable(settings.local_servers)) is not None:
        name, folder = found
        raise SettingsRefused(f"local_servers.{name}: {folder} would give it access to a `writable` folder")
    secrets = settings.secret_files()
    if (shown := shown_file(secrets, settings.local_servers)) is not None:
        name, folder, file = shown
        raise SettingsRefused(f"local_servers.{name}: {folder} would give it access to {file}")
    return HostedServers(settings, hidden=(data.resolve(), *secrets))


def _policy(settings: Settings, live: LiveProviders, activity: Activity, outbound: Outbound) -> PolicyGate | None:
    """The operator's own policy, if there is one. Raises SettingsRefused."""
    if settings.exchange.policy_url is None and not settings.policy.has_rules:
        return None
    from server.policy.decision_point import PolicyPoint
    from server.policy.gate import PolicyGate

    point = None if settings.exchange.policy_url is None else PolicyPoint(settings.exchange, outbound)
    return PolicyGate(settings.policy, live, activity, admin=settings.admin, point=point)


def _check_secrets(settings: Settings) -> None:
    """Check the secrets that are only read when they are needed. Raises SettingsRefused."""
    settings.signals.check_secrets()
    settings.mail.secret()
    _check_services(settings)
    for name, one in settings.sign_in.openid.items():
        if is_reference(one.secret(name) or ""):
            raise SettingsRefused(f"sign_in.openid.{name}.client_secret: references work in providers.NAME only")


def _check_services(settings: Settings) -> None:
    """Raises SettingsRefused if people could add notification services that the vault can't reach."""
    from server.notices import services

    if not settings.notices.apprise:
        return
    if not services.is_installed():
        raise SettingsRefused(
            "notices.apprise needs a package that is not installed: pip install 'mcp-token-vault[apprise]'"
        )
    if settings.outbound.proxy_address() is not None:
        raise SettingsRefused("notices.apprise can't go through outbound.proxy: unset one of them")


async def _telemetry(settings: Settings, stack: AsyncExitStack) -> Telemetry:
    try:
        from server.telemetry.export import Telemetry
    except ImportError as error:
        raise SettingsRefused(
            "telemetry needs packages that are not installed: pip install 'mcp-token-vault[telemetry]'"
        ) from error
    made = Telemetry(settings.telemetry)
    stack.push_async_callback(made.close)
    return made


def outbound_of(settings: Settings, *, kind: type[Outbound] = Outbound) -> Outbound:
    """The HTTP client for these settings, not yet opened. Raises SettingsRefused."""
    policy = AddressPolicy(allow_loopback=settings.sandbox.loopback_upstreams)
    return kind(policy, proxy=settings.outbound.proxy_address())


async def providers_of_settings(settings: Settings, *, data: Path) -> ProviderSet:
    """The providers in the settings and in the files of the data directory's `providers` folder.

    Excludes registrations that were entered in the browser, which are in the database. Raises ProviderFileRefused,
    SettingsRefused, or ToolFileRefused with a one-line message.
    """
    async with outbound_of(settings) as outbound:
        endpoints = await endpoints_of_issuers(settings, data=data, outbound=outbound)
        found = _provider_set(settings, data, endpoints, outbound, Sightings(), {})
    for problem in found.catalog.unknown.values():
        raise ProviderFileRefused(problem)
    check_late_names(found.late, ())
    return found


async def catalog_of_settings(settings: Settings, *, data: Path) -> Catalog:
    """The catalog of these providers alone, for code that must work while other settings are wrong."""
    async with outbound_of(settings) as outbound:
        return _checked_catalog(settings, data, await endpoints_of_issuers(settings, data=data, outbound=outbound), {})


async def open_policies(settings: Settings, *, data: Path) -> Callable[[Reader], Awaitable[Policies]]:
    """A function that reads the policies of all providers that are set up in the settings and in a database.

    Needs no keys: only the presence of a client secret matters. Raises ProviderFileRefused or SettingsRefused with a
    one-line message.
    """
    async with outbound_of(settings) as outbound:
        endpoints = await endpoints_of_issuers(settings, data=data, outbound=outbound)
    make = partial(_checked_catalog, settings, data, endpoints)
    make({})

    async def read(reader: Reader) -> Policies:
        remote = {one.name: one for one in await servers.list_accepted(reader)}
        entered = {
            one.provider: replace(one.without_secret(), server=remote.get(one.provider))
            for one in await list_registrations(reader)
        }
        entered |= imported_registrations(await imported_apis.list_accepted(reader))
        return _ByProvider(make_of_usable(make, entered, {}), Provider.policy)

    return read


def _checked_catalog(
    settings: Settings, data: Path, endpoints: Mapping[str, Endpoints], entered: Mapping[str, EnteredRegistration]
) -> Catalog:
    catalog = read_catalog(settings, data=data, endpoints=endpoints, entered=entered)
    for provider in catalog:
        audience = provider.audience
        # otherwise that API could use the tokens it receives at the vault itself
        if audience is not None and canonical_resource(audience, public_url=settings.public_url) in own_resources(
            settings.public_url
        ):
            raise ProviderFileRefused(f"{provider.name}.toml: audience: {audience} is this vault; use the API's own")
    _check_references(settings, catalog)
    _check_local_servers(settings, catalog)
    return catalog


def _check_local_servers(settings: Settings, catalog: Catalog) -> None:
    """Check that the providers that programs may call exist. Raises SettingsRefused."""
    for name, one in settings.local_servers.items():
        for provider in one.providers:
            found = catalog.get(provider)
            if found is None or found.is_remote or found.name != provider:
                near = did_you_mean(provider, catalog.names) or " See token-vault providers list."
                raise SettingsRefused(f"local_servers.{name}.providers: there is no provider {provider!r}.{near}")


def _check_references(settings: Settings, catalog: Catalog) -> None:
    """Check that references in place of client secrets can be used. Raises SettingsRefused."""
    vouches = any(one.id_jag for one in settings.sign_in.openid.values())
    for provider in catalog:
        secret = provider.registration.client_secret or ""
        if not _is_referenced(settings, provider):
            continue
        name = f"providers.{provider.name}.client_secret"
        if (problem := reference_problem(secret)) is not None:
            raise SettingsRefused(f"{name}: {problem}")
        if any(secret in value for value in provider.headers.values()):
            raise SettingsRefused(f"{name}: every call to {provider.title} sends this secret, so enter it directly")
        if vouches and provider.enterprise.id_jag is not None:
            raise SettingsRefused(
                f"{name}: a company's sign-in service connects accounts there, so enter the secret directly"
            )


def _is_referenced(settings: Settings, provider: Provider) -> bool:
    """Whether the settings refer to the secret. A registration entered in a browser can't name a file on this
    machine."""
    return is_set_here(settings, provider.name) and is_reference(provider.registration.client_secret or "")


class _ByProvider(Mapping[str, Made]):
    """Objects per provider, made on first use: most provider files are never read."""

    def __init__(
        self, catalog: Catalog, make: Callable[[Provider], Made], identities: Mapping[str, Made] | None = None
    ) -> None:
        self._catalog = catalog
        self._make = make
        self._identities = identities or {}  # providers that people only sign in with
        self._made: dict[str, Made] = dict(self._identities)

    def __getitem__(self, name: str) -> Made:
        if name not in self._made:
            provider = self._catalog.provider(name)
            if provider.name != name:
                raise KeyError(name)  # an alias selects scopes; it is not a provider
            self._made[name] = self._make(provider)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return chain(self._catalog.names, self._identities)

    def __len__(self) -> int:
        return len(self._catalog.names) + len(self._identities)


def _provider_set(
    settings: Settings,
    data: Path,
    endpoints: Mapping[str, Endpoints],
    outbound: Outbound,
    sightings: Sightings,
    entered: Mapping[str, EnteredRegistration],
) -> ProviderSet:
    """Everything that follows from the settings and these registrations. Raises the exceptions that `LiveProviders`
    expects."""
    catalog = _checked_catalog(settings, data, endpoints, entered)
    late: list[LateName] = []
    imported = [read_imported(name, one.imported) for name, one in entered.items() if one.imported is not None]
    files = [(one.source, one.tools) for one in imported]
    tools = load_tools(settings, catalog, sightings, late=late, imported=files)
    away = load_away(catalog, sightings)
    offer = load_offer(settings, tools, catalog, late=late)
    asking = ApprovalRules.from_settings(settings, catalog, tools, late=late)

    def upstream(provider: Provider) -> OAuthUpstream:
        return OAuthUpstream(provider, outbound)

    secrets = SecretSources(settings.secrets)
    entered_secrets = EnteredSecrets(secrets, settings.secrets.entered, open_keys)

    def upstream_of(provider: Provider) -> UpstreamOAuth:
        if provider.credential is not None:
            return CredentialUpstream(provider, outbound, secrets=entered_secrets)
        if _is_referenced(settings, provider):
            return ReferencedUpstream(provider, upstream, secrets)
        return upstream(provider)

    def policy(provider: Provider) -> UpstreamPolicy:
        return asking.apply(provider.policy())

    identities = identity_upstreams(settings, outbound)
    policies = _ByProvider(catalog, policy, {name: identity_policy(name) for name in identities})
    upstreams = _ByProvider[UpstreamOAuth](catalog, upstream_of, identities)
    assertions = CompanyAssertions(catalog, identities, upstream)
    return ProviderSet(
        catalog,
        tools,
        away,
        offer,
        policies,
        upstreams,
        assertions,
        secrets=entered_secrets,
        entered=entered,
        unusable={},
        late=late,
    )


def build_app(deployment: Deployment) -> ASGIApp:
    """The whole application: authorization server, pages and transports behind the guards."""
    from starlette.applications import Starlette

    import server.mcp.transports
    from server.http.addresses import behind_proxies
    from server.http.edge import Edge
    from server.http.guards import GuardRules
    from server.runtime.deferred_app import LatePart

    def build_proxy() -> ASGIApp:
        from server.proxy import Proxy

        edge.proxy = Proxy(deployment)
        return edge.proxy

    def build_rest() -> ASGIApp:
        import server.api
        import server.auth0
        import server.oauth
        import server.portal
        import server.proxy.remote_programs
        import server.remote.documents
        import server.scim
        import server.signals
        from server.http.pages import FAILURES, answer_failure

        routes = [*server.oauth.routes(deployment), *server.auth0.routes(deployment)]
        edge.call_directly(routes)
        pages = Starlette(
            routes=[
                *routes,
                *server.signals.routes(deployment),
                *server.api.routes(deployment),
                *server.scim.routes(deployment),
                *server.remote.documents.routes(deployment),
                *server.proxy.remote_programs.routes(deployment),
                *server.portal.routes(deployment),
            ],
            exception_handlers=dict.fromkeys((*FAILURES, status_of("server_error")), answer_failure),
        )
        pages.router.redirect_slashes = False
        return pages

    rest = LatePart(build_rest, modules=_SOON)
    proxy = LatePart(build_proxy, modules=["server.proxy"])
    transports = server.mcp.transports.routes(deployment)
    app = Starlette(
        routes=transports,
        lifespan=_lifespan(deployment, (rest, proxy)),
        exception_handlers=dict.fromkeys((status_of("method_not_allowed"), status_of("server_error")), _answer_failure),
    )
    app.router.redirect_slashes = False  # behind a TLS proxy, a redirect would lose the bearer token
    app.router.default = rest
    trusted = deployment.settings.server.trusted_proxies
    rules = GuardRules.from_settings(deployment.settings)
    edge = Edge(app, rules, deployment.drain, proxy=proxy, takes_ids=bool(trusted))
    edge.call_directly(transports)
    return behind_proxies(edge, trusted)


async def _answer_failure(request: Request, error: Exception) -> Response:
    from server.http.pages import answer_failure  # with everything that pages need, for a rare request

    return await answer_failure(request, error)


def _lifespan(
    deployment: Deployment, parts: Sequence[LatePart]
) -> Callable[[Starlette], AbstractAsyncContextManager[Mapping[str, object]]]:
    """The lifespan of the transports, while the remaining parts load."""
    from server.mcp.transports import lifespan

    async def load_soon() -> None:
        await asyncio.sleep(HEAD_START)
        for part in parts:
            await part.load()

    @asynccontextmanager
    async def live(app: Starlette) -> AsyncGenerator[Mapping[str, object]]:
        async with lifespan(deployment)(app) as state:
            loading = asyncio.create_task(load_soon())
            try:
                yield state
            finally:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)

    return live


def build_late_app(deployment: Deployment) -> DeferredApp:
    """The whole application, loaded on demand.

    Clients that only probe what is listening here, and clients without a token, get an answer without it.
    """
    from starlette.applications import Starlette

    from server.http.edge import Edge
    from server.http.guards import GuardRules
    from server.lifecycle.loopback import health_route
    from server.mcp.bearer import signposts
    from server.runtime.deferred_app import DeferredApp

    health, doors = health_route(deployment), signposts(deployment)
    rules, nothing = GuardRules.from_settings(deployment.settings), Starlette()
    looks = Edge(Starlette(routes=[health, *doors]), rules, deployment.drain, proxy=nothing)
    for_strangers = frozenset(door.path for door in doors)

    def at_once(scope: Scope) -> ASGIApp | None:
        is_stranger = scope["path"] in for_strangers and all(name != b"authorization" for name, _ in scope["headers"])
        return looks if is_stranger or scope["path"] == health.path else None

    return DeferredApp(lambda: build_app(deployment), modules=_AT_ONCE, at_once=at_once)
