"""One request of a browser to a page: who it is, its posted form, and the routes that pass it to a page's function.

Every form passes the same steps here before a page sees it: read it within limits, then check the session, its origin,
and its token. For most pages, each transaction checks the session again. A page can't skip a step.
"""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote, unquote, urlencode, urlsplit

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server import errors
from server.connecting.links import ConnectRefused
from server.deployment import Deployment
from server.errors import PersonRefused
from server.http import pages
from server.http.page_texts import text, use_language
from server.portal import csrf
from server.portal.forms import Form, PageRefused, read_form
from server.portal.needs import Needs, read_needs
from server.portal.step_up import page_of
from server.portal.texts import refusal_words
from server.sign_in import password, roles
from server.sign_in.callers import SessionCaller, SessionEnded
from server.sign_in.step_up import StepUpRequired
from vault.records import Session, User
from vault.refusals import TemporarilyUnavailable, TransitionRefused, VaultError

_RETURN_LIMIT: Final = 2000
_RETURN_PAGES: Final = frozenset(
    {"", "consent", "connect", "device", "connections", "agents", "approvals", "activity", "account", "first-run"}
    | {"administration", "notifications", "access-requests"}
)
# Query parameters that say what a page shows, without those that report what was just done.
_SHOWN: Final = frozenset(
    {"request", "provider", "account", "agent", "client", "company", "group", "person", "find", "show"}
)
logger = logging.getLogger("token_vault.portal")


@dataclass(frozen=True, slots=True)
class Visit:
    """A request with what is known about its browser."""

    deployment: Deployment
    request: Request
    secret: str = field(repr=False)  # what this browser's forms are bound to: its session, or a cookie before sign-in
    session: Session | None = None
    user: User | None = None
    form: Form = field(default_factory=Form)
    needs: Needs = field(default_factory=Needs)
    is_own: bool = False  # a page for the signed-in person

    def query(self, name: str) -> str:
        """A query parameter; empty when absent, refused when repeated."""
        values = self.request.query_params.getlist(name)
        if len(values) > 1:
            raise PageRefused("address")
        return values[0] if values else ""

    def token_field(self, action: str) -> Markup:
        """The hidden fields for a form that posts to `action`: what makes it valid, and where a signed-in person is."""
        token = csrf.form_token(self.deployment.keys.subkey("csrf"), self.secret, action=unquote(action))
        fields = {csrf.FIELD: token} | ({csrf.PAGE: self._place} if self.is_own else {})
        hidden = Markup('<input type="hidden" name="{}" value="{}">')
        return Markup("").join(hidden.format(name, value) for name, value in fields.items())

    @property
    def _place(self) -> str:
        """The address of this page, with what it shows; after a form, that of the page that had it."""
        if self.request.method == "POST":
            return safe_return(self.form.one(csrf.PAGE))
        query = [(name, value) for name, value in self.request.query_params.multi_items() if name in _SHOWN]
        return safe_return(self.request.url.path + ("?" + urlencode(query, quote_via=quote) if query else ""))

    def page(
        self, template: str, context: dict[str, object], *, status: int = 200, form_targets: Iterable[str] = ()
    ) -> Response:
        """Render for this browser; if not signed in, it gets the cookie that its forms are bound to."""
        values: dict[str, object] = {
            "user": self.user,
            "here": self.request.url.path,
            "needs": self.needs.count,
            **context,
        }
        response = pages.render(
            template, values, status=status, form_targets=form_targets, token_field=self.token_field
        )
        if self.session is None:
            password.set_cookie(self.deployment, self.request, response, "browser", value=self.secret)
        return response


@dataclass(frozen=True, slots=True)
class OwnVisit:
    """A visit of a signed-in person."""

    visit: Visit
    session: Session
    user: User

    @property
    def deployment(self) -> Deployment:
        return self.visit.deployment

    @property
    def form(self) -> Form:
        return self.visit.form

    @property
    def needs(self) -> Needs:
        return self.visit.needs

    def page(
        self, template: str, context: dict[str, object], *, status: int = 200, form_targets: Iterable[str] = ()
    ) -> Response:
        return self.visit.page(template, context, status=status, form_targets=form_targets)


