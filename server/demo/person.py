"""The scripted person of the demo: a browser over plain HTTP that reads our pages and fills in their forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http import HTTPStatus
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2

from providers.simulator.person import consent

_LEVEL = "level.asked"  # on a connect page: the requested permissions that the agent gets


class DemoFailed(Exception):
    """A step didn't have the expected result."""


@dataclass(frozen=True, slots=True)
class _PageForm:
    action: str
    fields: dict[str, list[str]] = field(default_factory=dict[str, list[str]])


class _Forms(HTMLParser):
    """A page's forms, with the values that a browser would send unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[_PageForm] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append(_PageForm(facts.get("action", "")))
        is_sent = facts.get("type", "text") not in {"checkbox", "radio", "submit"} or "checked" in facts
        if tag == "input" and self.found and facts.get("name") and is_sent:
            self.found[-1].fields.setdefault(facts["name"], []).append(facts.get("value", ""))


class DemoPerson:
    """One person with one browser at the vault."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self.visited: list[str] = []  # the paths of all visited pages
        self._http = httpx2.AsyncClient(base_url=origin, follow_redirects=False, timeout=15, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def open(self, url: str) -> httpx2.Response:
        """Go to a page, following redirects inside the vault."""
        return await self._follow(await self._http.get(url))

    async def submit(self, page: httpx2.Response, action: str, answers: Mapping[str, str]) -> httpx2.Response:
        """Submit the page's form with an address that contains `action`."""
        parser = _Forms()
        parser.feed(page.text)
        form = next((form for form in parser.found if action in form.action), None)
        if form is None:
            raise DemoFailed(f"the page at {page.url.path} has no form for {action} (HTTP {page.status_code})")
        data = form.fields | {name: [value] for name, value in answers.items()}
        target = urljoin(str(page.url), form.action)
        return await self._follow(await self._http.post(target, data=data, headers={"Origin": self._origin}))

    async def make_first_admin(self, secret: str, *, name: str, password: str) -> None:
        """Fill in the first-run page with the secret that the server printed; the person is then signed in."""
        page = await self.open("/first-run")
        answers = {"secret": secret, "name": name, "password": password, "password_again": password}
        page = await self.submit(page, "/first-run", answers)
        if page.status_code != HTTPStatus.OK:
            raise DemoFailed(f"the first-run page answered {page.status_code}")

    async def sign_in_and_consent(self, authorize_url: str, *, name: str, password: str) -> dict[str, str]:
        """Go through an agent's browser window: sign in if needed, and consent. Returns the query of the redirect."""
        page = await self.open(authorize_url)
        if "/sign-in" in page.url.path:
            page = await self.submit(page, "/sign-in", {"name": name, "password": password})
        if page.status_code == HTTPStatus.OK:
            page = await self.submit(page, "/consent", {"decision": "allow"})
        query = urlsplit(page.headers.get("location", "")).query
        return {key: values[0] for key, values in parse_qs(query).items()}

    async def connect(self, link: str, *, account: str) -> httpx2.Response:
        """Open a connect link, agree, agree at the provider if asked, and return."""
        path = link.removeprefix(self._origin)
        page = await self.open(path)
        return await self._at_provider(
            await self.submit(page, path, {"decision": "allow", _LEVEL: "write"}), account=account
        )

    async def connect_from_portal(self, provider: str, *, account: str) -> httpx2.Response:
        """Connect an account without an agent, with the choices that the page proposes."""
        page = await self.open(f"/connections/connect?provider={provider}")
        return await self._at_provider(await self.submit(page, "/connections/connect", {}), account=account)

    async def disconnect(self, connection_id: str) -> None:
        """End a connection on the connections page."""
        page = await self.open(f"/connections/{connection_id}/disconnect")
        await self.submit(page, "/disconnect", {})

    async def _at_provider(self, page: httpx2.Response, *, account: str) -> httpx2.Response:
        location = page.headers.get("location")
        if location is not None:
            page = await self.open(await consent(location, account=account))
        if page.status_code != HTTPStatus.OK:
            raise DemoFailed(f"the connect page answered {page.status_code}")
        return page

    async def _follow(self, answer: httpx2.Response) -> httpx2.Response:
        for _ in range(10):
            self.visited.append(answer.url.path)
            target = urljoin(str(answer.url), answer.headers.get("location", ""))
            if not answer.is_redirect or urlsplit(target).netloc != urlsplit(self._origin).netloc:
                return answer
            answer = await self._http.get(target)
        raise DemoFailed("more than ten redirects")
