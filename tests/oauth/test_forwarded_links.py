"""Links with a ticket that someone forwards: what each person's click does.

Links of devices are in test_rfc8628, connect links and callbacks in test_connect_flow, sign-in states in
test_signin_openid, approvals in test_approve; all are marked S-060 or S-061.
"""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest

from tests.support.person import Person
from tests.support.rooms.oauth_world import REDIRECT, World, claims_of, error_of, pkce, query_of

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]


def without_tickets(page: str) -> str:
    return re.sub(r'value="[^"]+"', "", page)


@pytest.mark.requirement("S-061")
@pytest.mark.parametrize("way", ["consent", "sign-in", "pushed"])
async def test_the_answer_to_a_forwarded_request_leaves_through_the_browser_that_gives_it(
    world: World, stranger: Person, way: str
) -> None:
    """The same page as `/authorize` itself shows, which anyone can link to; whoever sent the link gains nothing."""
    client_id, (verifier, challenge) = await world.public_client(), pkce()
    request = world.authorize_url(client_id, challenge, state="chosen-by-stranger")
    if way == "pushed":
        form = query_of(request)
        pushed = (await world.http.post("/par", data=form)).json()["request_uri"]
        link = "/authorize?" + urlencode({"client_id": client_id, "request_uri": pushed})
    else:
        link = str((await stranger.open(request)).url).removeprefix(world.url)
        assert link.startswith("/consent?request=")
    if way == "sign-in":
        link = "/sign-in?" + urlencode({"return_to": link})
    page = await world.alice.open(link)
    own = await world.alice.open(world.authorize_url(client_id, challenge, state="chosen-by-stranger"))
    assert without_tickets(page.text) == without_tickets(own.text)
    answer = await world.alice.submit(page, form="/consent", button=("decision", "allow"))
    assert answer.headers["location"].startswith(f"{REDIRECT}?code=")
    told = query_of(answer.headers["location"])
    assert (await stranger.open(str(page.url))).status_code == 410  # nothing is left for the sender
    form = {"grant_type": "authorization_code", "client_id": client_id, "code_verifier": verifier}
    tokens = await world.token(form | {"code": told["code"], "redirect_uri": REDIRECT})
    assert claims_of(tokens.json()["access_token"])["sub"] == (await _id_of(world, "alice"))


async def _id_of(world: World, name: str) -> str:
    row = await world.vault.deployment.database.fetch_one("select id from users where name = :name", {"name": name})
    assert row is not None
    return str(row["id"])


@pytest.mark.requirement("S-061")
async def test_a_code_for_a_challenge_of_the_senders_is_nothing_to_the_client_that_receives_it(
    world: World, stranger: Person
) -> None:
    """A sender who chose the challenge can neither make an honest client use the reader's code nor redeem the code."""
    client_id, (_, challenge) = await world.public_client(), pkce()
    link = str((await stranger.open(world.authorize_url(client_id, challenge))).url)
    page = await world.alice.open(link)
    answer = await world.alice.submit(page, form="/consent", button=("decision", "allow"))
    honest_verifier, _ = pkce()
    form = {"grant_type": "authorization_code", "client_id": client_id, "code_verifier": honest_verifier}
    refused = await world.token(form | {"code": query_of(answer.headers["location"])["code"], "redirect_uri": REDIRECT})
    assert error_of(refused) == "invalid_grant"
