"""UpstreamAPI: credential bound to its hosts, rules before sending, what failures mean, nothing repeated blindly."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

import pytest
import pytest_asyncio

from providers.api import api as api_module
from providers.api import retries
from providers.api.api import (
    Authority,
    RateLimited,
    RuleRefused,
    TokenRejected,
    ToolRefused,
    UpstreamAPI,
    UpstreamRefused,
    UpstreamUnavailable,
    path_of,
)
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from tests.support.doubles.scripted_server import (
    Arrival,
    Reply,
    ScriptedServer,
    json_reply,
    provider_at,
    scripted_server,
)

AUTH = "https://www.googleapis.com/auth/"
TOKEN = "upstream-token-canary-0123456789"
EVENTS = "/calendars/{}/events"


@dataclass
class Bench:
    """A scripted provider, with a Google API and a Slack API for it."""

    server: ScriptedServer
    outbound: Outbound

    def slack(self, *scopes: str) -> UpstreamAPI:
        found = frozenset(scopes or ("chat:write", "channels:read", "channels:history"))
        return UpstreamAPI(provider_at("slack", self.server.url), self.outbound, token=TOKEN, scopes=found, now=0)

    def google(self, *scopes: str) -> UpstreamAPI:
        found = frozenset(AUTH + scope for scope in scopes or ("calendar.events",))
        return UpstreamAPI(provider_at("google", self.server.url), self.outbound, token=TOKEN, scopes=found, now=0)


@pytest.fixture(autouse=True)
def briskly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits between attempts that we choose ourselves, not those that the provider asks for."""
    monkeypatch.setattr(retries, "BACKOFF", 0.01)


@pytest_asyncio.fixture
async def bench() -> AsyncGenerator[Bench]:
    async with (
        scripted_server(lambda _: json_reply({"ok": True})) as server,
        Outbound(AddressPolicy(allow_loopback=True)) as outbound,
    ):
        yield Bench(server, outbound)


async def post(api: UpstreamAPI) -> object:
    return await api.post("web", "/chat.postMessage", body={"channel": "C1", "text": "hello"})


async def list_calendar_events(api: UpstreamAPI) -> object:
    return await api.get("calendar", EVENTS, segments=["primary"])


@pytest.mark.requirement("S-101")
async def test_only_the_upstream_token_goes_and_only_to_the_api(bench: Bench) -> None:
    await post(bench.slack())
    (sent,) = bench.server.arrivals
    assert sent.headers["authorization"] == f"Bearer {TOKEN}"
    assert sent.path == "/web/chat.postMessage"
    assert sent.json == {"channel": "C1", "text": "hello"}
    assert bench.server.log.count(TOKEN) == 1


async def test_an_uncovered_call_is_refused_before_anything_is_sent(bench: Bench) -> None:
    with pytest.raises(RuleRefused) as caught:
        await post(bench.slack("channels:read"))
    assert "chat.postMessage" in caught.value.description
    with pytest.raises(RuleRefused):
        await bench.slack().post("web", "/admin.users.remove", body={})
    with pytest.raises(RuleRefused):
        await bench.google("calendar.events.readonly").post("calendar", EVENTS, segments=["primary"], body={})
    assert bench.server.connections == 0
    await post(bench.slack("chat:write"))
    assert bench.server.connections == 1


async def test_a_token_with_more_reach_than_its_caller_is_not_lent_where_the_request_cannot_show_it(
    bench: Bench,
) -> None:
    def api(granted: frozenset[str]) -> UpstreamAPI:
        provider = provider_at("slack", bench.server.url)
        scopes = frozenset({"channels:history"})
        return UpstreamAPI(provider, bench.outbound, token=TOKEN, scopes=scopes, granted=granted, now=0)

    params = {"channel": "C123"}
    with pytest.raises(RuleRefused):
        await api(frozenset({"channels:history", "groups:history"})).get("web", "/conversations.history", params=params)
    assert bench.server.connections == 0
    await api(frozenset({"channels:history", "chat:write"})).get("web", "/conversations.history", params=params)


