"""Scripted misbehavior of the simulator: what the caller sees, and whether the request took effect."""

from __future__ import annotations

import asyncio
import logging

import httpx2
import pytest

from providers.simulator import Simulator, running_simulator
from tests.support.simulator_apps import GoogleApp, SlackApp, wait_until_held


def generation(simulator: Simulator) -> object:
    return simulator.books()["families"][0]["generation"]


async def test_an_answer_dropped_before_commit_spends_nothing(slack: SlackApp) -> None:
    token = (await slack.connect())["refresh_token"]
    slack.simulator.fault("slack.token.refresh", "drop_before")
    with pytest.raises(httpx2.RemoteProtocolError):
        await slack.refresh(token)
    assert generation(slack.simulator) == 0
    assert slack.simulator.books()["refreshes"] == []
    assert (await slack.refresh(token)).json()["ok"] is True


async def test_an_answer_dropped_after_commit_spends_the_token(slack: SlackApp) -> None:
    token = (await slack.connect())["refresh_token"]
    slack.simulator.fault("slack.token.refresh", "drop_after")
    with pytest.raises(httpx2.RemoteProtocolError):
        await slack.refresh(token)
    assert generation(slack.simulator) == 1
    entry = slack.simulator.books()["refreshes"][0]
    assert (entry["outcome"], entry["fault"]) == ("rotated", "drop")
    assert (await slack.refresh(token)).json() == {"ok": False, "error": "invalid_refresh_token"}


async def test_a_lost_answer_is_recovered_within_a_grace(slack: SlackApp) -> None:
    slack.simulator.control("rotation", face="slack", mode="grace", grace=60)
    token = (await slack.connect())["refresh_token"]
    slack.simulator.fault("slack.token.refresh", "drop_after")
    with pytest.raises(httpx2.RemoteProtocolError):
        await slack.refresh(token)
    assert (await slack.refresh(token)).json()["ok"] is True


async def test_a_code_can_be_lost_with_its_answer(google: GoogleApp) -> None:
    code = await google.code()
    google.simulator.fault("google.token.code", "drop_after")
    with pytest.raises(httpx2.RemoteProtocolError):
        await google.redeem(code)
    assert (await google.redeem(code)).json()["error"] == "invalid_grant"


async def test_a_cut_answer_breaks_off_after_commit(slack: SlackApp) -> None:
    token = (await slack.connect())["refresh_token"]
    slack.simulator.fault("slack.token", "cut")
    with pytest.raises(httpx2.RemoteProtocolError, match="complete message body"):
        await slack.refresh(token)
    assert generation(slack.simulator) == 1


