"""What a step of the upkeep is, and how often steps run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from server.deployment import Deployment

INTERVAL: Final = 30.0  # seconds
NOTICES_EVERY: Final = 5.0  # seconds: an approval waits for ten minutes only
STEP_LIMIT: Final = 300.0  # seconds for one step of one round


@dataclass(frozen=True, slots=True)
class UpkeepStep:
    """One part of the upkeep, named in the log and by `/readyz` when it fails."""

    name: str
    every: float  # seconds
    work: Callable[[Deployment], Awaitable[object]]