Page = Callable[[Visit], Awaitable[Response]]
OwnPage = Callable[[OwnVisit], Awaitable[Response]]


def safe_return(wanted: str) -> str:
    """The path to go to after sign-in: one of our pages, or the start page. Never an external address."""
    is_path = wanted.startswith("/") and not wanted.startswith("//") and len(wanted) <= _RETURN_LIMIT
    if not is_path or "\\" in wanted or ".." in wanted or not all("!" <= c <= "~" for c in wanted):
        return "/"
    first = urlsplit(wanted).path.split("/")[1]
    return wanted if first in _RETURN_PAGES else "/"


def sign_in_path(return_to: str, *, is_again: bool = False, lost: str = "") -> str:
    """The sign-in page that leads back to a page of ours; `is_again` also asks a signed-in person.

    `lost`: a form of theirs came too late, so the page says so: `unread`, or `unfinished`.
    """
    query = {"return_to": safe_return(return_to)} | ({"again": "1"} if is_again else {})
    query |= {"lost": lost} if lost else {}
    return "/sign-in?" + urlencode(query, quote_via=quote)


def open_route(
    deployment: Deployment,
    path: str,
    *,
    get: Page | None = None,
    post: Page | None = None,
    is_presence: bool = True,
    is_own: bool = False,
) -> Route:
    """A page that people reach before they are signed in. `is_presence`: asking for it keeps a session from resting.
    `is_own`: see `own_route`.
    """

    pages_by_method = {method: page for method, page in (("GET", get), ("POST", post)) if page is not None}

    async def endpoint(request: Request) -> Response:
        # HEAD comes with GET: the framework adds it and drops the body.
        page = pages_by_method["POST" if request.method == "POST" else "GET"]
        return await _answer(deployment, request, page, is_presence=is_presence, is_own=is_own)

    return Route(path, endpoint, methods=list(pages_by_method))


def own_route(
    deployment: Deployment,
    path: str,
    *,
    get: OwnPage | None = None,
    post: OwnPage | None = None,
    is_presence: bool = True,
) -> Route:
    """A page for the signed-in person; others are sent to sign in and come back."""
    return open_route(
        deployment,
        path,
        get=None if get is None else _signed_in(get),
        post=None if post is None else _signed_in(post),
        is_presence=is_presence,
        is_own=True,
    )


def _signed_in(page: OwnPage) -> Page:
    @functools.wraps(page)
    async def check_and_answer(visit: Visit) -> Response:
        if visit.session is None or visit.user is None:
            return _sign_in_first(visit.request)
        deployment = visit.deployment.for_caller(SessionCaller(visit.deployment, visit.session))
        needs = await read_needs(deployment, visit.user)
        known = replace(visit, deployment=deployment, needs=needs, is_own=True)
        return await page(OwnVisit(known, visit.session, visit.user))

    return check_and_answer


def _sign_in_first(request: Request, visit: Visit | None = None) -> Response:
    """The sign-in page, which leads back to the page, or to the one that had the form."""
    if request.method != "GET":
        lost = "unread" if visit is None else "unfinished"
        return pages.go(sign_in_path(getattr(request.state, csrf.PAGE, "/"), lost=lost))
    url = request.url
    return pages.go(sign_in_path(url.path + (f"?{url.query}" if url.query else "")))


async def _answer(deployment: Deployment, request: Request, page: Page, *, is_presence: bool, is_own: bool) -> Response:
    elsewhere = _own_address(deployment, request)
    if elsewhere is not None:
        return pages.go(elsewhere)
    visit: Visit | None = None
    with use_language(pages.language_of(request)):
        try:
            visit = await _visit(deployment, request, is_presence=is_presence, is_own=is_own)
            _check_address(request)
            return await page(visit)
        except SessionEnded:
            return _sign_in_first(request, visit)
        except VaultError as refusal:
            return _refusal(request, visit, refusal)


def _check_address(request: Request) -> None:
    """Raises PageRefused for an address with NUL, which no database stores."""
    values = [*request.path_params.values(), *(value for _, value in request.query_params.multi_items())]
    if any("\0" in str(value) for value in values):
        raise PageRefused("address")


