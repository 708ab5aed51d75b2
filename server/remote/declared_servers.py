"""MCP servers in a declaration, applied after everything except imported APIs. A person reviews their tools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Final

from server.administration import reconciliation
from server.administration.actor import Actor, ChangeRefused
from server.administration.declaration import Declaration, DeclaredMcpServer
from server.administration.declarations.planned_changes import PlannedChange, differences_between
from server.administration.registrations import RegistrationInput
from server.remote import servers
from server.remote.declared_imports import plan_imports
from vault.mcp.servers import McpServer, list_servers
from vault.registrations import get_registration

_FIXED: Final = {
    "url": "address",
    "title": "title",
    "sign_in": "sign-in",
    "issuer": "authorization server",
    "client_secret": "client without a secret",
}


async def plan(
    actor: Actor, wanted: Declaration, *, prunes: bool = False, first: Actor | None = None
) -> tuple[PlannedChange, ...]:
    """Plan the changes for the whole declaration, in order. Raises ChangeRefused if it can't be applied.

    `first`: see `plan_imports`.
    """
    found = await reconciliation.plan(actor, wanted, prunes=prunes)
    if wanted.mcp_servers is not None:
        found = (*found, *[one async for one in _plan_servers(actor, wanted.mcp_servers, prunes=prunes)])
    if wanted.imported_apis is not None:
        imports = plan_imports(actor, wanted.imported_apis, prunes=prunes, first=first)
        found = (*found, *[one async for one in imports])
    return found


async def _plan_servers(
    actor: Actor, wanted: Mapping[str, DeclaredMcpServer], *, prunes: bool
) -> AsyncIterator[PlannedChange]:
    known = {one.name: one for one in await list_servers(actor.deployment.database)}
    for name, declared in wanted.items():
        held = known.get(name)
        after: dict[str, object] = {"url": declared.url}
        if declared.disabled is not None:
            after["disabled"] = declared.disabled
        new_server = _new_server(name, declared)
        if held is None:
            run = partial(_add, actor, new_server, is_disabled=declared.disabled is True)
            yield PlannedChange("create", "mcp_server", name, differences_between({}, after), run)
            continue
        if (fixed := _fixed_change(held, declared, new_server)) is not None:
            raise ChangeRefused(
                "server_refused",
                f"mcp_servers.{name}: its {_FIXED[fixed]} can't change. Remove it first, or give it another name in "
                "the file",
                field=f"mcp_servers.{name}.{fixed}",
            )
        before: dict[str, object] = {"url": held.url, "disabled": held.is_disabled}
        entry = None
        if declared.client_id is not None:
            client_before, client_after = await _client_facts(actor, name, declared)
            if client_before != client_after:
                entry = RegistrationInput(declared.client_id, _secret_of(declared) or "")
            before, after = {**before, **client_before}, {**after, **client_after}
        if differences := differences_between(before, after):
            run = partial(_update, actor, held, is_disabled=declared.disabled, entry=entry)
            yield PlannedChange("update", "mcp_server", name, differences, run)
    if prunes:
        for name in sorted(known.keys() - wanted.keys()):
            servers.check_no_rule(actor.deployment, name)
            yield PlannedChange("remove", "mcp_server", name, (), partial(servers.remove, actor, name))


def _fixed_change(held: McpServer, declared: DeclaredMcpServer, wanted: servers.NewServer) -> str | None:
    """The first fixed member whose declared value differs from the one with which the server was added."""
    facts = held.facts
    credential = {one: facts[one] for one in ("header", "scheme") if one in facts}
    issuer = facts.get("authorization_server") or facts.get("issuer")
    changed = {
        "url": held.url != declared.url,
        "title": bool(declared.title.strip()) and servers.title_of(wanted) != held.title,
        "sign_in": credential != ({} if wanted.key is None else wanted.key.facts()),
        "issuer": None not in {issuer, declared.issuer} and issuer != declared.issuer,
        "client_secret": facts.get("client_auth") == "none" and declared.client_secret is not None,
    }
    return next((name for name, is_changed in changed.items() if is_changed), None)


async def _client_facts(
    actor: Actor, name: str, declared: DeclaredMcpServer
) -> tuple[dict[str, object], dict[str, object]]:
    """The stored client and the declared one, without secrets."""
    stored = await get_registration(actor.deployment.database, name)
    before: dict[str, object] = {"client_id": None if stored is None else stored.client_id}
    after: dict[str, object] = {"client_id": declared.client_id}
    if secret := _secret_of(declared):
        before["client_secret"] = (
            reconciliation.SECRET if await reconciliation.has_secret(actor, stored, secret) else None
        )
        after["client_secret"] = reconciliation.SECRET
    return before, after


def _secret_of(declared: DeclaredMcpServer) -> str | None:
    return None if declared.client_secret is None else declared.client_secret.get_secret_value()


def _new_server(name: str, declared: DeclaredMcpServer) -> servers.NewServer:
    client = None if declared.client_id is None else servers.EnteredClient(declared.client_id, _secret_of(declared))
    key = servers.key_of(declared.sign_in, declared.key_header)
    return servers.NewServer(name, declared.url, declared.title, client, declared.issuer, key)


async def _add(actor: Actor, new_server: servers.NewServer, *, is_disabled: bool) -> None:
    await servers.add(actor, new_server, is_disabled=is_disabled)


async def _update(actor: Actor, held: McpServer, *, is_disabled: bool | None, entry: RegistrationInput | None) -> None:
    if entry is not None:
        await reconciliation.save_registration(actor, held.name, entry)
    if is_disabled is not None:
        await servers.set_disabled(actor, held.name, is_disabled=is_disabled)
