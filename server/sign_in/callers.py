"""The session and the grant behind a request, checked again in each transaction that the request opens.

Whatever ends a session, or a person's grant, locks the person first. So either the check sees the end, or the end waits
for the request's commit and then also ends what the request created.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from server.deployment import Deployment
from server.errors import PersonRefused
from vault import grants, users
from vault.records import Principal, Session
from vault.sign_in import sessions
from vault.storage.database import Transaction


class SessionEnded(PersonRefused):
    """The session that sent this request has ended in the meantime."""

    code = "session_ended"

    def __init__(self) -> None:
        super().__init__("You've been signed out. Sign in and try again.", kind="not_signed_in")


@dataclass(frozen=True, slots=True)
class SessionCaller:
    """A signed-in browser."""

    deployment: Deployment
    session: Session

    async def check(self, transaction: Transaction) -> None:
        """Raises SessionEnded."""
        await users.hold_user(transaction, self.session.user_id)
        idle = self.deployment.settings.sign_in.session_idle_lifetime
        now = self.deployment.now()
        found = await sessions.get_session(transaction, self.session.token_hash, now=now, idle_lifetime=idle)
        if found is None:
            raise SessionEnded


@dataclass(frozen=True, slots=True)
class AgentCaller:
    """An agent with an access token. `refusal` makes the refusal of a token that has ended."""

    principal: Principal
    refusal: Callable[[], Exception]

    async def check(self, transaction: Transaction) -> None:
        """Raises the refusal."""
        principal = self.principal
        await users.hold_user(transaction, principal.user_id)
        is_registered = await grants.hold_client(transaction, principal.client_id)
        live = await grants.live_principal_facts(transaction, principal.grant_id, token_id=principal.token_id)
        if not is_registered or live is None:
            raise self.refusal()