SLACK_NO: list[tuple[str, type[ToolRefused], str]] = [
    ("token_expired", TokenRejected, "upstream_unauthorized"),
    ("token_revoked", TokenRejected, "upstream_unauthorized"),
    ("invalid_auth", TokenRejected, "upstream_unauthorized"),
    ("ratelimited", RateLimited, "rate_limited"),
    ("fatal_error", UpstreamUnavailable, "upstream_unavailable"),
    ("missing_scope", UpstreamRefused, "missing_scope"),
    ("channel_not_found", UpstreamRefused, "channel_not_found"),
    ("never_heard_of", UpstreamRefused, "never_heard_of"),
    ("never#missing_scope", UpstreamRefused, "nevermissing_scope"),
]


@pytest.mark.parametrize(("code", "kind", "expected"), SLACK_NO)
async def test_slack_says_no_with_status_200(bench: Bench, code: str, kind: type[ToolRefused], expected: str) -> None:
    bench.server.answer = lambda _: json_reply({"ok": False, "error": code})
    with pytest.raises(kind) as caught:
        await post(bench.slack())
    assert type(caught.value) is kind
    assert caught.value.code == expected
    assert bench.server.count_arrivals("POST") == 1
    bench.server.answer = lambda _: json_reply({"ok": True})
    await post(bench.slack())


def google_error(status: int, reason: str, message: str = "no") -> Reply:
    error = {"code": status, "message": message, "errors": [{"domain": "global", "reason": reason, "message": message}]}
    return json_reply({"error": error}, status=status)


# a reply, what it means, and how often a read is sent that gets only this reply
GOOGLE_NO: list[tuple[Reply, type[ToolRefused], str, int]] = [
    (google_error(401, "authError"), TokenRejected, "upstream_unauthorized", 1),
    (Reply(401, b"<html>"), TokenRejected, "upstream_unauthorized", 1),
    (google_error(403, "insufficientPermissions"), UpstreamRefused, "insufficientPermissions", 1),
    (google_error(403, "rateLimitExceeded"), RateLimited, "rate_limited", 3),
    (google_error(403, "userRateLimitExceeded"), RateLimited, "rate_limited", 3),
    (google_error(404, "notFound"), UpstreamRefused, "notFound", 1),
    (google_error(400, "timeRangeEmpty"), UpstreamRefused, "timeRangeEmpty", 1),
    (google_error(410, "fullSyncRequired"), UpstreamRefused, "fullSyncRequired", 1),
    (Reply(403, b"<html>blocked</html>"), UpstreamRefused, "http_403", 1),
    (Reply(429, headers={"Retry-After": "11"}), RateLimited, "rate_limited", 1),
    (Reply(503, headers={"Retry-After": "11"}), UpstreamUnavailable, "upstream_unavailable", 1),
    (Reply(503), UpstreamUnavailable, "upstream_unavailable", 2),
    (google_error(500, "backendError"), UpstreamUnavailable, "upstream_unavailable", 2),
    (Reply(200, b"<html>sign in</html>"), UpstreamUnavailable, "upstream_unavailable", 1),
    (Reply(200, b"[1]"), UpstreamUnavailable, "upstream_unavailable", 1),
    (Reply(307, headers={"Location": "/elsewhere"}), UpstreamUnavailable, "upstream_unavailable", 1),
    (Reply(200, b"{}", claimed_length=30_000_000), UpstreamRefused, "too_large", 1),
]


@pytest.mark.parametrize(("reply", "kind", "code", "sent"), GOOGLE_NO)
async def test_google_says_no(bench: Bench, reply: Reply, kind: type[ToolRefused], code: str, sent: int) -> None:
    bench.server.answer = lambda _: reply
    with pytest.raises(kind) as caught:
        await list_calendar_events(bench.google())
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert len(bench.server.arrivals) == sent
    if isinstance(caught.value, UpstreamUnavailable):
        assert not caught.value.unknown_outcome
    assert ("try again in 11 s" in caught.value.description) is ("Retry-After" in reply.headers)


