"""Plays the person at the simulator's consent page, over HTTP, for scripts and tests without a browser."""

from __future__ import annotations

import ssl
from collections.abc import Collection
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx2


class ConsentRefused(Exception):
    """The simulator showed an error instead of a consent page."""


class _ConsentForm(HTMLParser):
    """The one form of the consent page."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.hidden: dict[str, str] = {}
        self.accounts: list[str] = []
        self.boxes: dict[str, str] = {}  # scope -> field name

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = values.get("action", "")
        if tag != "input":
            return
        match values.get("type"):
            case "hidden":
                self.hidden[values["name"]] = values["value"]
            case "radio":
                self.accounts.append(values["value"])
            case "checkbox":
                self.boxes[values["value"]] = values["name"]
            case _:
                pass


async def consent(
    authorize_url: str,
    *,
    account: str = "alice",
    allow: bool = True,
    scopes: Collection[str] | None = None,
    trust: ssl.SSLContext | None = None,
) -> str:
    """Answer an authorization request; returns the address that the browser is sent to, without fetching it.

    `scopes`: the boxes that stay selected, if the page has boxes; None: all. `trust` is for a simulator behind
    https. Raises ConsentRefused.
    """
    trust = trust or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # plain http: no need to load authorities
    async with httpx2.AsyncClient(trust_env=False, verify=trust, timeout=10) as client:
        page = await client.get(authorize_url)
        if page.is_redirect:
            there = urljoin(authorize_url, page.headers["location"])
            if urlsplit(there)[:2] != urlsplit(authorize_url)[:2]:
                return there
            page = await client.get(there)  # the provider's own error page
        form = _ConsentForm()
        form.feed(page.text)
        if page.status_code != 200 or not form.hidden:
            raise ConsentRefused(f"HTTP {page.status_code}: {page.text[-400:]}")
        action = urljoin(authorize_url, form.action)
        if urlsplit(action)[:2] != urlsplit(authorize_url)[:2]:
            raise ConsentRefused("The form leads to another origin.")
        if account not in form.accounts:
            raise ConsentRefused(f"No such account on the page: {account}")
        ticked = form.boxes if scopes is None else {scope: form.boxes[scope] for scope in scopes}
        answer = await client.post(
            action,
            data={
                **form.hidden,
                "account": account,
                "decision": "allow" if allow else "cancel",
                **{name: scope for scope, name in ticked.items()},
            },
        )
        if not answer.is_redirect:
            raise ConsentRefused(f"HTTP {answer.status_code}: {answer.text[-400:]}")
        return answer.headers["location"]
