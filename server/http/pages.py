"""Rendering: the template environment, the security headers of every page, and the error page.

Templates are package data with autoescape on; a missing variable is an error. The modules of `server.portal` decide
what a page says; `server.sign_in.password` knows who the person is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final, Generic, TypeVar
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from server.errors import status_of
from server.http import page_texts
from server.http.answers import json_answer
from server.http.assets import asset_url, initials, logo_url, slug
from server.http.request_ids import request_member
from vault.spans import REQUEST_ID

Item = TypeVar("Item")
LANGUAGE_COOKIE: Final = "token_vault_language"  # what the person chose on the Notifications page
_TEXT_LIMIT: Final = 400  # characters of an explanation on an error page
FAILURES: Final[Mapping[int, tuple[str, str, str]]] = {  # status: text of the page; code and description for programs
    status_of("not_found"): (
        "error.no_page",
        "not_found",
        "no endpoint has this path; docs/reference/endpoints.md lists them",
    ),
    status_of("method_not_allowed"): ("error.wrong_method", "method_not_allowed", "this path accepts only {allow}"),
}
_POSTED: Final = re.compile(r"<form\b[^>]*\bmethod=\"post\".*?</form>", re.DOTALL)
_HOST_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")


def _time(at: int | None) -> Markup:
    """An instant as a `time` element in UTC; a script shows it in the reader's time zone."""
    if at is None:
        return page_texts.markup("common.never")
    moment = datetime.fromtimestamp(at, UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        moment.strftime("%Y-%m-%dT%H:%M:%SZ"), moment.strftime(page_texts.text("common.time_format"))
    )


def _without_changes(s: str) -> str:
    """A page's content without its POST forms, for people who can only read. Forms aren't nested."""
    return Markup(_POSTED.sub("", s))  # noqa: S704 -- a part of what was escaped


def _ago(at: int) -> Markup:
    """A recent instant; if scripts run, it is shown as the time since then."""
    return Markup(str(_time(at)).replace("<time ", "<time data-ago ", 1))  # noqa: S704 -- made by `_time`


def _countdown(at: int) -> Markup:
    """An instant; if scripts run, it is shown as the minutes and seconds until then."""
    moment = datetime.fromtimestamp(at, UTC)
    return Markup('<time datetime="{}" data-ends>{}</time>').format(
        moment.strftime("%Y-%m-%dT%H:%M:%SZ"), moment.strftime("%H:%M UTC")
    )


def _day(day: str) -> str:
    """An ISO date as people write it."""
    return date.fromisoformat(day).strftime(page_texts.text("common.day_format"))


