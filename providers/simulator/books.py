"""The simulator's books: what arrived, what was redeemed, refreshed, called, posted and revoked, in order.

Tests ask the books instead of trusting the vault's own word. They hold labels and fingerprints, never a token, code or
secret.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

Entry = dict[str, object]
PAGES = (
    "arrivals",
    "authorizations",
    "consents",
    "redemptions",
    "refreshes",
    "derivations",
    "api_calls",
    "posts",
    "events",
    "revocations",
    "trapped",
)
SECRET_NAMES = frozenset(
    {"access_token", "client_secret", "code", "code_verifier", "id_token", "password", "refresh_token", "token"}
)


class Books:
    """Ordered records by kind; `n` orders entries of all kinds among each other."""

    def __init__(self) -> None:
        self._pages: dict[str, list[Entry]] = {name: [] for name in PAGES}
        self._count = 0

    def write(self, page: str, at: float, **facts: object) -> Entry:
        """Append an entry and return it, so that what becomes known later can still be added."""
        self._count += 1
        entry: Entry = {"n": self._count, "at": round(at, 3), **facts}
        self._pages[page].append(entry)
        return entry

    def snapshot(self) -> dict[str, list[Entry]]:
        """A copy that later traffic does not change."""
        return copy.deepcopy(self._pages)


def without_secrets(parameters: Mapping[str, object]) -> dict[str, object]:
    """Parameters as they may stand in the books."""
    return {name: value for name, value in parameters.items() if name not in SECRET_NAMES}
