"""A person at a browser, over plain HTTP: follows pages, fills in forms, keeps cookies, and runs no scripts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx2

_SESSION = re.compile(r"(__Host-)?token_vault(_[0-9a-f]{8})?")


def session_cookie(http: httpx2.AsyncClient) -> str:
    """`name=value` of the cookie that signs this browser in."""
    (found,) = [one for one in http.cookies.jar if _SESSION.fullmatch(one.name)]
    return f"{found.name}={found.value}"


def session_token(http: httpx2.AsyncClient) -> str:
    """The session's secret as the vault knows it: without the part that binds the cookie to this system user."""
    return session_cookie(http).partition("=")[2].partition(".")[0]


@dataclass
class Form:
    """One form of a page: its target, and what a browser would send if nothing is changed."""

    action: str
    method: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    choices: dict[str, list[str]] = field(default_factory=dict)  # unchecked boxes and radio buttons
    buttons: list[tuple[str, str]] = field(default_factory=list)

    def fill_in(self, answers: dict[str, str | list[str] | None]) -> list[tuple[str, str]]:
        """The fields with `answers`: None removes one, a list selects several checkboxes with the same name."""
        out = [(name, value) for name, value in self.fields if name not in answers]
        for name, value in answers.items():
            for one in [] if value is None else [value] if isinstance(value, str) else value:
                out.append((name, one))
        return out

    def widest(self, filled: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The choices that the page leaves open: here, a person who accepts an agent allows what it requests."""
        sent = {name for name, _ in filled}
        return [
            (name, next(level for level in ("write", "read", "off") if level in levels))
            for name, levels in self.choices.items()
            if name.startswith("level.") and name not in sent
        ]


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._open: Form | None = None
        self._select = ""
        self._first = False  # whether the next option is the first of its list

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._open = Form(facts.get("action", ""), facts.get("method", "get").lower())
            self.forms.append(self._open)
        if tag == "option" and self._open is not None and self._select:
            if "selected" in facts and not self._first:
                self._open.fields.pop()  # the first option, which a browser would have sent
            if self._first or "selected" in facts:
                self._open.fields.append((self._select, facts.get("value", "")))
            self._first = False
        if self._open is None or not facts.get("name"):
            return
        name, value = facts["name"], facts.get("value", "")
        if tag == "button" or (tag == "input" and facts.get("type") == "submit"):
            self._open.buttons.append((name, value))
        elif "disabled" in facts:
            return
        elif tag == "input" and facts.get("type") in {"checkbox", "radio"}:
            if "checked" in facts:
                self._open.fields.append((name, value or "on"))
            else:
                self._open.choices.setdefault(name, []).append(value or "on")
        elif tag == "select":
            self._select, self._first = name, True
        elif tag in {"input", "textarea"}:
            self._open.fields.append((name, value))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None
        elif tag == "select":
            self._select = ""


_OWN_MARKUP = re.compile(
    r'<script src="/static/(?:portal|passkeys)\.js\?v=[0-9a-f]{12}" defer></script>'
    r'|<svg class="icon" aria-hidden="true"><use href="/static/icons\.svg\?v=[0-9a-f]{12}#[a-z]+"></use></svg>'
)


def without_own_markup(html: str) -> str:
    """The page without the vault's own script and icons; any others that are left came from someone else."""
    return _OWN_MARKUP.sub("", html)


def forms_of(html: str) -> list[Form]:
    """Every form of a page."""
    parser = _Forms()
    parser.feed(html)
    return parser.forms


class Person:
    """Holds one browser's cookies for the vault at `origin`; redirects of other origins aren't followed."""

    def __init__(self, origin: str, *, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self.origin = origin
        self.http = httpx2.AsyncClient(base_url=origin, follow_redirects=False, timeout=30, transport=transport)

    async def __aenter__(self) -> Person:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    def _is_ours(self, url: str) -> bool:
        ours, other = urlsplit(self.origin), urlsplit(urljoin(self.origin, url))
        return (ours.hostname, ours.port) == (other.hostname, other.port)

    async def _follow(self, answer: httpx2.Response) -> httpx2.Response:
        """Follow redirects within the vault; return a redirect that leaves it unchanged."""
        for _ in range(10):
            location = answer.headers.get("location")
            if answer.status_code not in {301, 302, 303} or location is None or not self._is_ours(location):
                return answer
            answer = await self.http.get(urljoin(str(answer.url), location))
        raise AssertionError("more than ten redirects")

    async def open(self, url: str) -> httpx2.Response:
        """Go to a page and follow redirects within the vault."""
        return await self._follow(await self.http.get(url))

    async def submit(
        self,
        page: httpx2.Response,
        answers: dict[str, str | list[str] | None] | None = None,
        *,
        form: int | str = 0,
        button: tuple[str, str] | None = None,
    ) -> httpx2.Response:
        """Send a form of the page (by position, or by what its action contains) and follow within the vault."""
        found = forms_of(page.text)
        chosen = found[form] if isinstance(form, int) else next(one for one in found if form in one.action)
        data = chosen.fill_in(answers or {})
        if button is not None:
            data.append(button)
        if button == ("decision", "allow"):
            data += chosen.widest(data)
        target = urljoin(str(page.url), chosen.action or str(page.url))
        body: dict[str, list[str]] = {}
        for name, value in data:
            body.setdefault(name, []).append(value)
        headers = {"Origin": self.origin}
        if chosen.method == "get":
            return await self._follow(await self.http.get(target, params=body))
        return await self._follow(await self.http.post(target, data=body, headers=headers))

    async def sign_in(self, name: str, password: str, *, page: httpx2.Response | None = None) -> httpx2.Response:
        """Sign in on the sign-in page (or on `page`, when the vault asked for it there)."""
        page = page or await self.open("/sign-in")
        return await self.submit(page, {"name": name, "password": password}, form="/sign-in")