def _own_address(deployment: Deployment, request: Request) -> str | None:
    """Our public address for a page opened under another loopback name: cookies and callbacks belong to one name."""
    known = urlsplit(deployment.public_url).netloc
    host = request.headers.get("host", "").lower()
    if request.method != "GET" or not deployment.settings.is_loopback or host == known:
        return None
    query = f"?{request.url.query}" if request.url.query else ""
    return deployment.url(quote(request.scope["path"], safe="/:@!$&'()*+,;=~-._%") + query)


async def _visit(deployment: Deployment, request: Request, *, is_presence: bool, is_own: bool) -> Visit:
    """Raises SessionEnded if a form for a signed-in person arrives without a session."""
    found = await password.current_session(deployment, request, touches=is_presence)
    if found is None:
        secret = password.read_cookie(deployment, request, "browser")
        visit = Visit(deployment, request, secret if 20 <= len(secret) <= 128 else secrets.token_urlsafe(32))
    else:
        token = password.read_cookie(deployment, request, "session")
        visit = Visit(deployment, request, token, session=found[0], user=await roles.with_groups(deployment, found[1]))
    if request.method != "POST":
        return visit
    form = await read_form(request)
    setattr(request.state, csrf.PAGE, form.one(csrf.PAGE))
    if visit.session is not None:
        visit = await _still_signed_in(visit)
    _check_origin(visit)
    if visit.session is None and is_own and form.one(csrf.PAGE):  # a script's request has no page
        raise SessionEnded
    _check_token(visit, form)
    return replace(visit, form=form)


async def _still_signed_in(visit: Visit) -> Visit:
    """The visit after its form arrived, which the sender may have held back until the session ended.

    Raises SessionEnded.
    """
    found = await password.current_session(visit.deployment, visit.request, touches=False)
    if found is None:
        raise SessionEnded
    return replace(visit, session=found[0], user=await roles.with_groups(visit.deployment, found[1]))


def _check_origin(visit: Visit) -> None:
    if not csrf.is_from_own_page(visit.request, public_url=visit.deployment.public_url):
        raise PageRefused(
            "foreign_form",
            kind="forbidden",
            detail="foreign origin",
        )


def _check_token(visit: Visit, form: Form) -> None:
    key, action = visit.deployment.keys.subkey("csrf"), visit.request.scope["path"]
    if not csrf.is_own_token(key, visit.secret, action=action, sent=form.one(csrf.FIELD)):
        raise PageRefused(
            "old_page",
            kind="forbidden",
            detail="form token",
        )


def _refusal(request: Request, visit: Visit | None, refusal: VaultError) -> Response:
    title, foreign, retry = text("refused.failed_title"), "", ""
    status = refusal.status if isinstance(refusal, PersonRefused) else errors.wording_of(refusal).paged_status
    match refusal:
        case PageRefused():
            title = refusal.title
        case ConnectRefused():
            title, foreign, retry = text("refused.not_connected_title"), refusal.foreign, refusal.retry
        case TransitionRefused():
            title = text("refused.over_title")
        case TemporarilyUnavailable():
            title = text("refused.unavailable_title")
        case _:
            pass
    logger.log(
        logging.ERROR if status >= 500 else logging.INFO,
        "page refused",
        extra={"code": refusal.code, "detail": refusal.detail, "status": status},
    )
    if visit is None:
        return _with_retry(pages.error_page(request, title, refusal_words(refusal), status), refusal)
    if isinstance(refusal, StepUpRequired):
        # After a form of ours: the page that had it, since the form's own address answers no GET.
        back = request.url.path if request.method == "GET" else "/account"
        return visit.page("step_up.html", page_of(refusal, back=back), status=status)
    context: dict[str, object] = {"title": title, "message": refusal_words(refusal), "foreign": foreign, "retry": retry}
    return _with_retry(visit.page("error.html", context, status=status), refusal)


def _with_retry(response: Response, refusal: VaultError) -> Response:
    wait = errors.retry_after(refusal)
    if wait is not None:
        response.headers["retry-after"] = str(wait)
    return response
