"""Seven services where the company vouches for its people, each with one call that reads. For the demo and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from providers.simulator.modes import SERVED, Operation
from providers.simulator.state.sandbox import Sandbox

_CALENDAR = "https://www.googleapis.com/auth/calendar.events.readonly"


@dataclass(frozen=True, slots=True)
class EnrolledService:
    """A service by the name of its provider file, and a call: `api` is a key of the file, `base` is before the path."""

    provider: str
    like: str  # the mode of the families' server
    api: str
    path: str
    scope: str
    base: str = ""

    @property
    def mode(self) -> str:
        """Its own mode, with the call."""
        return f"company-{self.provider}"


SERVICES: Sequence[EnrolledService] = (
    EnrolledService("asana", "known-asana", "main", "/workspaces", "workspaces:read"),
    EnrolledService("box", "box", "content", "/2.0/folders/0/items", "root_readonly"),
    EnrolledService("figma", "known-figma", "main", "/v1/files/logo", "file_content:read"),
    EnrolledService("github", "github", "rest", "/user/repos", "metadata:read"),
    EnrolledService("google", "google", "calendar", "/calendars/primary/events", _CALENDAR),
    EnrolledService("microsoft", "microsoft", "graph", "/me/messages", "Mail.Read"),
    EnrolledService("square", "square", "v2", "/v2/payments", "PAYMENTS_READ"),
)


def open_services(sandbox: Sandbox) -> Mapping[str, EnrolledService]:
    """Make the families' server answer their calls; returns them by provider."""
    for service in SERVICES:
        known = SERVED[service.like]
        operation = Operation("GET", service.path, frozenset({service.scope}))
        sandbox.modes[service.mode] = replace(known, operations=(operation,), resources=False)
    return {service.provider: service for service in SERVICES}
