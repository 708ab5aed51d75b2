"""`clients ...`: list agents, register one manually, and set how it receives upstream tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from providers.definitions.file_errors import reason_of
from server.event_texts import when
from server.terminal.completion import complete_providers, complete_users
from server.terminal.context import Setup, command, fail, note
from server.terminal.names import ClientName, client_called, user_called

if TYPE_CHECKING:
    from server.administration.agents import BackchannelSpec
    from vault.records import Client
    from vault.upkeep.agent_receipts import AgentReceipt

app = typer.Typer(no_args_is_help=True, help="Agents (OAuth clients).")


def client_fields(client: Client) -> dict[str, object]:
    """A client as printed; never the secret's hash."""
    from server.administration.agents import asking_of
    from server.oauth import client_tokens
    from server.oauth.exchange import release, workers

    rules, asking = workers.rules_of(client), asking_of(client)
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
        "ciba": None if asking is None else _asking_fields(asking),
        "client_credentials": {"scopes": sorted(client_tokens.scope_limit(client) or ())}
        if client_tokens.acts_for_nobody(client)
        else None,
        "created_at": when(client.created_at),
        "last_used_at": when(client.last_used_at),
    }


def _asking_fields(asking: BackchannelSpec) -> dict[str, object]:
    return {
        "notify": asking.notify or None,
        "push": asking.is_pushed,
        "details_types": list(asking.details_types),
        "signing_alg": asking.signing_alg or None,
        "user_code": asking.sends_user_code,
    }


@command(app, "list")
def list_(setup: Setup) -> None:
    """List all agents."""

    columns = ("client_id", "name", "kind", "auth_method", "last_used_at")
    listing = setup.listing(columns=columns, empty="No agents registered.")

    async def read() -> None:
        from vault import clients

        async with setup.open(uses_accounts=False) as deployment:
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
    """Remove an agent and end all its grants and tokens."""

    async def end() -> tuple[Client, tuple[AgentReceipt, ...]]:
        from server.administration import agents, receipts
        from server.administration.actor import Actor

        async with setup.open(uses_accounts=False) as deployment:
            found = await client_called(deployment.database, client)
            started = deployment.now()
            await agents.remove(Actor(deployment, None, "command_line"), found)
            given = await receipts.list_of_agents(deployment, client_id=found.id, limit=1000)
            return found, tuple(one for one in given if one.ended_at >= started)

    removed, given = setup.run(end())
    setup.show_one(
        {**client_fields(removed), "receipts": [one.id for one in given]},
        sentence=f"Removed {removed.name}; its tokens no longer work.{_held_tokens(removed, given)}",
    )


def _held_tokens(removed: Client, given: tuple[AgentReceipt, ...]) -> str:
    """The provider tokens that the agent may still hold, as a sentence."""
    held = [one for one in given if one.reason != "shared_grant"]
    if not held:
        return ""
    ends = [one.expires_at for one in held if one.expires_at is not None]
    until = "one doesn't expire" if len(ends) < len(held) else f"the last one works until {when(max(ends))}"
    return (
        f" It may hold tokens of {len(held)} accounts, which stay connected: {until}. "
        f"See token-vault receipts agents {removed.id}"
    )


