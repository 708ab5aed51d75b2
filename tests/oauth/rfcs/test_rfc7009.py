"""RFC 7009: a client ends its own tokens and no others."""

from __future__ import annotations

import pytest

from tests.support.rooms.oauth_world import World, error_of

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]


@pytest.mark.requirement("S-084")
async def test_revoking_a_refresh_token_ends_every_token_of_its_grant(world: World) -> None:
    issued = await world.tokens()
    rotated = (await world.refresh(issued["client_id"], issued["refresh_token"])).json()
    form = {"client_id": issued["client_id"], "token": rotated["refresh_token"], "token_type_hint": "nonsense"}
    answer = await world.http.post("/revoke", data=form)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["cache-control"] == "no-store"
    assert await world.probe(issued["access_token"]) == 401
    assert await world.probe(rotated["access_token"]) == 401
    assert error_of(await world.refresh(issued["client_id"], rotated["refresh_token"])) == "invalid_grant"


@pytest.mark.requirement("S-084")
async def test_whoever_only_received_an_access_token_can_end_it_and_nothing_else(world: World) -> None:
    """An API that was called holds the token, and anyone can know a public client's ID."""
    issued = await world.tokens()
    form = {"client_id": issued["client_id"], "token": issued["access_token"], "token_type_hint": "refresh_token"}
    answer = await world.http.post("/revoke", data=form)
    assert (answer.status_code, answer.content) == (200, b"")
    assert await world.probe(issued["access_token"]) == 401
    rotated = await world.refresh(issued["client_id"], issued["refresh_token"])
    assert rotated.status_code == 200
    assert await world.probe(rotated.json()["access_token"]) == 200


@pytest.mark.requirement("S-084")
async def test_a_client_cannot_revoke_tokens_of_another(world: World) -> None:
    issued, other = await world.tokens(), await world.public_client()
    for token in (issued["refresh_token"], issued["access_token"]):
        answer = await world.http.post("/revoke", data={"client_id": other, "token": token})
        assert answer.status_code == 200  # as for an unknown token, so that the answer reveals nothing
    assert await world.probe(issued["access_token"]) == 200
    assert (await world.refresh(issued["client_id"], issued["refresh_token"])).status_code == 200


@pytest.mark.requirement("S-084")
async def test_unknown_tokens_are_answered_like_known_ones(world: World) -> None:
    client_id = await world.public_client()
    for token in ("unknown", "a.b.c", "x" * 5000, "%00", "tvp_" + "x" * 43):
        answer = await world.http.post("/revoke", data={"client_id": client_id, "token": token})
        assert (answer.status_code, answer.content) == (200, b"")


async def test_revocation_needs_a_client_and_a_token(world: World) -> None:
    confidential = await world.register(token_endpoint_auth_method="client_secret_post")
    client_id = await world.public_client()
    for form, status, error in (
        ({"token": "x"}, 401, "invalid_client"),
        ({"client_id": "nobody", "token": "x"}, 401, "invalid_client"),
        ({"client_id": str(confidential["client_id"]), "token": "x"}, 401, "invalid_client"),
        ({"client_id": client_id}, 400, "invalid_request"),
    ):
        answer = await world.http.post("/revoke", data=form)
        assert (answer.status_code, error_of(answer)) == (status, error)
    assert (await world.http.post("/revoke/", data={"client_id": client_id, "token": "x"})).status_code == 200
    assert (await world.http.get(f"/revoke?client_id={client_id}&token=x")).status_code == 405
