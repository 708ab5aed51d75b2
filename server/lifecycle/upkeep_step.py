"""Defines an upkeep step, and how often steps run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from server.deployment import Deployment

INTERVAL: Final = 30.0  # seconds
NOTICES_EVERY: Final = 5.0  # seconds; short, since an approval waits for only ten minutes
STEP_LIMIT: Final = 300.0  # seconds for one step in one round


@dataclass(frozen=True, slots=True)
class UpkeepStep:
    """One part of the upkeep, named in the log and by `/readyz` when it fails."""

    name: str
    every: float  # seconds
    work: Callable[[Deployment], Awaitable[object]]