# as each service's own reference documents an error
DOCUMENTED: list[tuple[str, str, dict[str, object], str]] = [
    (
        "notion",
        "/pages/{}",
        {"object": "error", "status": 404, "code": "object_not_found", "message": "no"},
        "object_not_found",
    ),
    ("digitalocean", "/droplets/{}", {"id": "not_found", "message": "no", "request_id": "4d"}, "not_found"),
    ("asana", "/tasks/{}", {"errors": [{"message": "no", "help": "see"}]}, "http_404"),
    (
        "atlassian",
        "/ex/jira/{}/rest/api/2/issue/{}",
        {"errorMessages": ["no"], "errors": {}},
        "http_404",
    ),
    ("figma", "/v1/files/{}", {"status": 404, "err": "no"}, "http_404"),
    ("figma", "/v1/files/{}", {"error": True, "status": 404, "message": "no"}, "http_404"),
    ("hubspot", "/crm/v3/objects/contacts/{}", {"status": "error", "message": "no", "category": "GONE"}, "GONE"),
    ("pagerduty", "/incidents/{}", {"error": {"message": "no", "code": 2100, "errors": ["x"]}}, "2100"),
]


@pytest.mark.parametrize(("name", "path", "content", "code"), DOCUMENTED)
async def test_what_a_service_says_of_an_error_is_told(
    bench: Bench, name: str, path: str, content: dict[str, object], code: str
) -> None:
    provider = provider_at(name, bench.server.url)
    api = UpstreamAPI(provider, bench.outbound, token=TOKEN, scopes=frozenset(provider.scopes), now=0)
    bench.server.answer = lambda _: json_reply(content, status=404)
    with pytest.raises(UpstreamRefused) as caught:
        await api.get("main", path, segments=["1"] * path.count("{}"))
    assert (caught.value.code, str(caught.value).endswith("(no)")) == (code, True)


async def test_a_read_whose_answer_is_lost_is_repeated_once(bench: Bench) -> None:
    replies = iter([Reply(close=True), json_reply({"items": []})])
    bench.server.answer = lambda _: next(replies)
    assert await list_calendar_events(bench.google()) == {"items": []}
    bench.server.answer = lambda _: Reply(close=True)
    with pytest.raises(UpstreamUnavailable) as caught:
        await list_calendar_events(bench.google())
    assert not caught.value.unknown_outcome
    assert len(bench.server.arrivals) == 4


# Waiting


async def listed_after(bench: Bench, *replies: Reply) -> tuple[object, float]:
    """A read that gets these answers and then the expected one; returns what it found, and how many seconds it took."""
    waiting = iter(replies)
    bench.server.answer = lambda _: next(waiting, json_reply({"items": []}))
    started = asyncio.get_running_loop().time()
    found = await list_calendar_events(bench.google())
    return found, asyncio.get_running_loop().time() - started


async def test_a_read_waits_as_long_as_the_provider_asks_where_that_fits(bench: Bench) -> None:
    for status in (429, 503):
        found, took = await listed_after(bench, Reply(status, headers={"Retry-After": "1"}))
        assert found == {"items": []}
        assert 1.0 <= took < 20.0
    assert len(bench.server.arrivals) == 4


async def test_a_read_that_is_slowed_down_without_a_time_backs_off_and_spreads(bench: Bench) -> None:
    found, _ = await listed_after(
        bench, google_error(403, "userRateLimitExceeded"), google_error(403, "rateLimitExceeded")
    )
    assert found == {"items": []}
    assert len(bench.server.arrivals) == 3
    pauses = [retries.Repeat(tries=3).pause(attempt=1, spread=spread) for spread in (0.5, 1.5)]
    assert pauses == [0.005, 0.015]
    assert retries.Repeat(tries=3).pause(attempt=3, spread=1.0) is None
    assert retries.Repeat(tries=3, after=2).pause(attempt=2, spread=1.0) == 2.02  # never earlier than it was told


async def test_a_read_is_repeated_once_where_the_provider_failed(bench: Bench) -> None:
    found, _ = await listed_after(bench, Reply(502))
    assert found == {"items": []}
    assert len(bench.server.arrivals) == 2


async def test_no_wait_goes_beyond_the_deadline(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "BUDGET", 3.5)
    with pytest.raises(RateLimited) as caught:
        await listed_after(bench, Reply(429, headers={"Retry-After": "1"}))
    assert caught.value.retry_after == 1
    assert len(bench.server.arrivals) == 1
    monkeypatch.setattr(api_module, "BUDGET", 13.0)
    found, _ = await listed_after(bench, Reply(429, headers={"Retry-After": "1"}))  # the twin: there is enough time
    assert found == {"items": []}


