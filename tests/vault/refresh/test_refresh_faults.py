"""Everything that a token endpoint can do wrong, over the wire: the provider's records show no avoidable loss."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace

import pytest
from pydantic import JsonValue

from providers.oauth import client
from tests.support.rooms.mcp_room import Room, room
from vault.exchange.exchange import ExchangeRequest, Vault, exchange
from vault.refresh.concurrency import RefreshTasks
from vault.refusals import ConnectionRequired, TemporarilyUnavailable, VaultError
from vault.upstream import RotationMode

SCOPES = frozenset({"chat:write", "channels:read"})
CANARY = "a body that nobody needs to see"
SLOWEST = 15.0  # seconds that a caller waits
USERS = itertools.count()

FAULTS: Mapping[str, Mapping[str, JsonValue]] = {
    "500": {"kind": "status", "status": 500, "body": CANARY},
    "503": {"kind": "status", "status": 503, "body": CANARY},
    "503 with a time": {"kind": "rate_limited", "status": 503, "retry_after": 7},
    "429": {"kind": "rate_limited", "retry_after": 7},
    "a page": {"kind": "html", "body": CANARY},
    "nothing": {"kind": "empty"},
    "ok: false": {"kind": "ok_false", "error": "fatal_error"},
    "a redirect": {"kind": "redirect"},
    "a huge body": {"kind": "huge"},
    "a closed connection": {"kind": "drop"},
    "no answer": {"kind": "hang"},
    "half an answer": {"kind": "cut"},
}
HALF = ("half an answer", "before")  # it fails only if the request took effect


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with room(tmp_path_factory.mktemp("faults") / "data") as opened:
        yield opened


async def call(vault: Vault, request: ExchangeRequest) -> VaultError | None:
    """One exchange with a time limit; returns its refusal."""
    started = time.monotonic()
    try:
        await exchange(request, vault=vault, now=vault.database.now())
    except VaultError as refusal:
        assert CANARY not in refusal.description
        return refusal
    else:
        return None
    finally:
        assert time.monotonic() - started < SLOWEST


@pytest.mark.parametrize("rotation", [RotationMode.GRACE, RotationMode.REVOKES])
@pytest.mark.parametrize(
    ("fault", "when"), [(fault, when) for fault in FAULTS for when in ("before", "after") if (fault, when) != HALF]
)
async def test_a_token_endpoint_that_does_this_costs_no_account_that_could_be_kept(
    place: Room, monkeypatch: pytest.MonkeyPatch, fault: str, when: str, rotation: RotationMode
) -> None:
    simulator, deployment = place.simulator, place.vault.deployment
    simulator.control("reset")
    mode = {"mode": "grace", "grace": 60} if rotation is RotationMode.GRACE else {"mode": "reuse_revokes_family"}
    simulator.control("rotation", face="slack", **mode)
    policies = deployment.vault.policies
    policy = replace(policies["slack"], rotation=rotation, grace=60 if rotation is RotationMode.GRACE else 0)
    vault = replace(deployment.vault, policies={**policies, "slack": policy}, tasks=RefreshTasks())
    agent = await place.agent(f"person {next(USERS)}")
    connection = await place.connect(agent, "slack", scopes=SCOPES)
    request = ExchangeRequest(agent.principal, "slack", frozenset({"chat:write"}), purpose="test")
    async with deployment.transaction() as transaction:
        at = {"at": deployment.now() - 1, "id": connection.id}
        await transaction.execute("update connections set access_expires_at = :at where id = :id", at)
    how = dict(FAULTS[fault])
    simulator.fault("slack.token.refresh", str(how.pop("kind")), **how, when=when)

    with monkeypatch.context() as short:
        short.setattr(client, "TOTAL_TIMEOUT", 0.7)
        first = await call(vault, request)
        await vault.tasks.close()
    assert first is None or isinstance(first, TemporarilyUnavailable)
    vault = replace(vault, tasks=RefreshTasks())  # as if the pauses were over
    async with deployment.transaction() as transaction:
        await transaction.execute("update connections set retry_at = null where id = :id", {"id": connection.id})
    then = await call(vault, request)

    if when == "after" and rotation is not RotationMode.GRACE:
        assert isinstance(then, ConnectionRequired)  # the law of the gap: known at once
        assert (then.reason, len(refused_refreshes(place))) == ("needs_reauth", 1)
    else:
        assert then is None
        assert refused_refreshes(place) == []
        assert (await call(vault, request)) is None
        assert simulator.books()["families"][-1]["live_refresh_tokens"]


def refused_refreshes(place: Room) -> list[object]:
    """Refreshes that the provider refused: here, of tokens that had been used before."""
    return [one for one in place.simulator.books()["refreshes"] if str(one["outcome"]).startswith("refused")]
