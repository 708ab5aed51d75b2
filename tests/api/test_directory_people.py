"""The Admin API gives existing people to a company's directory: each once, and under an ID of their own."""

from __future__ import annotations

from tests.support.rooms.admin_room import AdminRoom, problem


async def test_a_directory_manages_an_existing_person_once(room: AdminRoom) -> None:
    person, other = await room.room.user(), await room.room.user()
    place, another = f"/people/{person.id}/directory", f"/people/{other.id}/directory"
    taken = await room.call("POST", place, json={"external_id": "00u1"})
    assert (taken.status_code, taken.json()) == (
        201,
        {"person_id": person.id, "name": person.name, "external_id": "00u1"},
    )
    problem(await room.call("POST", place, json={}), 409, "person_changed")
    refused = problem(await room.call("POST", another, json={"external_id": "00u1"}), 409, "person_changed")
    assert [one["pointer"] for one in refused["errors"]] == ["/external_id"]  # pyright: ignore[reportGeneralTypeIssues]
    taken = await room.call("POST", another, json={"external_id": "00u2"})
    assert (taken.status_code, taken.json()["external_id"]) == (201, "00u2")


async def test_a_directory_manages_nobody_who_does_not_exist(room: AdminRoom) -> None:
    problem(await room.call("POST", "/people/nobody/directory", json={}), 404, "no_person")
    person = await room.room.user()
    assert (await room.call("POST", f"/people/{person.id}/directory", json={})).status_code == 201
