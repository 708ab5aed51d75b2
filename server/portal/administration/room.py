"""The guard of all administration pages: the person must be an administrator now, and changes need a recent sign-in.

The role is read with the session of each request. `server.administration` makes the changes: it reads the role again,
and records each change with the administrator's name. If `sign_in.passkey_for` includes administration, a change also
needs a passkey.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response
from starlette.routing import Route

from server.administration.actor import RECENT, Actor, ChangeRefused
from server.deployment import Deployment
from server.http import pages
from server.portal.forms import Form, PageRefused
from server.portal.requests import OwnVisit, own_route, sign_in_path
from server.portal.step_up import link_of
from server.sign_in import step_up
from vault import tickets
from vault.records import TicketPurpose, User

ROOT: Final = "/administration"
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
        """Whether the person has authenticated recently.

        If their sign-in provider doesn't report when, the start of the session is used.
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
        """Render an administration page: its tabs, what was just done, and whether changes need a new sign-in."""
        values: dict[str, object] = {
            "done": await self._notice(),
            "to_change": self._way_to_change() if self.user.role.administers else {},
            "may_change": self.user.role.administers,
            **context,
        }
        return self.own.page(f"administration/{template}", values, status=status)

    def _way_to_change(self) -> dict[str, str]:
        """What the person must do before they can change something, and where; empty if nothing."""
        back = self._with_query()
        if step_up.lacks_proof(self.deployment, self.own.session, "administration"):
            needed = step_up.StepUpRequired("", needs="passkey")
            return {"path": link_of(needed, back=back), "needs": "passkey"}
        return {} if self.is_recent else {"path": sign_in_path(back, is_again=True), "needs": "recent"}

    def _with_query(self) -> str:
        url = self.own.visit.request.url
        return url.path + (f"?{url.query}" if url.query else "")

    @property
    def actor(self) -> Actor:
        """The administrator who makes the change."""
        return Actor(self.deployment, self.user, "administration")

    async def go(
        self, path: str, *, said: str = "", secret: str = "", undo: str = "", secret_kind: str = "link"
    ) -> Response:
        """Go to a page that reports what was done. `secret` is shown there once; `undo` is a path that undoes it.

        `secret_kind`: `link` for a person, `token` for a directory, or `webhook_secret`.

        All of this is sealed in a ticket, so the address contains none of it.
        """
        if not said:
            return pages.go(path)
        async with self.deployment.transaction() as transaction:
            handle = await tickets.issue(
                transaction,
                self.deployment.keys,
                purpose=TicketPurpose.NOTICE,
                payload={"said": said, "secret": secret, "undo": undo, "kind": secret_kind},
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
    deployment: Deployment,
    path: str,
    *,
    get: AdminPage | None = None,
    post: AdminPage | None = None,
    back: str = "",
    is_presence: bool = True,
    is_form: bool = False,
) -> Route:
    """A page for administrators, which auditors can read.

    A change long after the sign-in first leads to signing in again, and then back to the page.

    `back` is that page, as a relative path, for a path without a page of its own. `is_presence`: as in `own_route`.
    `is_form`: the page has only the form for a change.
    """
    return own_route(
        deployment,
        ROOT + path,
        get=None if get is None else _guard(get, is_for_admins=is_form, changes=False, back=back),
        post=None if post is None else _guard(post, is_for_admins=True, changes=True, back=back),
        is_presence=is_presence,
    )


def _guard(
    page: AdminPage, *, is_for_admins: bool, changes: bool, back: str
) -> Callable[[OwnVisit], Awaitable[Response]]:
    @functools.wraps(page)
    async def check_and_answer(own: OwnVisit) -> Response:
        if not own.user.role.audits:
            raise PageRefused("not_admin", kind="forbidden", detail=f"not an administrator: {own.user.id}")
        if is_for_admins and not own.user.role.administers:
            raise PageRefused("auditor_reads", kind="forbidden", detail=f"auditor: {own.user.id}")
        visit = AdminVisit(own)
        if changes:
            target = visit.path.rpartition("/")[0] if back == ".." else back or visit.path
            await step_up.check_passkey(own.deployment, own.session, "administration", back=target)
            if not visit.is_recent:
                return pages.go(sign_in_path(target, is_again=True))
        try:
            return await page(visit)
        except ChangeRefused as refused:
            raise PageRefused.of_change(refused) from refused

    return check_and_answer
