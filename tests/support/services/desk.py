"""What the services share: a person's records of one kind, and the call that concerns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from providers.simulator.accounts import PEOPLE, Person
from providers.simulator.calls import SimulatedCall
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.state.tokens import AccessToken

Record = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class ServiceCall:
    """One call of one person."""

    sandbox: Sandbox
    call: SimulatedCall
    token: AccessToken
    parts: Sequence[str] = field(default=())

    @classmethod
    def of(cls, sandbox: Sandbox, call: SimulatedCall, *, token: AccessToken) -> ServiceCall:
        return cls(sandbox, call, token, tuple(call.path_params["path"].split("/")))

    @property
    def account(self) -> str:
        return self.token.family.account

    @property
    def person(self) -> Person:
        return PEOPLE[self.account]

    @property
    def body(self) -> Mapping[str, JsonValue]:
        return self.call.arguments

    def records(self, kind: str, *, seed: Sequence[Record] = ()) -> list[Record]:
        """This person's records of one kind; initially copies of `seed`."""
        key = (kind, self.account)
        return cast("list[Record]", self.sandbox.added.setdefault(key, [dict(record) for record in seed]))

    def now(self) -> str:
        """The time at the service, RFC 3339."""
        return (
            datetime.fromtimestamp(self.sandbox.clock.now(), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        )

    def note(self, service: str, text: str) -> None:
        """Record that something was created."""
        self.sandbox.books.write("posts", self.sandbox.clock.now(), face=service, user=self.person.name, text=text)


def at(value: JsonValue, *steps: str | int) -> JsonValue:
    """The value at this path; None if there is none."""
    for step in steps:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def text(value: JsonValue, *steps: str | int) -> str:
    """The text at this path; empty if there is none."""
    found = at(value, *steps)
    return found if isinstance(found, str) else ""


def page(records: Sequence[Record], *, size: int, begin: str | None) -> tuple[list[JsonValue], str | None]:
    """One page, and where the next one begins."""
    first = int(begin) if begin is not None and begin.isdecimal() else 0
    shown: list[JsonValue] = [dict(record) for record in records[first : first + size]]
    return shown, str(first + size) if first + size < len(records) else None


def reply(content: JsonValue, *, status: int = 200) -> Response:
    return JSONResponse(content, status_code=status)
