"""Control for load tests: creates many grants at once, and keeps the books small.

`seed` opens grants as if their people had just consented; `brief_books` keeps only the newest entries; `tally` counts
what happened, including dropped entries.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from providers.simulator.accounts import CLIENT_ID, PEOPLE, Face
from providers.simulator.state.sandbox import Sandbox


class _CrowdBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Seed(_CrowdBody):
    face: Face
    count: int = Field(ge=1, le=20000)
    account: str = "alice"
    scopes: frozenset[str] = Field(min_length=1)


class _Brief(_CrowdBody):
    entries: int | None = Field(default=None, ge=1)  # of each page; None: all


def seed(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> dict[str, object]:
    """The tokens of this many grants, each its own family."""
    wanted = _Seed.model_validate(body)
    if wanted.account not in PEOPLE or wanted.face not in sandbox.faces:
        raise ValueError("unknown face or account")
    face, now = sandbox.faces[wanted.face], sandbox.clock.now()
    grants: list[dict[str, object]] = []
    for _ in range(wanted.count):
        issued = face.tokens.open_family(
            client_id=CLIENT_ID,
            account=wanted.account,
            kind="user",
            scopes=wanted.scopes,
            with_refresh=True,
            now=now,
        )
        grants.append(
            {
                "family": issued.family.label,
                "access_token": issued.access_token,
                "refresh_token": issued.refresh_token,
                "expires_in": round(issued.expires_at - now),
            }
        )
    return {"grants": grants}


def brief_books(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> dict[str, object]:
    """Keep the newest entries only, from now on."""
    sandbox.books.keep(_Brief.model_validate(body).entries)
    return {}


def tally(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> dict[str, object]:
    """The number of refreshes, by outcome."""
    _CrowdBody.model_validate(body)
    return {"refreshes": dict(sandbox.books.tally("refreshes"))}