_OPTIONS: Final = {  # the option for each field of a refused agent
    "redirect_uris": "--redirect-uri",
    "origins": "--origin",
    "jwks": "--key",
    "ciba": "--ciba:",
    "ciba.notify": "--ciba-notify:",
    "ciba.signing_alg": "--ciba-sign:",
    "worker.addresses": "--worker-address",
    "worker.connections": "--worker-connection",
    "worker.scopes": "--worker-scope",
    "resources": "--resource:",
    "client_credentials": "--client-credentials:",
    "client_credentials.scopes": "--client-scope:",
    "service_account": "--admin",
    "service_account.scopes": "--admin-scope:",
}


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
    device: Annotated[bool, typer.Option("--device", help="Allow sign-in with a code on another device.")] = False,
    exchange: Annotated[bool, typer.Option("--exchange", help="Allow token exchange at /token.")] = False,
    auth0: Annotated[bool, typer.Option("--auth0", help="Allow what clients of Auth0's Token Vault need.")] = False,
    ciba: Annotated[
        bool, typer.Option("--ciba", help="Allow it to ask people for approval in the background (CIBA).")
    ] = False,
    ciba_notify: Annotated[
        str | None, typer.Option("--ciba-notify", help="With --ciba: URL to notify of answers.")
    ] = None,
    ciba_details: Annotated[
        list[str] | None,
        typer.Option("--ciba-details", help="With --ciba: a type of authorization details that it can send."),
    ] = None,
    ciba_push: Annotated[
        bool, typer.Option("--ciba-push", help="With --ciba-notify: send it the tokens themselves.")
    ] = False,
    ciba_sign: Annotated[
        str | None,
        typer.Option("--ciba-sign", help="With --ciba and --key: the algorithm with which it signs every request."),
    ] = None,
    ciba_user_code: Annotated[
        bool, typer.Option("--ciba-user-code", help="With --ciba: it must send the code that the person has set.")
    ] = False,
    release: Annotated[
        str | None,
        typer.Option("--release", help="Upstream tokens it receives: proxy (none) or narrowed (the default)."),
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
    client_credentials: Annotated[
        bool,
        typer.Option("--client-credentials", help="Let it act for itself, only at the APIs named by --resource."),
    ] = False,
    client_scope: Annotated[
        list[str] | None,
        typer.Option(
            "--client-scope",
            help="With --client-credentials: a scope that it can get. Default: all scopes of these APIs.",
        ),
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option(
            "--admin",
            help="Make it a service account of this admin, for the Admin API.",
            autocompletion=complete_users,
        ),
    ] = None,
    admin_scope: Annotated[
        list[str] | None, typer.Option("--admin-scope", help="With --admin: a scope, such as admin:read.")
    ] = None,
) -> None:
    """Register an agent. A secret is printed only once."""
    worker = tuple(tuple(one or ()) for one in (worker_address, worker_connection, worker_scope))
    asking = (ciba_notify or "", tuple(ciba_details or ()), ciba_push, ciba_sign or "", ciba_user_code)
    options = {
        "name": name,
        "redirect_uris": tuple(dict.fromkeys(redirect_uri or ())),
        "has_secret": confidential,
        "resources": tuple(resource or ()),
        "by_device": device,
        "exchanges": exchange or auth0,
        "speaks_auth0": auth0,
        "release": release,
        "origins": tuple(origin or ()),
        "asks": ciba or any(asking),
        "by_itself": frozenset(client_scope or ()) if client_credentials or client_scope else None,
    }
    _check_combination(options, worker, key=key, admin=admin)
    client, secret = setup.run(
        _add(
            setup,
            options,
            worker=worker,
            asking=asking,
            key=key,
            admin=admin,
            admin_scopes=frozenset(admin_scope or ()),
        )
    )
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
    """Set how an agent receives a provider's upstream tokens: proxy, narrowed, or full."""
    changed, before = setup.run(_release(setup, client, target, policy=policy))
    if policy == "full":
        note(f"{changed.name} receives the account's full authority, whatever scopes it requests.")
    note(f"To undo: token-vault clients release {changed.id} {target} {before}")
    setup.show_one(client_fields(changed), sentence=f"{changed.name}: {target} {policy}")


def _check_combination(
    options: Mapping[str, object], worker: tuple[tuple[str, ...], ...], *, key: Path | None, admin: str | None
) -> None:
    """Refuse contradictory options with texts that name the options."""
    is_worker = any(worker)
    needs_nobody = admin is not None or options["by_itself"] is not None
    may_sign_in = options["redirect_uris"] or options["by_device"]
    if not (may_sign_in or options["exchanges"] or options["asks"]) and not is_worker and not needs_nobody:
        fail(
            "add --redirect-uri with the address to return to after sign-in; only a client with --device, --exchange, "
            "or --ciba can go without it"
        )
    if is_worker and not (all(worker) and key is not None):
        fail("a worker needs --key, --worker-address, --worker-connection, and --worker-scope")
    if not may_sign_in and not options["has_secret"] and key is None:
        fail("a client without a user sign-in must authenticate: add --confidential or --key")
    if options["release"] not in {None, "proxy", "narrowed"}:
        fail("--release takes proxy or narrowed. Set full for one provider: token-vault clients release")


async def _add(
    setup: Setup,
    options: Mapping[str, Any],
    *,
    worker: tuple[tuple[str, ...], ...],
    asking: tuple[str, tuple[str, ...], bool, str, bool],
    key: Path | None,
    admin: str | None,
    admin_scopes: frozenset[str],
) -> tuple[Client, str | None]:
    from server.administration import agents
    from server.administration.actor import Actor, ChangeRefused
    from server.oauth.rules import ADMIN_READ

    async with setup.open() as deployment:
        service = None
        if admin is not None:
            person = await user_called(deployment.database, admin)
            service = agents.ServiceAccountSpec(person, admin_scopes or frozenset({ADMIN_READ}))
        wanted = agents.NewAgent(
            **{name: value for name, value in options.items() if name not in {"asks", "by_itself"}},
            by_itself=None if options["by_itself"] is None else agents.OwnApisSpec(options["by_itself"]),
            asking=agents.BackchannelSpec(*asking) if options["asks"] else None,
            jwks=None if key is None else _jwks(key),
            worker=agents.WorkerSpec(*worker),
            service=service,
        )
        try:
            made = await agents.register(Actor(deployment, None, "command_line"), wanted)
        except ChangeRefused as refused:
            option = _OPTIONS.get(refused.field)
            fail(refused.description if option is None else f"{option} {refused.description}")
        return made.client, made.secret


def _jwks(path: Path) -> dict[str, object]:
    """The public keys in a file as a JWK set; refuses private keys, so that none is ever copied here."""
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, RSAKey

    from server.http.strict_json import json_object
    from server.oauth.clients.rules import public_keys

    try:
        content = path.expanduser().read_bytes()
    except OSError as error:
        fail(f"--key: can't read {path}: {reason_of(error)}")
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
    from server.administration import agents
    from server.administration.actor import Actor

    async with setup.open() as deployment:
        actor, client = Actor(deployment, None, "command_line"), await client_called(deployment.database, named)
        return await agents.set_release(actor, client, target=target, policy=policy)
