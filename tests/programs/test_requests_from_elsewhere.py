"""What a program on another machine can ask for: the form and the length of each part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.proxy import remote_programs
from server.proxy.program_access import ProgramAccess
from server.proxy.program_hosts import HOST_REFUSED, note_host
from server.proxy.remote_programs import RemoteCall, RemoteRun
from tests.support.rooms.program_room import program_room
from vault import clients

CALL: dict[str, object] = {"method": "GET", "host": "api.example", "port": 443, "path": "/a"}
FITTING_AND_NOT: list[tuple[str, object, object]] = [
    ("method", "A" * 20, "A" * 21),
    ("method", "A", ""),
    ("method", "GET", "get"),
    ("host", "h" * 253, "h" * 254),
    ("port", 1, 0),
    ("port", 65_535, 65_536),
    ("path", "/" + "a" * 16_383, "/" + "a" * 16_384),
    ("path", "/\xff", "/\u0100"),
    ("query", "a=b", "a=\n"),
    ("operation", "o" * 200, "o" * 201),
    ("operation", "", "a b"),
    ("accounts", ["a"] * 20, ["a"] * 21),
    ("accounts", ["a" * 200], ["a" * 201]),
]


@pytest.mark.parametrize(("name", "fitting", "wrong"), FITTING_AND_NOT)
def test_each_part_of_a_call_has_a_form_and_a_length(name: str, fitting: object, wrong: object) -> None:
    RemoteCall.model_validate(CALL | {name: fitting})
    with pytest.raises(ValidationError):
        RemoteCall.model_validate(CALL | {name: wrong})


def test_a_member_of_a_later_release_is_refused() -> None:
    assert RemoteRun.model_validate({}).accounts == ()
    with pytest.raises(ValidationError):
        RemoteRun.model_validate({"later": 1})


async def test_a_host_is_recorded_up_to_its_longest_form(tmp_path: Path) -> None:
    async with program_room(tmp_path) as room:
        for length in (252, 253, 254):
            note_host(room.vault.deployment, room.principal, "h" * length, 443)
        for _ in range(3):
            note_host(room.vault.deployment, room.principal, "refused", 443, code=HOST_REFUSED)
        found = [(one.outcome, one.details["host"]) for one in reversed(await room.events("program.called"))]
    reached = [("ok", "h" * 252), ("ok", "h" * 253), ("ok", "h" * 253)]
    assert found == [*reached, ("refused", "refused")], "a refusal that repeats is one row"


async def test_the_oldest_access_makes_room_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_programs, "_MOST_OF_AGENT", 2)
    monkeypatch.setattr(remote_programs, "_MOST", 3)
    async with program_room(tmp_path) as room:
        deployment = room.vault.deployment
        client = await clients.get_client(deployment.database, room.principal.client_id)
        assert client is not None
        programs = remote_programs.RemotePrograms(deployment)

        def access(user: str, token: str) -> ProgramAccess:
            principal = replace(room.principal, user_id=user, token_id=token)
            return programs._access(remote_programs._Agent(principal, client, "127.0.0.1", token, None), RemoteRun())

        a1, a2 = access("a", "1"), access("a", "2")
        assert access("a", "1") is a1, "now the other one is the oldest"
        access("a", "3")
        assert access("a", "1") is a1
        assert access("a", "2") is not a2
        b1, c1 = access("b", "1"), access("c", "1")
        assert (access("b", "1"), access("c", "1")) == (b1, c1)
        access("d", "1")
        assert access("b", "1") is b1
        assert access("c", "1") is c1
        assert access("a", "1") is not a1, "the oldest of all"
