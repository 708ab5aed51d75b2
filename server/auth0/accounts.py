"""The My Account API's connected accounts: list and disconnect them, and list the available connections.

An application can see and end only the accounts that its user lets it use.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.auth0.names import connection_name, names_of, stands_for, strategy_of
from server.auth0.problems import MeProblem, invalid, me_route, no_content
from server.deployment import Deployment
from server.http.answers import json_answer
from server.oauth.clients.auth0 import me_audience
from vault import connections, delegations
from vault.records import Connection, ConnectionState, Principal
from vault.upkeep import revocations

PREFIX: Final = "cac_"
_MOST: Final = 20
_USUAL: Final = 10
_FILTERS: Final = 20
_PATIENCE: Final = 8.0  # seconds to wait for the provider
_NUMBER: Final = re.compile(r"[0-9]{1,3}")


def routes(deployment: Deployment) -> list[Route]:
    """The routes of this API's accounts and connections."""
    audience = me_audience(deployment)
    base = "/me/v1/connected-accounts"
    return [
        me_route(deployment, f"{base}/accounts", audience, {"GET": ("read:me:connected_accounts", list_accounts)}),
        me_route(
            deployment, f"{base}/accounts/{{id}}", audience, {"DELETE": ("delete:me:connected_accounts", disconnect)}
        ),
        me_route(deployment, f"{base}/connections", audience, {"GET": ("read:me:connected_accounts", list_names)}),
    ]


async def list_accounts(deployment: Deployment, request: Request, principal: Principal) -> Response:
    """List the accounts that the person lets this client use, oldest first. Query: `connection`, `take` (1 to 20),
    `from`."""
    wanted = request.query_params.getlist("connection")
    if len(wanted) > _FILTERS:
        raise invalid({"connection": f"at most {_FILTERS} can be named"})
    owned = [
        one
        for one in await list_usable(deployment, user_id=principal.user_id, client_id=principal.client_id)
        if not wanted or any(stands_for(deployment, name, one) for name in wanted)
    ]
    chosen, following = page_of(request, [one.id for one in owned])
    by_id = {one.id: one for one in owned}
    return json_answer(
        {"accounts": [account(deployment, by_id[one], asked=wanted) for one in chosen], **_next(following)},
    )


async def list_usable(deployment: Deployment, *, user_id: str, client_id: str) -> list[Connection]:
    """The accounts that the person lets this client use, the oldest first."""
    now = deployment.now()
    permitted = await delegations.list_for_client(deployment.database, user_id, client_id=client_id)
    held = {one.connection_id for one in permitted if one.is_live(now)}
    owned = await connections.list_connections(deployment.database, user_id)
    return sorted((one for one in owned if one.id in held), key=lambda one: (one.created_at, one.id))


def account(deployment: Deployment, connection: Connection, *, asked: Sequence[str] = ()) -> dict[str, object]:
    """An account as JSON, by a requested name; `state` is present only if its person must connect it again."""
    content: dict[str, object] = {
        "id": PREFIX + connection.id,
        "connection": connection_name(deployment, connection, asked=asked),
        "access_type": "offline",
        "scopes": sorted(connection.scopes),
        "created_at": _time(connection.created_at),
    }
    if connection.ends_at is not None:
        content["expires_at"] = _time(connection.ends_at)
    if connection.state is not ConnectionState.ACTIVE:
        content["state"] = connection.state.value
    return content


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def page_of(
    request: Request, ids: Sequence[str], *, usual: int = _USUAL, most: int = _MOST
) -> tuple[Sequence[str], str | None]:
    """The IDs on the requested page, and the cursor of the next one. Some clients send that cursor as `next`."""
    asked = request.query_params
    take = asked.get("take", str(usual))
    if _NUMBER.fullmatch(take) is None or not 1 <= int(take) <= most:
        raise invalid({"take": f"a number from 1 to {most}"})
    start = asked.get("from") or asked.get("next")
    if start is not None and start not in ids:
        raise invalid({"from": "this cursor is unknown or expired: start again without one"})
    first = 0 if start is None else ids.index(start)
    rest = ids[first + int(take) :]
    return ids[first : first + int(take)], rest[0] if rest else None


def _next(following: str | None) -> Mapping[str, object]:
    return {} if following is None else {"next": following}


async def list_names(deployment: Deployment, request: Request, principal: Principal) -> Response:
    """List the connections that a person can make here, by Auth0's names. Query: `take`, `from`."""
    known = {
        name: one
        for one in deployment.catalog
        if one.audience is None and deployment.vault.upstreams[one.name].is_configured
        for name in names_of(deployment, one.name)
    }
    chosen, following = page_of(request, sorted(known))
    found: list[dict[str, object]] = [
        {"name": name, "strategy": strategy_of(known[name].name), "scopes": sorted(known[name].scope.default)}
        for name in chosen
    ]
    return json_answer({"connections": found, **_next(following)})


async def disconnect(deployment: Deployment, request: Request, principal: Principal) -> Response:
    """End the account here immediately and, unlike Auth0, also at the provider."""
    wanted = str(request.path_params["id"]).removeprefix(PREFIX)
    found = next(
        (
            one
            for one in await list_usable(deployment, user_id=principal.user_id, client_id=principal.client_id)
            if one.id == wanted
        ),
        None,
    )
    if found is None:
        raise MeProblem("not_found", "This connected account doesn't exist")
    async with deployment.transaction() as transaction:
        await connections.disconnect(
            transaction, deployment.keys, found, now=deployment.now(), client_id=principal.client_id
        )
    with suppress(TimeoutError):  # the rest is due and will be retried
        async with asyncio.timeout(_PATIENCE):
            await revocations.revoke_upstream(deployment.vault, found.id)
    return no_content()
