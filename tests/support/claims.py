"""Claims of JWTs with errors for tests, made when the token is signed."""

from __future__ import annotations

import time
from collections.abc import Callable


def with_claims(**claims: object) -> Callable[[object], dict[str, object]]:
    """The same claims for every company."""
    return lambda _: dict(claims)


def offset(**seconds: int) -> Callable[[object], dict[str, object]]:
    """Claims that are times, in seconds from now."""
    return lambda _: {name: int(time.time()) + one for name, one in seconds.items()}
