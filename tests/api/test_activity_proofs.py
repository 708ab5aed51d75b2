"""Proofs of events over HTTP: an auditor gets one, a stranger checks it, and each refusal has its code."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from server.administration import people
from server.api.operations import instant_of
from server.checkpoints.publication import current_log, publish
from tests.cli.activity.test_activity_proof import check_proof
from tests.cli.activity.test_event_proofs import change, happen
from tests.conftest import Store
from tests.support.rooms.admin_room import AdminRoom, problem, running_admin_room
from vault.audit.log import OVERLAP, rotate_log_key
from vault.records import Role


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[AdminRoom]:
    overrides = {} if store.is_sqlite else {"database": {"url": store.url}}
    async with running_admin_room(store.data, **overrides) as opened:
        yield opened


async def auditor_token(room: AdminRoom) -> str:
    user = await room.room.user()
    await people.set_role(room.operator, user, Role.AUDITOR)
    return await room.signed_in_token("admin:read", name=user.name)


async def test_an_auditor_gets_a_proof_that_a_stranger_checks(room: AdminRoom, tmp_path: Path) -> None:
    token = await auditor_token(room)
    await publish(room.deployment, at_once=True)
    listed = (await room.call("GET", "/activity?limit=1", token=token)).json()["items"][0]
    answer = await room.call("GET", f"/activity/{listed['sequence']}/proof", token=token)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="{listed["sequence"]}.tlog-proof"'
    assert answer.headers["cache-control"] == "no-store"
    (key,) = (await room.call("GET", "/activity/keys", token=token)).json()["items"]
    assert key["signs"] is True
    note = (await room.call("GET", "/activity/checkpoint", token=token)).text
    assert note.split("\n")[0] == key["origin"] == key["key"].split("+")[0]
    assert answer.text.endswith(f"\n\n{note}")

    file = tmp_path / "event.tlog-proof"
    file.write_bytes(answer.content)
    code, said = await check_proof(str(file), key["key"])
    assert code == 0, said
    assert f"Proved: event {listed['sequence']} of {key['origin']}, {listed['kind']} ({listed['outcome']})" in said
    lines = answer.content.split(b"\n")
    for number, line in enumerate(lines):
        if line:
            middle = len(line) // 2
            forged = line[:middle] + bytes([line[middle] ^ 1]) + line[middle + 1 :]
            file.write_bytes(b"\n".join([*lines[:number], forged, *lines[number + 1 :]]))
            code, said = await check_proof(str(file), key["key"])
            assert code != 0, (line, said)


async def test_whoever_may_not_read_the_activity_gets_none_of_it(room: AdminRoom) -> None:
    await publish(room.deployment, at_once=True)
    token = await room.token_with("admin:access", "admin:write")
    for path in ("/activity/1/proof", "/activity/checkpoint", "/activity/keys"):
        problem(await room.call("GET", path, token=token), 403, "insufficient_scope")
        assert (await room.call("GET", path)).status_code == 200


async def test_a_refusal_over_http_has_its_code_and_when_to_try_again(room: AdminRoom) -> None:
    deployment = room.deployment
    await publish(deployment, at_once=True)
    last = await happen(deployment)
    early = await room.call("GET", f"/activity/{last}/proof")
    said = problem(early, 409, "event_unsigned")
    assert f"Event {last} isn't in a signed checkpoint yet: try again in 61 min." == said["detail"]
    assert 3600 <= int(early.headers["retry-after"]) <= 3660
    assert "retry-after" not in (await room.call("GET", "/activity/999999/proof")).headers
    problem(await room.call("GET", "/activity/999999/proof"), 404, "no_event")
    for bad in ("0", "-1", "01", "1.0", "x", "9" * 19, "%31%30%30%30%30%2f"):
        assert (await room.call("GET", f"/activity/{bad}/proof")).status_code == 404
    await publish(deployment, at_once=True)
    assert (await room.call("GET", f"/activity/{last}/proof")).status_code == 200
    await change(deployment, "update events set outcome = :forged where sequence = :one", one=last, forged="x")
    said = problem(await room.call("GET", f"/activity/{last}/proof"), 500, "chain_broken")
    assert "tampered" in str(said["detail"])
    assert (await room.call("GET", f"/activity/{last - 1}/proof")).status_code == 200


async def test_a_replaced_key_is_listed_with_its_end(room: AdminRoom) -> None:
    log, now = await current_log(room.deployment), room.deployment.now()
    made = await rotate_log_key(room.deployment.database, log, now=now)
    old, new = (await room.call("GET", "/activity/keys")).json()["items"]
    assert (old["signs"], old["retired_at"]) == (True, instant_of(now + OVERLAP))
    assert (new["key"], new["signs"], new["retired_at"]) == (str(made), True, None)
