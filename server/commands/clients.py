"""`clients ...`: list agents, register one by hand, and set how far upstream tokens go to it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from providers.definitions.suggestions import did_you_mean
from server.event_texts import when
from server.terminal.completion import complete_providers
from server.terminal.context import Setup, command, fail, note
from server.terminal.names import ClientName, client_called, provider_called

if TYPE_CHECKING:
    from server.deployment import Deployment
    from server.oauth.exchange.workers import WorkerRules
    from vault.records import Client

app = typer.Typer(no_args_is_help=True, help="Agents (OAuth clients).")


def client_fields(client: Client) -> dict[str, object]:
    """A client as printed; never the secret's hash."""
    from server.oauth.exchange import release, workers

    rules = workers.rules_of(client)
    return {
        "client_id": client.id,
        "name": client.name,
        "kind": client.kind.value,
        "auth_method": client.auth_method,
        "redirect_uris": list(client.redirect_uris),
        "grant_types": sorted(client.grant_types),
        "resources": list(client.resources),
        "release": {name: chosen.value for name, chosen in release.policies_of(client).items()},
        "worker": None if rules is None else workers.stored_rules(rules),
        "created_at": when(client.created_at),
        "last_used_at": when(client.last_used_at),
    }


@command(app, "list")
def list_(setup: Setup) -> None:
    """List all agents."""

    columns = ("client_id", "name", "kind", "auth_method", "last_used_at")
    listing = setup.listing(columns=columns, empty="No agents registered.")

    async def read() -> None:
        from vault import clients

        async with setup.open() as deployment:
            async for page in clients.walk_clients(deployment.database):
                listing.add([client_fields(client) for client in page])
        listing.end()

    setup.run(read())


@command(app, "show")
def show(setup: Setup, client: ClientName) -> None:
    """Show one agent."""

    async def read() -> dict[str, object]:
        async with setup.open() as deployment:
            return client_fields(await client_called(deployment.database, client))

    setup.show_fields(setup.run(read()))


@command(app, "remove")
def remove(setup: Setup, client: ClientName) -> None:
    """Remove an agent and revoke all its grants and tokens immediately."""

    async def end() -> Client:
        from vault import clients
        from vault.audit import audit
        from vault.records import Event

        async with setup.open() as deployment:
            found = await client_called(deployment.database, client)
            now = deployment.now()
            async with deployment.transaction() as transaction:
                await clients.remove_client(transaction, found.id, now=now)
                await audit.append(transaction, Event(kind="client.removed", client_id=found.id), now=now)
            return found

    removed = setup.run(end())
    setup.show_one(client_fields(removed), sentence=f"Removed {removed.name}; its tokens no longer work.")


RELEASES = ("proxy", "narrowed", "full")


@dataclass(frozen=True, slots=True)
class _Options:
    name: str
    redirect_uris: tuple[str, ...]
    secret: bool
    key: Path | None
    resources: tuple[str, ...]
    by_device: bool
    exchanges: bool
    release: str | None
    origins: tuple[str, ...]
    addresses: tuple[str, ...]
    connections: tuple[str, ...]
    scopes: tuple[str, ...]

    @property
    def is_worker(self) -> bool:
        return bool(self.addresses or self.connections or self.scopes)


@command(app, "add")
def add(
    setup: Setup,
    name: Annotated[str, typer.Argument(help="Name shown to users.", show_default=False)],
    *,
    redirect_uri: Annotated[
        list[str] | None, typer.Option("--redirect-uri", help="Redirect URI after sign-in. Repeat for several.")
    ] = None,
    confidential: Annotated[bool, typer.Option("--confidential", help="Generate a client secret.")] = False,
    key: Annotated[
        Path | None, typer.Option("--key", help="Its public key, PEM or JWK set, for signing instead of a secret.")
    ] = None,
    resource: Annotated[
        list[str] | None, typer.Option("--resource", help="An API of your own that it can call.")
    ] = None,
    device: Annotated[
        bool, typer.Option("--device", help="Allow sign-in with a code that the user enters on another device.")
    ] = False,
    exchange: Annotated[bool, typer.Option("--exchange", help="Allow token exchange at /token.")] = False,
    release: Annotated[
        str | None,
        typer.Option(
            "--release", help="proxy: it never receives upstream tokens. narrowed (the default): only narrowed ones."
        ),
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option("--origin", help="A web origin whose pages run this client.")
    ] = None,
    worker_address: Annotated[
        list[str] | None, typer.Option("--worker-address", help="An address or network that its workers call from.")
    ] = None,
    worker_connection: Annotated[
        list[str] | None, typer.Option("--worker-connection", help="A provider or connection that its workers can use.")
    ] = None,
    worker_scope: Annotated[
        list[str] | None, typer.Option("--worker-scope", help="A scope that its workers can request.")
    ] = None,
) -> None:
    """Register an agent. If it has a secret, the secret is printed only once."""
    options = _Options(
        name=name,
        redirect_uris=tuple(dict.fromkeys(redirect_uri or ())),
        secret=confidential,
        key=key,
        resources=tuple(resource or ()),
        by_device=device,
        exchanges=exchange,
        release=release,
        origins=tuple(origin or ()),
        addresses=tuple(worker_address or ()),
        connections=tuple(worker_connection or ()),
        scopes=tuple(worker_scope or ()),
    )
    client, secret = setup.run(_add(setup, options))
    row = client_fields(client)
    sentence = f"client_id      {client.id}"
    if secret is not None:
        row["client_secret"] = secret
        sentence += f"\nclient_secret  {secret}"
        note("This secret is shown only once. The vault stores only its hash.")
    setup.show_one(row, sentence=sentence)


