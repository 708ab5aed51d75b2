"""The simulator's books: everything that was requested, redeemed, refreshed, called, posted and revoked, in order.
Tests check the books instead of trusting the vault's own account. They contain labels and fingerprints, never a token,
code or secret.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Mapping
from typing import cast

Entry = dict[str, object]
PAGES = (
    "arrivals",
    "authorizations",
    "consents",
    "redemptions",
    "refreshes",
    "derivations",
    "assertions",
    "api_calls",
    "brokerage",
    "mailroom",
    "posts",
    "events",
    "revocations",
    "trapped",
)
SECRET_NAMES = frozenset(
    {
        "access_token",
        "assertion",
        "client_secret",
        "code",
        "code_verifier",
        "id_token",
        "password",
        "refresh_token",
        "token",
    }
)


class Books:
    """Ordered records by kind; `n` orders entries of all kinds."""

    def __init__(self) -> None:
        self._pages: dict[str, deque[Entry]] = {name: deque() for name in PAGES}
        self._count = 0
        self._limit: int | None = None
        self._forgotten: dict[str, Counter[str]] = {name: Counter() for name in PAGES}

    def write(self, page: str, at: float, **facts: object) -> Entry:
        """Append an entry and return it, so that facts known later can be added."""
        self._count += 1
        entry: Entry = {"n": self._count, "at": round(at, 3), **facts}
        entries = self._pages[page]
        if self._limit is not None and len(entries) >= self._limit:
            self._forgotten[page][str(entries.popleft().get("outcome"))] += 1
        entries.append(entry)
        return entry

    def keep(self, entries: int | None) -> None:
        """Keep this many entries of each page from now on; older ones are only counted."""
        self._limit = entries

    def tally(self, page: str) -> Counter[str]:
        """The number of entries of a page, by outcome."""
        return self._forgotten[page] + Counter(str(entry.get("outcome")) for entry in self._pages[page])

    def snapshot(self) -> dict[str, list[Entry]]:
        """A copy that later traffic does not change."""
        return {
            name: [{fact: _copy(value) for fact, value in entry.items()} for entry in entries]
            for name, entries in self._pages.items()
        }


def _copy(value: object) -> object:
    """A deep copy, faster than `copy.deepcopy` for what books contain: texts, numbers, lists, and dictionaries."""
    if value is None or isinstance(value, str | int | float):
        return value
    if type(value) is dict:
        return {name: _copy(one) for name, one in cast("dict[object, object]", value).items()}
    if type(value) is list:
        return [_copy(one) for one in cast("list[object]", value)]
    return copy.deepcopy(value)


def without_secrets(parameters: Mapping[str, object]) -> dict[str, object]:
    """Parameters without secrets, for the books."""
    return {name: value for name, value in parameters.items() if name not in SECRET_NAMES}