async def test_a_write_is_repeated_only_when_it_was_not_looked_at_and_a_time_is_named(bench: Bench) -> None:
    replies = iter([Reply(429, headers={"Retry-After": "1"}), json_reply({"ok": True})])
    bench.server.answer = lambda _: next(replies)
    assert await post(bench.slack()) == {"ok": True}
    assert bench.server.count_arrivals("POST") == 2
    for reply in (Reply(429), Reply(503, headers={"Retry-After": "1"}), Reply(502)):
        before = bench.server.count_arrivals("POST")
        bench.server.answer = lambda _, reply=reply: reply
        with pytest.raises(ToolRefused) as caught:
            await post(bench.slack())
        assert bench.server.count_arrivals("POST") == before + 1
        is_unknown = isinstance(caught.value, UpstreamUnavailable) and caught.value.unknown_outcome
        assert is_unknown is (reply.status != 429)


def github_error(message: str, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return replace(json_reply({"message": message}, status=403), headers=named)


GITHUB_NO: list[tuple[Reply, type[ToolRefused], int]] = [
    (github_error("API rate limit exceeded", x_ratelimit_remaining="0", x_ratelimit_reset="1090"), RateLimited, 90),
    (github_error("API rate limit exceeded", x_ratelimit_remaining="0", x_ratelimit_reset="900"), RateLimited, 1),
    (github_error("You have exceeded a secondary rate limit.", retry_after="45"), RateLimited, 45),
    (github_error("You have exceeded a secondary rate limit.", x_ratelimit_remaining="12"), RateLimited, 60),
    (github_error("Must have admin rights to Repository.", x_ratelimit_remaining="12"), UpstreamRefused, 0),
]


@pytest.mark.parametrize(("reply", "kind", "wait"), GITHUB_NO)
async def test_github_slows_down_with_403(bench: Bench, reply: Reply, kind: type[ToolRefused], wait: int) -> None:
    bench.server.answer = lambda _: reply
    provider = provider_at("github", bench.server.url)
    scopes = frozenset({"issues:write"})
    api = UpstreamAPI(provider, bench.outbound, token=TOKEN, scopes=scopes, now=1000)
    with pytest.raises(kind) as caught:  # a write; tests above show what a read does then
        await api.post("rest", "/repos/{}/{}/issues", segments=["alice", "garden"], body={"title": "x"})
    if isinstance(caught.value, RateLimited):
        assert (caught.value.retry_after, f"try again in {wait} s" in caught.value.description) == (wait, True)
    else:
        assert "admin rights" in caught.value.description


async def test_a_code_with_spaces_is_known_as_its_file_writes_it(bench: Bench) -> None:
    provider = provider_at("github", bench.server.url)
    api = UpstreamAPI(provider, bench.outbound, token=TOKEN, scopes=frozenset({"issues:write"}), now=1000)
    bench.server.answer = lambda _: github_error("Resource not accessible by integration")
    with pytest.raises(UpstreamRefused) as caught:
        await api.post("rest", "/repos/{}/{}/issues", segments=["alice", "garden"], body={"title": "x"})
    assert "reconnect it with more" in caught.value.description


@pytest.mark.parametrize(
    "reply", [Reply(close=True), Reply(500), Reply(200, b"{", claimed_length=50), Reply(200, b"x"), Reply(302)]
)
async def test_a_write_whose_outcome_is_unknown_is_never_repeated(bench: Bench, reply: Reply) -> None:
    bench.server.answer = lambda _: reply
    with pytest.raises(UpstreamUnavailable) as caught:
        await post(bench.slack())
    assert caught.value.unknown_outcome
    assert "may have been carried out" in caught.value.description
    assert bench.server.count_arrivals("POST") == 1


async def test_a_write_that_was_not_sent_is_tried_once_more() -> None:
    asked: list[str] = []

    async def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        raise OSError("no such name")

    async with Outbound(lookup=lookup) as outbound:
        provider = provider_at("slack", "https://slack.example")
        api = UpstreamAPI(provider, outbound, token=TOKEN, scopes=frozenset({"chat:write"}), now=0)
        with pytest.raises(UpstreamUnavailable) as caught:
            await post(api)
    assert not caught.value.unknown_outcome
    assert asked == ["slack.example"] * 2


async def test_a_hanging_provider_costs_the_budget_and_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "CALL_TIMEOUT", 1.0)  # long enough for the request to leave
    bench.server.answer = lambda _: Reply(hang=True)
    with pytest.raises(UpstreamUnavailable) as caught:
        await post(bench.slack())
    assert caught.value.unknown_outcome
    assert bench.server.count_arrivals("POST") == 1