@pytest.mark.parametrize(
    ("kind", "more", "status", "content"),
    [
        ("status", {}, 500, ""),
        ("status", {"status": 503, "body": '{"error": "unavailable"}'}, 503, '{"error": "unavailable"}'),
        ("html", {}, 502, "<h1>502 Bad Gateway</h1>"),
        ("html", {"status": 200}, 200, "<html>"),
        ("empty", {}, 200, ""),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_broken_answer_comes_before_or_after_commit(
    slack: SlackApp, kind: str, more: dict[str, str | int], status: int, content: str, when: str
) -> None:
    token = (await slack.connect())["refresh_token"]
    slack.simulator.fault("slack.token.refresh", kind, when=when, **more)
    answer = await slack.refresh(token)
    assert answer.status_code == status
    assert content in answer.text
    assert generation(slack.simulator) == (1 if when == "after" else 0)
    assert (await slack.refresh(token)).json()["ok"] is (when == "before")


async def test_being_told_to_wait_names_the_seconds(slack: SlackApp, google: GoogleApp) -> None:
    slack.simulator.fault("slack.api.chat.postMessage", "429", retry_after=7)
    token = (await slack.connect())["access_token"]
    headers = {"authorization": f"Bearer {token}"}
    url = f"{slack.base}/api/chat.postMessage"
    form = {"channel": "general", "text": "hello"}
    limited = await slack.http.post(url, data=form, headers=headers)
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "7")
    assert limited.json() == {"ok": False, "error": "ratelimited"}
    assert slack.simulator.books()["posts"] == []
    assert (await slack.http.post(url, data=form, headers=headers)).json()["ok"] is True
    google.simulator.fault("google.api.calendar.events.list", "rate_limited", retry_after=None)
    limited = await google.api("GET", "/calendars/primary/events", None)
    assert (limited.status_code, "retry-after" in limited.headers) == (429, False)
    assert limited.json()["error"]["status"] == "RESOURCE_EXHAUSTED"


async def test_a_huge_body_is_as_large_as_asked_for(slack: SlackApp) -> None:
    slack.simulator.fault("slack.api", "huge", size=3_000_000)
    answer = await slack.http.post(f"{slack.base}/api/auth.test")
    assert len(answer.content) == 3_000_000
    assert answer.headers["content-type"] == "application/json"


async def test_a_reader_of_a_huge_body_may_stop_early(slack: SlackApp) -> None:
    slack.simulator.fault("slack.api", "huge", size=200_000_000)
    async with slack.http.stream("POST", f"{slack.base}/api/auth.test") as answer:
        async for chunk in answer.aiter_raw():
            assert chunk
            break
    assert (await slack.call("auth.test", None))["error"] == "not_authed"


async def test_a_failure_inside_http_200_says_what_is_asked(slack: SlackApp, google: GoogleApp) -> None:
    token = (await slack.connect())["access_token"]
    slack.simulator.fault("slack.api.chat.postMessage", "ok_false", when="after")
    answer = await slack.call("chat.postMessage", token, channel="general", text="hello")
    assert answer == {"ok": False, "error": "internal_error"}
    assert len(slack.simulator.books()["posts"]) == 1
    slack.simulator.fault("slack.api", "ok_false", error="fatal_error")
    assert (await slack.call("auth.test", token))["error"] == "fatal_error"
    google.simulator.fault("google.token", "ok_false", error="invalid_grant")
    answer = await google.refresh("1//x")
    assert (answer.status_code, answer.json()["error"]) == (200, "invalid_grant")


async def test_a_false_invalid_grant_leaves_the_token_good(slack: SlackApp, google: GoogleApp) -> None:
    token = (await slack.connect())["refresh_token"]
    slack.simulator.fault("slack.token.refresh", "invalid_grant")
    assert (await slack.refresh(token)).json() == {"ok": False, "error": "invalid_refresh_token"}
    assert (await slack.refresh(token)).json()["ok"] is True
    other = (await google.connect())["refresh_token"]
    google.simulator.fault("google.token.refresh", "invalid_grant")
    assert (await google.refresh(other)).json()["error"] == "invalid_grant"
    assert (await google.refresh(other)).status_code == 200


async def test_the_true_answer_can_be_altered(google: GoogleApp) -> None:
    token = (await google.connect())["refresh_token"]
    google.simulator.fault(
        "google.token.refresh", "alter", change={"token_type": "mac", "extra.deep": 1}, remove=["expires_in"]
    )
    answer = (await google.refresh(token)).json()
    assert (answer["token_type"], answer["extra"], "expires_in" in answer) == ("mac", {"deep": 1}, False)
    assert (await google.refresh(token)).json()["token_type"] == "Bearer"


async def test_a_redirect_leads_to_a_trap_that_notes_credentials(slack: SlackApp) -> None:
    token = (await slack.connect())["access_token"]
    slack.simulator.fault("slack.api", "redirect", times=2)
    headers = {"authorization": f"Bearer {token}"}
    url = f"{slack.base}/api/auth.test"
    stopped = await slack.http.post(url, headers=headers)
    assert (stopped.status_code, slack.simulator.books()["trapped"]) == (307, [])
    await slack.http.post(url, headers=headers, follow_redirects=True)
    trapped = slack.simulator.books()["trapped"]
    assert (len(trapped), trapped[0]["has_authorization"]) == (1, True)


async def test_a_slow_answer_comes_late_and_right(slack: SlackApp) -> None:
    token = (await slack.connect())["refresh_token"]
    slack.simulator.fault("slack.token.refresh", "slow", seconds=0.05)
    assert (await slack.refresh(token)).json()["ok"] is True


@pytest.mark.parametrize(("when", "spent"), [("before", 0), ("after", 1)])
@pytest.mark.parametrize("kind", ["slow", "hang"])
async def test_waiting_ends_when_the_caller_gives_up(slack: SlackApp, kind: str, when: str, spent: int) -> None:
    token = (await slack.connect())["refresh_token"]
    slack.simulator.fault("slack.token.refresh", kind, when=when, seconds=300)
    async with httpx2.AsyncClient(trust_env=False, timeout=httpx2.Timeout(10, read=0.1)) as impatient:
        with pytest.raises(httpx2.ReadTimeout):
            await SlackApp(slack.simulator, impatient).refresh(token)
    assert generation(slack.simulator) == spent
    assert (await slack.refresh(token)).json()["ok"] is (spent == 0)


async def test_a_slow_request_can_take_effect_although_its_caller_gave_up(slack: SlackApp) -> None:
    token = (await slack.connect())["refresh_token"]
    slack.simulator.fault("slack.token.refresh", "slow", seconds=0.3, persists=True)
    async with httpx2.AsyncClient(trust_env=False, timeout=httpx2.Timeout(10, read=0.1)) as impatient:
        with pytest.raises(httpx2.ReadTimeout):
            await SlackApp(slack.simulator, impatient).refresh(token)
    async with asyncio.timeout(30):
        while generation(slack.simulator) == 0:
            await asyncio.sleep(0.01)


async def test_held_requests_wait_for_their_release(slack: SlackApp) -> None:
    token = (await slack.connect())["refresh_token"]
    slack.simulator.fault("slack.token.refresh", "hold", times=2)
    waiting = [asyncio.create_task(slack.refresh(token)) for _ in range(2)]
    await wait_until_held(slack.simulator, "slack.token", count=2)
    assert generation(slack.simulator) == 0
    assert slack.simulator.control("release") == {"released": ["slack.token.refresh"] * 2}
    answers = await asyncio.gather(*waiting)
    assert sorted(answer.json()["ok"] for answer in answers) == [False, True]
    with pytest.raises(TimeoutError):
        await wait_until_held(slack.simulator, "slack.token", seconds=0.01)


async def test_a_held_answer_can_already_be_committed(slack: SlackApp) -> None:
    token = (await slack.connect())["refresh_token"]
    slack.simulator.fault("slack.token.refresh", "hold", when="after")
    waiting = asyncio.create_task(slack.refresh(token))
    await wait_until_held(slack.simulator, "slack.token.refresh")
    assert generation(slack.simulator) == 1
    slack.simulator.control("clear_faults")
    assert (await waiting).json()["ok"] is True


async def test_a_fault_strikes_its_endpoint_after_the_skipped_ones_and_as_often_as_asked(slack: SlackApp) -> None:
    token = (await slack.connect())["access_token"]
    slack.simulator.fault("slack.api.auth.test", "ok_false", error="struck", skip=1, times=2)
    seen = [(await slack.call("auth.test", token)).get("error") for _ in range(4)]
    assert seen == [None, "struck", "struck", None]
    slack.simulator.fault("slack.api.auth", "ok_false", error="struck", times=None)
    assert (await slack.call("conversations.list", token))["ok"] is True
    assert [(await slack.call("auth.test", token))["error"] for _ in range(3)] == ["struck"] * 3
    slack.simulator.control("clear_faults")
    assert (await slack.call("auth.test", token))["ok"] is True


async def test_a_fault_can_strike_some_grants_only(slack: SlackApp) -> None:
    simulator = slack.simulator
    grants = simulator.control("seed", face="slack", count=2, scopes=["chat:write", "channels:read"])["grants"]
    struck, spared = grants
    simulator.fault("slack", "ok_false", families=[struck["family"]], times=None, error="fatal_error")
    for path, name in (("/api/oauth.v2.access", "refresh_token"), ("/api/conversations.list", "access_token")):
        for grant, error in ((struck, "fatal_error"), (spared, None)):
            if name == "refresh_token":
                answer = await slack.refresh(grant[name])
            else:
                headers = {"authorization": f"Bearer {grant[name]}"}
                answer = await slack.http.get(slack.base + path, headers=headers)
            assert (answer.json()["ok"], answer.json().get("error")) == (error is None, error)


async def test_brief_books_forget_entries_and_count_them(slack: SlackApp) -> None:
    simulator = slack.simulator
    simulator.control("brief_books", entries=2)
    (grant,) = simulator.control("seed", face="slack", count=1, scopes=["chat:write"])["grants"]
    token = grant["refresh_token"]
    for _ in range(4):
        token = (await slack.refresh(token)).json()["refresh_token"]
    assert (await slack.refresh(grant["refresh_token"])).json()["ok"] is False
    assert len(simulator.books()["refreshes"]) == 2
    assert simulator.control("tally") == {"refreshes": {"rotated": 4, "refused:reused": 1}}


async def test_arrivals_count_every_request_even_those_without_an_answer(slack: SlackApp) -> None:
    slack.simulator.fault("slack.api", "drop_before")
    with pytest.raises(httpx2.RemoteProtocolError):
        await slack.call("auth.test", None)
    await slack.call("auth.test", None)
    arrivals = slack.simulator.books()["arrivals"]
    assert [(entry["endpoint"], entry["fault"], entry["answered"]) for entry in arrivals] == [
        ("slack.api.auth.test", "drop", False),
        ("slack.api.auth.test", None, True),
    ]


async def test_stopping_lets_go_of_waiting_requests_quietly(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    with caplog.at_level(logging.WARNING):
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            async with running_simulator() as simulator:
                simulator.control("faults", faults=[{"kind": "hang"}, {"kind": "hold"}])
                calls = [
                    asyncio.create_task(http.post(f"{simulator.url}/slack/api/auth.test", data={"n": str(n)}))
                    for n in range(2)
                ]
                await wait_until_held(simulator, "slack")
                began = loop.time()
            assert loop.time() - began < 3
            results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, httpx2.TransportError) for result in results)
    assert caplog.records == []


async def test_a_caller_that_leaves_while_sending_does_no_harm(
    slack: SlackApp, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = slack.simulator.url.removeprefix("http://").split(":")
    with caplog.at_level(logging.WARNING):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /slack/api/auth.test HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await slack.call("auth.test", None))["error"] == "not_authed"
    assert caplog.records == []
