"""The way back to an application that had its person connect an account: its address, and a single-use code for it.

The code stands for the connection. It works once, with the secret that the application kept, for the same address,
client and person.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from server.deployment import Deployment
from server.http.redirects import with_parameters
from vault import tickets
from vault.records import TicketPurpose

LIFETIME: Final = 300  # seconds, of a code


@dataclass(frozen=True, slots=True)
class AppReturn:
    """Where the browser goes afterwards, and what the code will be bound to.

    `session` is the SHA-256 of the secret that only the application has, in hex; `challenge` its PKCE challenge (RFC
    7636), empty if it sent none.
    """

    redirect_uri: str
    state: str | None = field(repr=False)
    session: str = field(repr=False)
    challenge: str = ""

    def payload(self) -> dict[str, object]:
        return {
            "redirect_uri": self.redirect_uri,
            "state": self.state,
            "session": self.session,
            "challenge": self.challenge,
        }

    def address(self, **answer: str) -> str:
        """The redirect URI with an answer; `state` exactly as it was received."""
        more = {} if self.state is None else {"state": self.state}
        return with_parameters(self.redirect_uri, {**answer, **more})


def read_return(stored: object) -> AppReturn | None:
    """What `AppReturn.payload` made; None where nothing was kept."""
    if not isinstance(stored, Mapping):
        return None
    kept: dict[str, object] = {str(name): value for name, value in stored.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- stored JSON
    state = kept.get("state")
    return AppReturn(
        redirect_uri=str(kept["redirect_uri"]),
        state=None if state is None else str(state),
        session=str(kept["session"]),
        challenge=str(kept["challenge"]),
    )


def session_digest(secret: str) -> str:
    """The stored form of the application's secret."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


async def issue_code(
    deployment: Deployment, back: AppReturn, *, connection_id: str, user_id: str, client_id: str | None
) -> str:
    """The address with a new code for the connection."""
    async with deployment.transaction() as transaction:
        code = await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.APP_CODE,
            payload={"connection": connection_id, **back.payload()},
            lifetime=LIFETIME,
            now=deployment.now(),
            user_id=user_id,
            client_id=client_id,
        )
    return back.address(connect_code=code)
