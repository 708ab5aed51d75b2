"""The actor of an administrative change, and the refusal of such a change.

A person must be an admin at the time of the change: each change reads their role in its transaction. The owner of the
data directory needs no account.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

from server.deployment import Deployment
from server.errors import PersonRefused
from server.sign_in import roles
from vault import users
from vault.records import Client, Event, User
from vault.storage.database import Transaction

Method = Literal["administration", "admin_api", "command_line", "scim"]
RECENT: Final = 1800  # seconds after sign-in during which an admin can make changes


class ChangeRefused(PersonRefused):
    """A change that can't be made. `reason` names the page's text (`refused.REASON`); `field` is the field to correct.

    `values` fill in the placeholders of that text.
    """

    code = "change_refused"

    def __init__(
        self, reason: str, description: str, *, kind: str = "invalid_request", field: str = "", **values: str
    ) -> None:
        super().__init__(description, kind=kind, detail=reason)
        self.reason = reason
        self.field = field
        self.values = values


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and how. `user` is None for the owner of the data directory and for a company's directory.

    `agent` is the Admin API's client, `directory` the name of the directory's token.
    """

    deployment: Deployment
    user: User | None
    method: Method
    agent: Client | None = None
    directory: str = ""

    @property
    def is_operator(self) -> bool:
        """Whether this is the owner of the data directory."""
        return self.user is None and not self.directory

    @property
    def via(self) -> str:
        """The client or directory through which the actor acts; empty if neither."""
        return self.directory if self.agent is None else self.agent.name or self.agent.id

    @asynccontextmanager
    async def change(self) -> AsyncGenerator[Transaction]:
        """A transaction that starts with `check`."""
        async with self.deployment.database.transaction() as transaction:
            await self.check(transaction)
            yield transaction

    async def check(self, transaction: Transaction) -> None:
        """Raises ChangeRefused unless the person is still an admin within this transaction, and the refusal of the
        caller's session or token if that has ended."""
        if self.user is not None:
            await users.hold_admins(transaction)  # serializes with changes that end this person's rights
        await self.deployment.check_caller(transaction)
        if self.user is None:
            return
        current = await users.get_user(transaction, self.user.id)
        now_is = None if current is None else await roles.with_groups(self.deployment, current, reader=transaction)
        if now_is is None or not now_is.role.administers:
            raise ChangeRefused("not_admin", "You're no longer an admin of this vault.", kind="forbidden")

    def event(
        self, kind: str, /, *, user_id: str | None = None, client_id: str | None = None, **about: object
    ) -> Event:
        """The event of the change, in the activity of the affected person, or else in the admin's own."""
        details = {**about, **({} if self.user is None else {"by": self.user.name})}
        if self.via:
            details |= {"via": self.via}
        own = None if self.user is None else self.user.id
        return Event(kind, user_id=user_id or own, client_id=client_id, details=details)
