"""The simulated brokerage's data: whom it trusts, the keys found there, and what each person owns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from joserfc.jwk import KeySet

PRICES: Final[Mapping[str, float]] = {"ACME": 41.5, "GLOBEX": 7.25, "INITECH": 112.0}
FIRST: Final[Mapping[str, int]] = {"ACME": 10}  # what everyone owns initially


@dataclass
class Market:
    """`issuer` and `audience` of accepted tokens. None are accepted while these are empty."""

    issuer: str = ""
    audience: str = ""
    keys: KeySet | None = None
    owned: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    orders: int = 0

    def of(self, subject: str) -> dict[str, int]:
        """The shares of this person."""
        return self.owned.setdefault(subject, dict(FIRST))