async def test_all_calls_of_one_tool_share_one_budget(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "BUDGET", 2.0)  # long enough for the first call
    api = bench.slack()
    await post(api)
    bench.server.answer = lambda _: Reply(hang=True)
    with pytest.raises(UpstreamUnavailable):
        await api.get("web", "/conversations.list")
    with pytest.raises(UpstreamUnavailable):
        await api.get("web", "/conversations.list")
    assert bench.server.count_arrivals("GET") <= 2


async def test_errors_show_neither_token_nor_what_is_not_text(bench: Bench) -> None:
    bench.server.answer = lambda _: google_error(400, "bad\x00" + TOKEN, f"your token {TOKEN}\u202e is\r\nbad")
    with pytest.raises(UpstreamRefused) as caught:
        await list_calendar_events(bench.google())
    assert TOKEN not in str(caught.value) + caught.value.code + repr(caught.value)
    bench.server.answer = lambda _: google_error(400, "bad", "x\u202ey\r\nz" * 200)
    with pytest.raises(UpstreamRefused) as caught:
        await list_calendar_events(bench.google())
    assert str(caught.value).isprintable() or "…" in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 320
    assert TOKEN not in repr(bench.google())


@pytest.mark.parametrize(
    "spelled",
    [
        TOKEN,
        TOKEN.replace("c", "\\u0063"),
        TOKEN.replace("-", "%2d"),
        b64encode(f"user:{TOKEN}".encode()).decode(),
    ],
)
async def test_a_token_that_a_good_answer_repeats_is_masked(bench: Bench, spelled: str) -> None:
    body = f'{{"ok": true, "seen": "{spelled}", "other": "kept-0123456789"}}'.encode()
    bench.server.answer = lambda _: Reply(body=body, headers={"content-type": "application/json"})
    answer = await bench.slack().get("web", "/conversations.list")
    seen = str(answer["seen"])
    assert "*" * 20 in seen and spelled not in seen and TOKEN not in seen
    assert answer["other"] == "kept-0123456789"  # the twin: other values stay
    bench.server.answer = lambda _: Reply(body=f"x {spelled} y".encode(), headers={"content-type": "text/plain"})
    assert spelled not in await bench.slack().get_text("web", "/conversations.list")


async def test_a_token_in_another_charset_is_masked_too(bench: Bench) -> None:
    text = f"x {TOKEN} y".encode("cp037")
    bench.server.answer = lambda _: Reply(body=text, headers={"content-type": "text/plain; charset=cp037"})
    assert await bench.slack().get_text("web", "/conversations.list") == f"x {'*' * len(TOKEN)} y"


async def test_the_token_of_a_part_of_the_account_and_the_accounts_own_are_both_masked(bench: Bench) -> None:
    bench.server.answer = lambda _: json_reply({"ok": True, "a": TOKEN, "b": "page-token-canary-9876"})
    answer = await bench.slack().acting_with("page-token-canary-9876").get("web", "/conversations.list")
    assert answer == {"ok": True, "a": "*" * len(TOKEN), "b": "*" * 22}


def test_paths_are_made_of_whole_segments() -> None:
    assert path_of("/calendars/{}/events", ["a b/c?d#e@f"]) == "/calendars/a%20b%2Fc%3Fd%23e%40f/events"
    for segment in ("", ".", "..", "...", "a\r\nb", "\x00"):
        with pytest.raises(RuleRefused):
            path_of("/calendars/{}/events", [segment])
    with pytest.raises(ValueError, match="segments"):
        path_of("/calendars/{}/events", [])


async def test_parameters_stay_parameters(bench: Bench) -> None:
    params = {"q": "a&timeMin=1#x", "limit": 5, "all": True}
    await bench.google().get("calendar", EVENTS, segments=["x@y"], params=params)
    (sent,) = bench.server.arrivals
    assert sent.path == "/calendar/calendars/x%40y/events"
    assert sent.query == {"q": "a&timeMin=1#x", "limit": "5", "all": "true"}