@command(app, "release")
def release_(
    setup: Setup,
    client: ClientName,
    target: Annotated[
        str,
        typer.Argument(help="A provider, or a connection's ID.", show_default=False, autocompletion=complete_providers),
    ],
    policy: Annotated[str, typer.Argument(help="proxy, narrowed, or full.", show_default=False)],
) -> None:
    """Set how an agent receives the upstream tokens of a provider."""
    changed, before = setup.run(_release(setup, client, target, policy=policy))
    if policy == "full":
        note(f"{changed.name} receives the account's full authority, whatever scopes it requests.")
    note(f"To undo: token-vault clients release {changed.id} {target} {before}")
    setup.show_one(client_fields(changed), sentence=f"{changed.name}: {target} {policy}")


async def _add(setup: Setup, options: _Options) -> tuple[Client, str | None]:
    from server.oauth.clients.authentication import secret_hash
    from vault import apis, clients
    from vault.audit import audit
    from vault.records import Event

    async with setup.open() as deployment:
        value = secrets.token_urlsafe(32) if options.secret else None
        now = deployment.now()
        reached = frozenset([await _check_target(deployment, one) for one in options.connections])
        client = replace(
            _client(deployment, options, reached=reached, now=now),
            secret_hash=None if value is None else secret_hash(value),
        )
        async with deployment.transaction() as transaction:
            for resource in options.resources:
                if await apis.find_api(transaction, resource) is None:
                    await apis.add_api(transaction, resource, name=client.name, now=now)
            await clients.save_client(transaction, client)
            event = Event(kind="client.registered", client_id=client.id, details={"kind": client.kind.value})
            await audit.append(transaction, event, now=now)
        return client, value


def _client(deployment: Deployment, options: _Options, *, reached: frozenset[str], now: int) -> Client:
    """The client that the options describe; contradictory options end the command."""
    from server.oauth.clients.rules import DEVICE_GRANT, USUAL_GRANT_TYPES
    from server.oauth.redirect_uris import check_redirect_uri
    from server.oauth.rules import TOKEN_EXCHANGE, OAuthError, clean_name
    from vault.records import Client, ClientKind, new_id

    for uri in options.redirect_uris:
        try:
            check_redirect_uri(uri, private_use_schemes=deployment.settings.registration.private_use_schemes)
        except OAuthError as error:
            fail(f"--redirect-uri {uri}: {error.description}")
    exchanges = options.exchanges or options.is_worker
    if not options.redirect_uris and not exchanges:
        fail(
            "add --redirect-uri with the address to return to after sign-in; only a client with --exchange can "
            "go without it"
        )
    grant_types = set[str](USUAL_GRANT_TYPES) if options.redirect_uris else set[str]()
    if options.by_device:
        grant_types.add(DEVICE_GRANT)
    if exchanges:
        grant_types.add(TOKEN_EXCHANGE)
    method = "none"
    if options.secret:
        method = "client_secret_basic"
    elif options.key is not None:
        method = "private_key_jwt"
    if not options.redirect_uris and method == "none":
        fail("a client without a user sign-in must authenticate: add --confidential or --key")
    return Client(
        id=new_id(),
        kind=ClientKind.MANUAL,
        name=clean_name(options.name) or fail("use a name with at least one visible character"),
        auth_method=method,
        redirect_uris=options.redirect_uris,
        grant_types=frozenset(grant_types),
        resources=options.resources,
        created_at=now,
        metadata=_metadata(deployment, options, reached),
    )


