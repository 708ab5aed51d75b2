"""The simulator's rotation classes, lifetimes and ways to narrow: each next to the behavior that it differs from."""

from __future__ import annotations

import asyncio

import pytest

from providers.simulator import Simulator
from tests.support.simulator_apps import EVENTS, READONLY, GoogleApp, SlackApp


async def works(app: SlackApp, token: str) -> bool:
    return (await app.call("auth.test", token))["ok"] is True


def outcomes(simulator: Simulator) -> list[object]:
    return [entry["outcome"] for entry in simulator.books()["refreshes"]]


async def test_strict_re_use_is_refused_and_the_successor_lives(slack: SlackApp) -> None:
    first = await slack.connect()
    second = (await slack.refresh(first["refresh_token"])).json()
    assert (await slack.refresh(first["refresh_token"])).json()["ok"] is False
    assert await works(slack, second["access_token"])
    assert await works(slack, first["access_token"])
    assert (await slack.refresh(second["refresh_token"])).json()["ok"] is True


async def test_re_use_can_revoke_the_whole_family_and_no_other(slack: SlackApp) -> None:
    slack.simulator.control("rotation", face="slack", mode="reuse_revokes_family")
    first, other = await slack.connect(), await slack.connect()
    second = (await slack.refresh(first["refresh_token"])).json()
    assert await works(slack, second["access_token"])
    assert (await slack.refresh(first["refresh_token"])).json()["error"] == "invalid_refresh_token"
    assert not await works(slack, second["access_token"])
    assert (await slack.refresh(second["refresh_token"])).json()["ok"] is False
    assert await works(slack, other["access_token"])
    families = {family["family"]: family["ended"] for family in slack.simulator.books()["families"]}
    assert families == {"slack-1": "reuse_detected", "slack-2": None}
    assert outcomes(slack.simulator) == ["rotated", "refused:reused_family_revoked", "refused:reuse_detected"]


async def test_a_grace_that_resends_gives_the_same_tokens_again(slack: SlackApp) -> None:
    slack.simulator.control("rotation", face="slack", mode="grace", grace=30)
    first = await slack.connect()
    second = (await slack.refresh(first["refresh_token"])).json()
    slack.simulator.advance(29)
    again = (await slack.refresh(first["refresh_token"])).json()
    assert again["refresh_token"] == second["refresh_token"]
    assert again["access_token"] == second["access_token"]
    slack.simulator.advance(2)
    assert (await slack.refresh(first["refresh_token"])).json()["ok"] is False
    assert (await slack.refresh(second["refresh_token"])).json()["ok"] is True
    assert outcomes(slack.simulator) == ["rotated", "resent", "refused:reused", "rotated"]


async def test_a_resending_grace_ends_when_the_successor_is_used(slack: SlackApp) -> None:
    slack.simulator.control("rotation", face="slack", mode="grace", grace=30)
    first = await slack.connect()
    second = (await slack.refresh(first["refresh_token"])).json()
    await slack.refresh(second["refresh_token"])
    assert (await slack.refresh(first["refresh_token"])).json()["ok"] is False


async def test_a_grace_with_siblings_gives_other_tokens_that_live_beside(slack: SlackApp) -> None:
    slack.simulator.control("rotation", face="slack", mode="grace", grace=30, answer="sibling")
    first = await slack.connect()
    second = (await slack.refresh(first["refresh_token"])).json()
    sibling = (await slack.refresh(first["refresh_token"])).json()
    assert sibling["refresh_token"] != second["refresh_token"]
    for tokens in (second, sibling):
        assert await works(slack, tokens["access_token"])
        assert (await slack.refresh(tokens["refresh_token"])).json()["ok"] is True


async def test_re_use_after_the_grace_can_end_the_family(slack: SlackApp) -> None:
    slack.simulator.control("rotation", face="slack", mode="grace", grace=30, after_grace="revoke_family")
    first = await slack.connect()
    second = (await slack.refresh(first["refresh_token"])).json()
    slack.simulator.advance(31)
    assert (await slack.refresh(first["refresh_token"])).json()["ok"] is False
    assert (await slack.refresh(second["refresh_token"])).json()["ok"] is False


async def test_without_rotation_the_token_serves_for_ever(slack: SlackApp) -> None:
    slack.simulator.control("rotation", face="slack", mode="none")
    token = (await slack.connect())["refresh_token"]
    answers = [(await slack.refresh(token)).json() for _ in range(3)]
    assert [("refresh_token" in answer, answer["ok"]) for answer in answers] == [(False, True)] * 3


async def test_google_can_be_made_to_rotate(google: GoogleApp) -> None:
    google.simulator.control("rotation", face="google", mode="strict")
    first = await google.connect()
    second = (await google.refresh(first["refresh_token"])).json()
    assert second["refresh_token"] != first["refresh_token"]
    refused = await google.refresh(first["refresh_token"])
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert (await google.refresh(second["refresh_token"])).status_code == 200


async def test_of_many_refreshes_at_once_exactly_one_wins(slack: SlackApp) -> None:
    token = (await slack.connect())["refresh_token"]
    answers = await asyncio.gather(*(slack.refresh(token) for _ in range(12)))
    assert sum(answer.json()["ok"] for answer in answers) == 1
    assert outcomes(slack.simulator).count("rotated") == 1


async def test_an_omitted_refresh_token_leaves_the_old_one_good(slack: SlackApp) -> None:
    first = await slack.connect()
    slack.simulator.control("omit_refresh_token", face="slack")
    without = (await slack.refresh(first["refresh_token"])).json()
    assert without["ok"] is True
    assert "refresh_token" not in without
    assert "refresh_token" in (await slack.refresh(first["refresh_token"])).json()


