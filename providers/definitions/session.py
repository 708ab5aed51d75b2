"""The part of a provider file about a sign-in that exchanges what a person entered for a session.

`providers.oauth.sessions` signs in, renews, and signs out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from providers.definitions.method_overrides import FilePart

StepText = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]*$", max_length=200)]
StepName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,60}(\.[A-Za-z0-9_-]{1,60}){0,4}$")]
StepHeader = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,60}$")]
TOKEN, REFRESH_TOKEN = "token", "refresh_token"  # what later steps may use in addition to the fields


class SessionStep(FilePart):
    """One request, as texts with `{fields}`.

    `fields` are those of its body, whose format is the file's `body`; `a.b` is inside an object. Empty ones are left
    out.
    """

    method: Literal["POST", "DELETE"] = "POST"
    fields: Mapping[StepName, StepText] = Field(default_factory=dict[str, str])
    headers: Mapping[StepHeader, StepText] = Field(default_factory=dict[str, str])

    @property
    def templates(self) -> Iterator[tuple[str, str]]:
        """Each text with its place."""
        for name, text in self.fields.items():
            yield f"fields.{name}", text
        for name, text in self.headers.items():
            yield f"headers.{name}", text


class SessionExchange(FilePart):
    """How a session is opened with what was entered, and how it ends. `sign_in` is sent to `hosts.token_url`;
    `[response]` and `[expires]` describe its answer, and `[authorization]` how calls send the token. `renew`, sent to
    `hosts.refresh_url` or the same address, and `sign_out`, sent to `hosts.revoke_url`, may also use `{token}` and
    `{refresh_token}`.
    """

    sign_in: SessionStep
    renew: SessionStep | None = None
    sign_out: SessionStep | None = None