def _metadata(deployment: Deployment, options: _Options, reached: frozenset[str]) -> dict[str, object]:
    from server.http.cors import ORIGINS, origin_of
    from server.oauth.exchange import release, workers

    metadata: dict[str, object] = {}
    if options.key is not None:
        metadata["jwks"] = _jwks(options.key)
    for origin in options.origins:
        if origin_of(origin) != origin:
            fail(f"--origin {origin}: write it as https://host[:port]")
    if options.origins:
        metadata[ORIGINS] = list(options.origins)
    if options.release is not None:
        if options.release not in RELEASES[:2]:
            fail("--release takes proxy or narrowed. Set full for one provider: token-vault clients release")
        metadata[release.MEMBER] = {release.DEFAULT: options.release}
    if options.is_worker:
        metadata[workers.MEMBER] = workers.stored_rules(_worker_rules(deployment, options, reached))
    return metadata


async def _check_target(deployment: Deployment, named: str) -> str:
    """The name of the provider, or the ID of the connection, that rules are about."""
    from vault import connections

    if deployment.catalog.get(named) is None and await connections.exists(deployment.database, named):
        return named
    return provider_called(deployment.catalog, named).name


def _worker_rules(deployment: Deployment, options: _Options, reached: frozenset[str]) -> WorkerRules:
    from ipaddress import ip_network

    from server.oauth.exchange.subjects import Limits
    from server.oauth.exchange.workers import WorkerRules

    if not (options.addresses and options.connections and options.scopes and options.key is not None):
        fail("a worker needs --key, --worker-address, --worker-connection, and --worker-scope")
    for address in options.addresses:
        try:
            ip_network(address, strict=False)
        except ValueError:
            fail(f"--worker-address {address}: use an address, or a network such as 10.1.0.0/16")
    known = {scope for provider in deployment.catalog for scope in provider.scopes}
    for scope in options.scopes:
        if scope not in known:
            near = did_you_mean(scope, known)
            fail(f"--worker-scope {scope}: no provider has this scope.{near} See token-vault providers show NAME")
    return WorkerRules(options.addresses, Limits(reached, frozenset(options.scopes)))


def _jwks(path: Path) -> dict[str, object]:
    """The public keys in a file as a JWK set; refuses private keys, so that none is ever copied here."""
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, RSAKey

    from server.http.strict_json import json_object
    from server.oauth.clients.rules import public_keys

    try:
        content = path.expanduser().read_bytes()
    except OSError as error:
        fail(f"--key {path}: {error.strerror}")
    try:
        members = json_object(content)
        found = {"keys": list(public_keys(members if "keys" in members else {"keys": [members]}))}
    except ValueError:
        found = {"keys": list[dict[str, object]]()}
        for kind in (ECKey, RSAKey):
            try:
                key = kind.import_key(content)
            except (JoseError, ValueError, TypeError):
                continue
            if key.is_private:
                fail(f"--key {path}: this is a private key, which stays with the worker; use the public key")
            found = {"keys": list(public_keys({"keys": [{**key.as_dict(private=False), "kid": key.thumbprint()}]}))}
    if not found["keys"]:
        fail(f"--key {path}: no usable public key; use EC P-256 or RSA with at least 2048 bits, as PEM or JWK")
    return {"keys": found["keys"]}


async def _release(setup: Setup, named: str, target: str, *, policy: str) -> tuple[Client, str]:
    """The changed client, and the policy that applied before."""
    from server.oauth.exchange import release
    from vault import clients
    from vault.audit import audit
    from vault.records import Event

    if policy not in RELEASES:
        fail(f"no release policy {policy}; choose one of: {', '.join(RELEASES)}")
    async with setup.open() as deployment:
        client = await client_called(deployment.database, named)
        if policy != "proxy" and release.ceiling_of(client) is release.ReleasePolicy.PROXY:
            fail(
                "only a registered client with a secret or key can receive upstream tokens; add one with "
                "token-vault clients add"
            )
        name = await _check_target(deployment, target)
        chosen = {one: value.value for one, value in release.policies_of(client).items()} | {name: policy}
        changed = replace(client, metadata={**client.metadata, release.MEMBER: chosen})
        now = deployment.now()
        async with deployment.transaction() as transaction:
            await clients.update_client(transaction, changed)
            details = {"target": name, "release": policy, "narrowing": "none" if policy == "full" else "kept"}
            await audit.append(transaction, Event("release.changed", client_id=client.id, details=details), now=now)
        return changed, release.policy_of(client, provider=name, connection_id=name).value
