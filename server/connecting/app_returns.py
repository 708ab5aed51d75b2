"""The return to an application that had its user connect an account: the redirect URI, and a single-use code for it.

The code represents the connection. It works once, with the secret that the application kept, for the same redirect URI,
client, and person.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from server.deployment import Deployment
from server.http.redirects import with_parameters
from vault import connections, delegations, grants, tickets
from vault.audit import audit
from vault.records import Connection, Delegation, TicketPurpose
from vault.storage.database import Transaction

LIFETIME: Final = 300  # seconds, of a code
_ENDED: Final = "This application's access ended in the meantime."
_DISCONNECTED: Final = "This account has been disconnected in the meantime."


@dataclass(frozen=True, slots=True)
class AppReturn:
    """Where the browser goes afterwards, and the values that the code is bound to.

    `session` is the SHA-256 of the secret that only the application has, in hex; `challenge` its PKCE challenge (RFC
    7636), empty if it sent none. `services` are the clients that are the application's own APIs: the person's answer
    applies to them, too. `name`: the application's name for the connection.
    """

    redirect_uri: str
    state: str | None = field(repr=False)
    session: str = field(repr=False)
    challenge: str = ""
    services: tuple[str, ...] = ()
    name: str = ""

    def payload(self) -> dict[str, object]:
        return {
            "redirect_uri": self.redirect_uri,
            "state": self.state,
            "session": self.session,
            "challenge": self.challenge,
            "services": list(self.services),
            "name": self.name,
        }

    def address(self, **answer: str) -> str:
        """The redirect URI with an answer; `state` exactly as it was received."""
        more = {} if self.state is None else {"state": self.state}
        return with_parameters(self.redirect_uri, {**answer, **more})


def read_return(stored: object) -> AppReturn | None:
    """Read what `AppReturn.payload` stored; None if nothing was stored."""
    if not isinstance(stored, Mapping):
        return None
    kept: dict[str, object] = {str(name): value for name, value in stored.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- stored JSON
    state, services = kept.get("state"), kept.get("services")
    return AppReturn(
        redirect_uri=str(kept["redirect_uri"]),
        state=None if state is None else str(state),
        session=str(kept["session"]),
        challenge=str(kept["challenge"]),
        services=tuple(str(one) for one in services) if isinstance(services, list) else (),  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- stored JSON
        name=str(kept.get("name", "")),
    )


def session_digest(secret: str) -> str:
    """The stored form of the application's secret."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


async def issue_code(
    deployment: Deployment, back: AppReturn, *, connection: Connection, client_id: str | None, is_allowed: bool
) -> str:
    """The redirect URI with a new code for the connection. Gives the application's services the same permission.

    With an error instead if the application or the account has ended in the meantime, or the permission that the person
    gave the application (`is_allowed`).
    """
    async with deployment.transaction() as transaction:
        now = deployment.now()
        registered = [
            one
            for one in sorted({client_id or "", *back.services})  # of two that lock the same clients, one is first
            if await grants.hold_client(transaction, one)
        ]
        if client_id is None or client_id not in registered:
            return back.address(error="access_denied", error_description=_ENDED)
        if not await connections.hold(transaction, connection.id, user_id=connection.user_id):
            return back.address(error="access_denied", error_description=_DISCONNECTED)
        held = await delegations.hold(
            transaction, user_id=connection.user_id, client_id=client_id, connection_id=connection.id
        )
        if held is not None and held.is_live(now):
            services = [one for one in back.services if one in registered]
            await _allow_services(transaction, services, held, connection, now=now)
        elif is_allowed:
            return back.address(error="access_denied", error_description=_ENDED)
        code = await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.APP_CODE,
            payload={"connection": connection.id, **back.payload()},
            lifetime=LIFETIME,
            now=now,
            user_id=connection.user_id,
            client_id=client_id,
        )
    return back.address(connect_code=code)


async def _allow_services(
    transaction: Transaction, services: Iterable[str], held: Delegation, connection: Connection, *, now: int
) -> None:
    for service in services:
        await delegations.extend(
            transaction,
            user_id=connection.user_id,
            client_id=service,
            connection_id=connection.id,
            scopes=held.scopes,
            now=now,
            ask=held.ask,
            expires_at=held.expires_at,
        )
        event = delegations.extended_event(
            connection, client_id=service, scopes=held.scopes, ask=held.ask, expires_at=held.expires_at
        )
        await audit.append(transaction, event, now=now)
