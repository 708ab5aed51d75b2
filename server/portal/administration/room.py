"""The guard of all administration pages: an administrator, live; a recent sign-in for what changes something.

`is_admin` is read with the session of each request, and once more in the transaction that changes something. Every
change is recorded with the administrator's name.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response
from starlette.routing import Route

from server.deployment import Deployment
from server.http import pages
from server.portal.forms import Form, PageRefused
from server.portal.requests import OwnVisit, own_route, sign_in_path
from vault import tickets, users
from vault.records import Event, TicketPurpose, User
from vault.storage.database import Transaction

ROOT: Final = "/administration"
RECENT: Final = 1800  # seconds since sign-in in which an administrator can change something
NOTICE_LIFETIME: Final = 900  # seconds


@dataclass(frozen=True, slots=True)
class AdminVisit:
    """A visit of a signed-in administrator."""

    own: OwnVisit

    @property
    def deployment(self) -> Deployment:
        return self.own.deployment

    @property
    def user(self) -> User:
        return self.own.user

    @property
    def form(self) -> Form:
        return self.own.form

    @property
    def path(self) -> str:
        """The path of the request, as it was sent."""
        return self.own.visit.request.url.path

    @property
    def is_recent(self) -> bool:
        """Whether the person proved who they are a short while ago.

        Where their sign-in provider does not say when it asked them, the session's own start counts.
        """
        session, now = self.own.session, self.deployment.now()
        began = session.expires_at - self.deployment.settings.sign_in.session_lifetime
        return now - (session.created_at or began) < RECENT

    def query(self, name: str) -> str:
        return self.own.visit.query(name)

    def param(self, name: str) -> str:
        """A part of the path."""
        return str(self.own.visit.request.path_params[name])

    async def page(self, template: str, context: dict[str, object], *, status: int = 200) -> Response:
        """Render a page of the room: its tabs, what was just done, and whether changes need a new sign-in."""
        values: dict[str, object] = {
            "done": await self._notice(),
            "sign_in_again": "" if self.is_recent else sign_in_path(self._with_query(), is_again=True),
            **context,
        }
        return self.own.page(f"administration/{template}", values, status=status)

    def _with_query(self) -> str:
        url = self.own.visit.request.url
        return url.path + (f"?{url.query}" if url.query else "")

    @asynccontextmanager
    async def change(self) -> AsyncGenerator[Transaction]:
        """A transaction in which the person still is an administrator when it is their turn. Raises PageRefused."""
        async with self.deployment.transaction() as transaction:
            current = await users.get_user(transaction, self.user.id)
            if current is None or current.disabled_at is not None or not current.is_admin:
                raise PageRefused("not_admin", kind="forbidden")
            yield transaction

    def event(self, kind: str, *, user_id: str | None = None, client_id: str | None = None, **about: object) -> Event:
        """What the administrator did: in the activity of the person it is about, or else in their own."""
        return Event(
            kind, user_id=user_id or self.user.id, client_id=client_id, details={**about, "by": self.user.name}
        )

    async def go(self, path: str, *, said: str = "", secret: str = "", undo: str = "") -> Response:
        """Show a page next that says what was done. `secret` is shown there once; `undo` is a path that takes it back.

        Kept sealed in a ticket: neither is in the address.
        """
        if not said:
            return pages.go(path)
        async with self.deployment.transaction() as transaction:
            handle = await tickets.issue(
                transaction,
                self.deployment.keys,
                purpose=TicketPurpose.NOTICE,
                payload={"said": said, "secret": secret, "undo": undo},
                lifetime=NOTICE_LIFETIME,
                now=self.deployment.now(),
                user_id=self.user.id,
                binding=self.own.session.token_hash,
            )
        return pages.go(f"{path}?done={handle}")

    async def _notice(self) -> dict[str, str] | None:
        handle = self.query("done")
        if not handle:
            return None
        deployment, purpose = self.deployment, TicketPurpose.NOTICE
        found = await tickets.peek(deployment.database, deployment.keys, handle, purpose=purpose, now=deployment.now())
        if found is None or found.user_id != self.user.id or found.binding != self.own.session.token_hash:
            return None
        async with deployment.transaction() as transaction:
            await tickets.consume(transaction, deployment.keys, handle, purpose=purpose, now=deployment.now())
        return {name: str(value) for name, value in found.payload.items()}


AdminPage = Callable[[AdminVisit], Awaitable[Response]]


def admin_route(
    deployment: Deployment, path: str, *, get: AdminPage | None = None, post: AdminPage | None = None, back: str = ""
) -> Route:
    """A page for administrators. A change after a long time leads to signing in again, and then to the page.

    `back` is that page, relative to a path without one of its own.
    """
    return own_route(
        deployment,
        ROOT + path,
        get=None if get is None else _guard(get, changes=False, back=back),
        post=None if post is None else _guard(post, changes=True, back=back),
    )


def _guard(page: AdminPage, *, changes: bool, back: str) -> Callable[[OwnVisit], Awaitable[Response]]:
    async def check_and_answer(own: OwnVisit) -> Response:
        if not own.user.is_admin:
            raise PageRefused("not_admin", kind="forbidden", detail=f"not an administrator: {own.user.id}")
        visit = AdminVisit(own)
        if changes and not visit.is_recent:
            target = visit.path.rpartition("/")[0] if back == ".." else back or visit.path
            return pages.go(sign_in_path(target, is_again=True))
        return await page(visit)

    return check_and_answer