async def test_a_first_answer_can_lack_a_refresh_token(slack: SlackApp) -> None:
    slack.simulator.control("omit_refresh_token", face="slack", times=None)
    assert "refresh_token" not in await slack.connect()
    assert "refresh_token" not in await slack.connect()
    slack.simulator.control("omit_refresh_token", face="slack", times=0)
    assert "refresh_token" in await slack.connect()


async def test_lifetimes_can_be_set(slack: SlackApp) -> None:
    slack.simulator.control("lifetimes", face="slack", access=300, refresh=7 * 86400, code=10)
    tokens = await slack.connect()
    assert tokens["expires_in"] == 300
    slack.simulator.advance(301)
    assert not await works(slack, tokens["access_token"])
    slack.simulator.advance(6 * 86400)
    fresh = (await slack.refresh(tokens["refresh_token"])).json()
    assert fresh["ok"] is True
    slack.simulator.advance(86400)
    assert (await slack.refresh(fresh["refresh_token"])).json()["ok"] is False
    late = await slack.code()
    slack.simulator.advance(10)
    assert (await slack.redeem(late)).json()["error"] == "code_expired"


async def test_access_tokens_can_be_made_to_expire_now(slack: SlackApp) -> None:
    alice, bob = await slack.connect(), await slack.connect(account="bob")
    assert slack.simulator.control("expire", account="alice") == {"expired": 1}
    assert (await slack.call("auth.test", alice["access_token"]))["error"] == "token_expired"
    assert await works(slack, bob["access_token"])
    assert (await slack.refresh(alice["refresh_token"])).json()["ok"] is True


async def test_narrowing_can_be_ignored_real_or_shrink_the_grant_for_ever(google: GoogleApp) -> None:
    expected = {"ignored": (True, True), "real": (False, True), "sticky": (False, False)}
    for mode, (first_is_wide, next_is_wide) in expected.items():
        google.simulator.control("rules", face="google", narrowing=mode)
        tokens = await google.connect(prompt="consent", scope=f"{EVENTS} {READONLY}")
        narrow = (await google.refresh(tokens["refresh_token"], scope=READONLY)).json()
        assert (EVENTS in narrow["scope"].split()) is first_is_wide
        following = (await google.refresh(tokens["refresh_token"])).json()
        assert (EVENTS in following["scope"].split()) is next_is_wide
        old = await google.api("GET", "/calendars/primary/events", tokens["access_token"])
        assert (old.status_code == 200) is (mode != "sticky")


async def test_a_refresh_can_end_the_access_tokens_before_it(slack: SlackApp) -> None:
    tokens = await slack.connect()
    second = (await slack.refresh(tokens["refresh_token"])).json()
    assert await works(slack, tokens["access_token"])
    slack.simulator.control("rules", face="slack", refresh_ends_access=True)
    third = (await slack.refresh(second["refresh_token"])).json()
    assert not await works(slack, second["access_token"])
    assert await works(slack, third["access_token"])


@pytest.mark.parametrize(
    ("rule", "access_lives", "refresh_lives", "sibling_lives"),
    [
        ("lies", True, True, True),
        ("token", False, True, True),
        ("family", False, False, True),
        ("grant", False, False, False),
    ],
)
async def test_revocation_ends_what_the_rule_says_and_always_claims_success(
    slack: SlackApp, rule: str, access_lives: bool, refresh_lives: bool, sibling_lives: bool
) -> None:
    slack.simulator.control("rules", face="slack", revoke=rule)
    tokens, sibling = await slack.connect(), await slack.connect()
    assert await slack.call("auth.revoke", tokens["access_token"]) == {"ok": True, "revoked": True}
    assert await works(slack, tokens["access_token"]) is access_lives
    assert (await slack.refresh(tokens["refresh_token"])).json()["ok"] is refresh_lives
    assert await works(slack, sibling["access_token"]) is sibling_lives
    expected = "lied" if rule == "lies" else "revoked"
    assert slack.simulator.books()["revocations"][0]["outcome"] == expected


async def test_a_google_revocation_can_lie_too(google: GoogleApp) -> None:
    google.simulator.control("rules", face="google", revoke="lies")
    tokens = await google.connect()
    assert (await google.http.post(f"{google.base}/revoke", data={"token": tokens["refresh_token"]})).status_code == 200
    assert (await google.refresh(tokens["refresh_token"])).status_code == 200


async def test_the_families_page_shows_what_is_alive(slack: SlackApp) -> None:
    tokens = await slack.connect()
    await slack.refresh(tokens["refresh_token"])
    family = slack.simulator.books()["families"][0]
    assert (family["generation"], family["live_refresh_tokens"]) == (1, ["slack-1:r1"])
    assert family["live_access_tokens"] == ["slack-1:a0", "slack-1:a1"]


@pytest.mark.parametrize(
    ("command", "body"),
    [
        ("rules", {"face": "github", "rotation": "none"}),
        ("rules", {"face": "slack", "rotation": "sometimes"}),
        ("rules", {"face": "slack", "no_such_rule": 1}),
        ("rotation", {"face": "slack", "mode": "sometimes"}),
        ("clock", {"advance": -1}),
        ("accounts", {"account": "mallory", "active": False}),
        ("client", {"client_id": "stranger", "redirect_uris": None}),
        ("faults", {"endpoint": "slack", "kind": "sneeze"}),
        ("faults", {"endpoint": "slack", "kind": "drop", "typo": 1}),
    ],
)
async def test_a_mistaken_control_command_is_refused(
    simulator: Simulator, command: str, body: dict[str, str | int | bool | None]
) -> None:
    with pytest.raises(ValueError, match=r"."):
        simulator.control(command, **body)
    assert simulator.control("clock", advance=0)["now"]