async def test_a_list_of_values_does_not_pass_for_one_that_a_rule_allows(bench: Bench) -> None:
    api = bench.slack("channels:read")
    for values in (["public_channel", "im"], ["public_channel"]):
        with pytest.raises(RuleRefused):
            await api.get("web", "/conversations.list", params={"types": values})
    assert bench.server.arrivals == []
    await api.get("web", "/conversations.list", params={"types": "public_channel", "team_id": ["T1", "T2"]})
    assert len(bench.server.arrivals) == 1


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded;charset=utf-8",
        "Application/X-WWW-Form-URLEncoded",
    ],
)
async def test_a_form_is_sent_whole_or_not_at_all(bench: Bench, kind: str) -> None:
    provider = provider_at("stripe-connect", bench.server.url)
    api = UpstreamAPI(provider, bench.outbound, token=TOKEN, scopes=frozenset({"read_write"}), now=0)

    async def refund(**more: object) -> object:
        body: dict[str, object] = {"charge": "ch_1", **more}
        return await api.send("POST", "main", "/refunds", body=body, headers={"content-type": kind}, is_write=True)

    lost: tuple[object, ...] = (10.5, {"value": 5}, ["5"], None)
    for value in lost:
        with pytest.raises(RuleRefused, match="can't hold the value of amount") as caught:
            await refund(amount=value)
        assert "Nothing was sent." in caught.value.description
    assert bench.server.arrivals == []
    await refund(amount=5)
    (sent,) = bench.server.arrivals
    assert (sent.form, sent.headers["content-type"]) == ({"charge": "ch_1", "amount": "5"}, kind)


async def test_a_token_that_dies_between_two_writes_is_renewed_for_the_second_alone(bench: Bench) -> None:
    """A provider that kills the old token on refresh does so while a tool works; finished work isn't repeated."""
    renewals = 0

    async def renew() -> Authority:
        nonlocal renewals
        renewals += 1
        return Authority("fresh", scopes=frozenset({"chat:write"}))

    dead = {"ok": False, "error": "token_revoked"}

    def answer(arrived: Arrival) -> Reply:
        is_old = arrived.headers["authorization"] == f"Bearer {TOKEN}"
        return json_reply(dead if is_old and len(bench.server.arrivals) > 1 else {"ok": True})

    bench.server.answer = answer
    scopes = frozenset({"chat:write"})
    provider = provider_at("slack", bench.server.url)
    api = UpstreamAPI(provider, bench.outbound, token=TOKEN, scopes=scopes, renew=renew, now=0)
    for text in ("first", "second", "third"):
        await api.post("web", "/chat.postMessage", body={"channel": "C1", "text": text})
    sent = [(one.json["text"], one.headers["authorization"]) for one in bench.server.arrivals]
    old, new = f"Bearer {TOKEN}", "Bearer fresh"
    assert sent == [("first", old), ("second", old), ("second", new), ("third", new)]
    assert renewals == 1


async def test_a_token_that_was_renewed_during_a_call_is_masked_as_the_one_before(bench: Bench) -> None:
    fresh = "xoxp-fresh-token-canary-5544"

    async def renew() -> Authority:
        return Authority(fresh, scopes=frozenset({"chat:write"}))

    def answer(arrived: Arrival) -> Reply:
        is_new = arrived.headers["authorization"] == f"Bearer {fresh}"
        return json_reply({"ok": is_new, "error": "token_revoked", "old": TOKEN, "new": fresh})

    bench.server.answer = answer
    scopes, provider = frozenset({"chat:write"}), provider_at("slack", bench.server.url)
    api = UpstreamAPI(provider, bench.outbound, token=TOKEN, scopes=scopes, renew=renew, now=0)
    said = await api.post("web", "/chat.postMessage", body={"channel": "C1", "text": "x"})
    assert (said["old"], said["new"]) == ("*" * len(TOKEN), "*" * len(fresh))


async def test_a_renewed_token_that_is_refused_too_ends_the_call(bench: Bench) -> None:
    async def renew() -> Authority:
        return Authority("fresh", scopes=frozenset({"chat:write"}))

    bench.server.answer = lambda _: json_reply({"ok": False, "error": "token_revoked"})
    scopes = frozenset({"chat:write"})
    provider = provider_at("slack", bench.server.url)
    api = UpstreamAPI(provider, bench.outbound, token=TOKEN, scopes=scopes, renew=renew, now=0)
    for _ in range(2):
        with pytest.raises(TokenRejected):
            await post(api)
    assert len(bench.server.arrivals) == 3
