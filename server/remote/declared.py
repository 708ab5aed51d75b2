"""MCP servers as a declaration names them, after everything else in it. A person reviews their tools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from providers.remote.authorization import RemoteRegistration
from server.administration import applying
from server.administration.actor import Actor, ChangeRefused
from server.administration.declaration import Declaration, DeclaredMcpServer
from server.administration.declaring.planned import PlannedChange, differences_between
from server.remote import servers
from vault.mcp.servers import list_servers


async def plan(actor: Actor, wanted: Declaration, *, prunes: bool = False) -> tuple[PlannedChange, ...]:
    """What is to do for the whole declaration, in its order. Raises ChangeRefused for what can never be."""
    found = await applying.plan(actor, wanted, prunes=prunes)
    if wanted.mcp_servers is None:
        return found
    return (*found, *[one async for one in _plan_servers(actor, wanted.mcp_servers, prunes=prunes)])


async def _plan_servers(
    actor: Actor, wanted: Mapping[str, DeclaredMcpServer], *, prunes: bool
) -> AsyncIterator[PlannedChange]:
    known = {one.name: one for one in await list_servers(actor.deployment.database)}
    for name, declared in wanted.items():
        held = known.get(name)
        after: dict[str, object] = {"url": declared.url, "disabled": declared.disabled}
        before: dict[str, object] = {} if held is None else {"url": held.url, "disabled": held.is_disabled}
        if held is None:
            new_server = _new_server(name, declared)
            run = _add(actor, new_server, is_disabled=declared.disabled)
            yield PlannedChange("create", "mcp_server", name, differences_between(before, after), run)
        elif held.url != declared.url:
            raise ChangeRefused(
                "server_refused",
                f"mcp_servers.{name}: its address can't change. Remove it first, or give it another name in the file",
                field=f"mcp_servers.{name}.url",
            )
        elif differences := differences_between(before, after):
            run = _set_disabled(actor, name, is_disabled=declared.disabled)
            yield PlannedChange("update", "mcp_server", name, differences, run)
    if prunes:
        for name in sorted(known.keys() - wanted.keys()):
            yield PlannedChange("remove", "mcp_server", name, (), _remove(actor, name))


def _new_server(name: str, declared: DeclaredMcpServer) -> servers.NewServer:
    client = None
    if declared.client_id is not None:
        secret = None if declared.client_secret is None else declared.client_secret.get_secret_value()
        method = "none" if secret is None else "client_secret_basic"
        client = RemoteRegistration(declared.client_id, secret, method)
    key = servers.key_of(declared.sign_in, declared.key_header)
    return servers.NewServer(name, declared.url, declared.title, client, declared.issuer, key)


def _add(actor: Actor, new_server: servers.NewServer, *, is_disabled: bool) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        await servers.add(actor, new_server)
        await servers.set_disabled(actor, new_server.name, is_disabled=is_disabled)

    return run


def _set_disabled(actor: Actor, name: str, *, is_disabled: bool) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        await servers.set_disabled(actor, name, is_disabled=is_disabled)

    return run


def _remove(actor: Actor, name: str) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        await servers.remove(actor, name)

    return run