def _sentence(text: str) -> str:
    """A refusal as a full sentence for a page, from the form that commands print."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("server.portal", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["time"] = _time
_ENVIRONMENT.filters["without_changes"] = _without_changes
_ENVIRONMENT.filters["sentence"] = _sentence
_ENVIRONMENT.filters["ago"] = _ago
_ENVIRONMENT.filters["countdown"] = _countdown
_ENVIRONMENT.filters["day"] = _day
_ENVIRONMENT.filters["initials"] = initials
_ENVIRONMENT.filters["slug"] = slug
_ENVIRONMENT.filters["logo_url"] = logo_url
_ENVIRONMENT.globals["asset"] = asset_url  # pyright: ignore[reportArgumentType] -- as below
_ENVIRONMENT.globals["language"] = page_texts.language  # pyright: ignore[reportArgumentType] -- as below
_ENVIRONMENT.globals["t"] = page_texts.markup  # pyright: ignore[reportArgumentType] -- typed by its defaults


@dataclass(frozen=True, slots=True)
class PageOfItems(Generic[Item]):
    """One page of a long list; `previous` and `next` are page numbers, 0 if there is none."""

    items: Sequence[Item]
    previous: int
    next: int


def part(items: Sequence[Item], wanted: str, *, size: int) -> PageOfItems[Item]:
    """The page for `?page=wanted`: the first if that isn't a number, the last if it is too high."""
    pages = max(1, -(-len(items) // size))
    number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 8 else 1
    number = min(max(1, number), pages)
    return PageOfItems(items[(number - 1) * size : number * size], number - 1, number + 1 if number < pages else 0)


def _no_form(action: str) -> Markup:
    """Refuse a form on a page without a browser secret, since it would never be accepted."""
    raise LookupError(f"the form for {action} needs a visit")


def content_policy(form_targets: Iterable[str] = ()) -> str:
    """The Content-Security-Policy of a page; `form_targets` are CSP sources to which a form's redirect may lead."""
    targets = " ".join(["'self'", *form_targets])
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "manifest-src 'self'; "
        f"object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action {targets}"
    )


def form_target(url: str) -> str:
    """The CSP source for a form whose answer redirects to `url`: browsers apply `form-action` to redirects too."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in {"http", "https"} or not host or not _HOST_LETTERS.issuperset(host):
        return f"{parts.scheme}:"  # private-use schemes and IPv6 literals have no host source
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def language_of(request: Request) -> str:
    """The language that this browser's pages are in."""
    chosen = request.cookies.get(LANGUAGE_COOKIE, "")
    return page_texts.choose_language(request.headers.get("accept-language", ""), chosen=chosen)


def secure(response: Response, *, form_targets: Iterable[str] = ()) -> Response:
    """Set the headers of every portal answer."""
    response.headers["content-security-policy"] = content_policy(form_targets)
    response.headers["x-content-type-options"] = "nosniff"
    response.headers["x-frame-options"] = "DENY"
    response.headers["referrer-policy"] = "no-referrer"
    response.headers["cache-control"] = "no-store"
    response.headers["cross-origin-opener-policy"] = "same-origin"
    response.headers["cross-origin-resource-policy"] = "same-origin"
    return response


def render(
    template: str,
    context: dict[str, object],
    *,
    status: int = 200,
    form_targets: Iterable[str] = (),
    token_field: Callable[[str], Markup] = _no_form,
) -> HTMLResponse:
    """Render a page. `token_field(action)` gives the hidden field that makes a form of ours valid."""
    values: dict[str, object] = {
        "user": None,
        "here": "",
        "needs": 0,
        "token_field": token_field,
        **context,
    }
    response = HTMLResponse(_ENVIRONMENT.get_template(template).render(values), status_code=status)
    secure(response, form_targets=form_targets)
    return response


def go(url: str) -> Response:
    """303 to a place: a form's answer is always fetched with GET (RFC 9700 §4.12)."""
    return secure(RedirectResponse(url, status_code=303))


def leave(request: Request, url: str) -> Response:
    """Answer a form by sending the person to a foreign address, which may redirect further.

    Chromium applies the `form-action` of the page with the form to every later redirect, and strands the person if a
    client or provider redirects to an unlisted host. Browsers therefore get a page that moves on by itself, independent
    of the form; everything else, and apps with schemes of their own, get 303.
    """
    is_browser = request.headers.get("sec-fetch-mode") == "navigate"
    if not is_browser or not url.startswith(("https://", "http://")):
        return go(url)
    return render("leaving.html", {"url": url, "host": urlsplit(url).netloc})


def error_page(request: Request, title: str, message: str, status: int) -> HTMLResponse:
    """A page that explains what went wrong and what to do. The texts are ours; external parts are shortened and
    escaped."""
    return render(
        "error.html",
        {"title": title[:_TEXT_LIMIT], "message": message[:_TEXT_LIMIT], "status_code": status},
        status=status,
    )


def failure_page(request: Request) -> HTMLResponse:
    """The page for an internal failure, with the request's ID, under which the log has the cause."""
    with page_texts.use_language(language_of(request)):
        message = page_texts.text("error.broken", id=REQUEST_ID.get())
        return error_page(request, page_texts.text("error.broken_title"), message, status_of("server_error"))


async def answer_failure(request: Request, error: Exception) -> Response:
    """The answer if no endpoint has one, by FAILURES: a page for a person's browser, JSON for a program.

    Raises any other error: `server.http.failures` answers those.
    """
    if not isinstance(error, HTTPException):
        raise error
    headers: Mapping[str, str] = error.headers or {}
    status = error.status_code
    page, code, description = FAILURES[status]
    if "text/html" in request.headers.get("accept", ""):
        with page_texts.use_language(language_of(request)):
            answer = error_page(request, page_texts.text(f"{page}_title"), page_texts.text(page), status=status)
        answer.headers.update(headers)
        return answer
    told = {"error": code, "error_description": description.format(allow=headers.get("Allow", ""))}
    content = told | request_member()
    return secure(json_answer(content, status=status, headers=headers))
