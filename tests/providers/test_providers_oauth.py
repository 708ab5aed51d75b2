"""OAuth with providers: what is sent, what an answer means, and that no token appears where it doesn't belong."""

from __future__ import annotations

import base64
import hashlib
import logging
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio

from providers.definitions.catalog import Provider, ProviderOverrides, load_catalog
from providers.oauth.client import OAuthUpstream
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
from vault.upstream import (
    Account,
    NotSent,
    RefreshOutcome,
    Refusal,
    RevokeOutcome,
    Rotation,
    Silent,
    TokenAnswer,
    UpstreamError,
    UpstreamOAuth,
)

AUTH = "https://www.googleapis.com/auth/"
REFRESH_TOKEN = "refresh-token-canary-0123456789"
GOOGLE_ANSWER = {
    "access_token": "google-access",
    "expires_in": 3599,
    "refresh_token": "google-refresh",
    "scope": f"openid email {AUTH}calendar.events",
    "token_type": "Bearer",
}
SLACK_ANSWER = {
    "ok": True,
    "app_id": "A1",
    "team": {"id": "T1", "name": "Sandbox"},
    "authed_user": {
        "id": "U1",
        "scope": "chat:write,channels:read",
        "access_token": "xoxe.xoxp-1",
        "token_type": "user",
        "refresh_token": "xoxe-1",
        "expires_in": 43200,
    },
}


@dataclass
class Upstreams:
    """Both providers at one scripted server."""

    server: ScriptedServer
    google: UpstreamOAuth
    slack: UpstreamOAuth


def standard(arrival: Arrival) -> Reply:
    match arrival.path:
        case "/userinfo":
            bearer = arrival.headers.get("authorization")
            if bearer == "Bearer google-access":
                return json_reply({"sub": "1017", "email": "alice@example.com"})
            return json_reply({"ok": True, "team": "Sandbox", "user": "alice", "team_id": "T1", "user_id": "U1"})
        case "/token":
            return json_reply(SLACK_ANSWER if "authorization" in arrival.headers else GOOGLE_ANSWER)
        case _:
            return json_reply({"ok": True})


@pytest_asyncio.fixture
async def upstreams() -> AsyncGenerator[Upstreams]:
    async with scripted_server(standard) as server, Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        yield Upstreams(
            server,
            google=OAuthUpstream(provider_at("google", server.url), outbound),
            slack=OAuthUpstream(provider_at("slack", server.url), outbound),
        )


def query_of(url: str) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(urlsplit(url).query, strict_parsing=True).items()}


async def redeem_code(upstream: UpstreamOAuth) -> TokenAnswer:
    return await upstream.redeem(code="the-code", redirect_uri="https://vault.example/cb", code_verifier="v" * 43)


def test_google_is_asked_for_offline_access_with_pkce_and_no_more_scopes() -> None:
    google = OAuthUpstream(provider_at("google", "https://google.example"), Outbound())
    url = google.authorization_url(
        redirect_uri="https://vault.example/connect/callback/google",
        state="the-state",
        scopes=frozenset({f"{AUTH}calendar.events"}),
        code_verifier="v" * 43,
        login_hint="alice@example.com",
    )
    asked = query_of(url)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(b"v" * 43).digest()).rstrip(b"=").decode()
    assert url.startswith("https://google.example/authorize?")
    assert asked == {
        "response_type": "code",
        "client_id": "our-client",
        "redirect_uri": "https://vault.example/connect/callback/google",
        "state": "the-state",
        "scope": f"{AUTH}calendar.events {AUTH}userinfo.email openid",
        "access_type": "offline",
        "prompt": "consent",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "login_hint": "alice@example.com",
    }


def test_slack_is_asked_for_user_scopes_only() -> None:
    slack = OAuthUpstream(provider_at("slack", "https://slack.example"), Outbound())
    url = slack.authorization_url(
        redirect_uri="https://vault.example/cb",
        state="s",
        scopes=frozenset({"chat:write", "channels:read"}),
        code_verifier="v" * 43,
    )
    asked = query_of(url)
    assert asked["user_scope"] == "channels:read,chat:write"
    assert "scope" not in asked
    assert "code_challenge" not in asked


def test_a_provider_without_registration_is_not_configured() -> None:
    assert OAuthUpstream(provider_at("slack", "https://x.example"), Outbound()).is_configured
    assert not OAuthUpstream(provider_at("slack", "https://x.example", secret=None), Outbound()).is_configured


async def test_a_google_code_becomes_tokens_and_an_account(upstreams: Upstreams) -> None:
    answer = await redeem_code(upstreams.google)
    assert answer == TokenAnswer(
        access_token="google-access",
        refresh_token="google-refresh",
        scopes=frozenset({"openid", f"{AUTH}userinfo.email", f"{AUTH}calendar.events"}),
        expires_in=3599,
        account=Account("1017", "alice@example.com"),
    )
    sent = upstreams.server.arrivals[0]
    assert sent.form == {
        "grant_type": "authorization_code",
        "code": "the-code",
        "redirect_uri": "https://vault.example/cb",
        "code_verifier": "v" * 43,
        "client_id": "our-client",
        "client_secret": "client-secret-canary",
    }
    assert "google-access" not in repr(answer) and "google-refresh" not in repr(answer)


async def test_a_slack_code_becomes_the_persons_token(upstreams: Upstreams) -> None:
    answer = await redeem_code(upstreams.slack)
    assert answer == TokenAnswer(
        access_token="xoxe.xoxp-1",
        refresh_token="xoxe-1",
        scopes=frozenset({"chat:write", "channels:read"}),
        expires_in=43200,
        account=Account("T1:U1", "alice (Sandbox)"),
        metadata={"team_id": "T1", "team": "Sandbox"},
    )
    sent = upstreams.server.arrivals[0]
    expected = base64.b64encode(b"our-client:client-secret-canary").decode()
    assert sent.headers["authorization"] == f"Basic {expected}"
    assert "client_secret" not in sent.form and "code_verifier" not in sent.form


async def test_a_bots_token_is_never_taken_for_the_persons(upstreams: Upstreams) -> None:
    bot = {"ok": True, "access_token": "xoxb-bot", "token_type": "bot", "authed_user": {"id": "U1"}}
    upstreams.server.answer = lambda _: json_reply(bot)
    with pytest.raises(UpstreamError):
        await redeem_code(upstreams.slack)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (
            json_reply({"error": "invalid_grant", "error_description": "Bad\u202e code\r\nx"}, status=400),
            "invalid_grant",
        ),
        (json_reply({"error": "<script>x</script>"}, status=400), "scriptxscript"),
        (Reply(500, b"<html>"), "temporarily_unavailable"),
        (Reply(close=True), "temporarily_unavailable"),
        (Reply(200, b"<html>"), "temporarily_unavailable"),
        (Reply(307, headers={"Location": "https://evil.example"}), "temporarily_unavailable"),
        (json_reply({"error": "x", "error_description": "d" * 999}, status=400), "x"),
    ],
)
async def test_a_failed_redemption_raises_a_clean_error(upstreams: Upstreams, reply: Reply, code: str) -> None:
    upstreams.server.answer = lambda _: reply
    with pytest.raises(UpstreamError) as caught:
        await redeem_code(upstreams.google)
    assert caught.value.code == code
    assert len(caught.value.description) <= 250
    assert caught.value.description.isprintable()
    assert upstreams.server.count_arrivals("POST") == 1


@pytest.mark.parametrize(
    "userinfo",
    [
        Reply(500),
        json_reply({"email": "alice@example.com"}),
        json_reply({"sub": "", "email": "x"}),
        json_reply({"sub": "a\nb"}),
        json_reply(["sub"]),
        Reply(302, headers={"Location": "/other"}),
        Reply(close=True),
    ],
)
async def test_tokens_without_a_known_account_are_refused(upstreams: Upstreams, userinfo: Reply) -> None:
    upstreams.server.answer = lambda a: userinfo if a.path == "/userinfo" else standard(a)
    with pytest.raises(UpstreamError):
        await redeem_code(upstreams.google)
    assert not any(a.path == "/other" for a in upstreams.server.arrivals)


async def test_an_account_look_up_survives_one_lost_answer(upstreams: Upstreams) -> None:
    lost = iter([Reply(close=True)])
    upstreams.server.answer = lambda a: next(lost, standard(a)) if a.path == "/userinfo" else standard(a)
    assert (await redeem_code(upstreams.google)).account == Account("1017", "alice@example.com")


async def test_google_keeps_its_refresh_token_and_narrows_on_request(upstreams: Upstreams) -> None:
    narrow = f"{AUTH}calendar.events.readonly"
    upstreams.server.answer = lambda _: json_reply({"access_token": "a", "expires_in": 60, "scope": narrow})
    outcome = await upstreams.google.refresh(REFRESH_TOKEN, frozenset({narrow}))
    assert outcome == Rotation(TokenAnswer("a", None, frozenset({narrow}), 60))
    assert upstreams.server.arrivals[0].form["scope"] == narrow
    outcome = await upstreams.google.refresh(REFRESH_TOKEN)
    assert "scope" not in upstreams.server.arrivals[1].form
    echoing = {"access_token": "a", "refresh_token": REFRESH_TOKEN}
    upstreams.server.answer = lambda _: json_reply(echoing)
    outcome = await upstreams.google.refresh(REFRESH_TOKEN)
    assert isinstance(outcome, Rotation) and outcome.answer.refresh_token is None


@pytest.mark.parametrize("nested", [True, False])
async def test_slack_rotates_whether_the_new_tokens_are_nested_or_not(upstreams: Upstreams, nested: bool) -> None:
    tokens = {
        "access_token": "a2",
        "refresh_token": "r2",
        "expires_in": 43200,
        "scope": "chat:write",
        "token_type": "user",
    }
    content: dict[str, object] = {"ok": True, "authed_user": tokens} if nested else {"ok": True, **tokens}
    upstreams.server.answer = lambda _: json_reply(content)
    outcome = await upstreams.slack.refresh(REFRESH_TOKEN)
    assert outcome == Rotation(TokenAnswer("a2", "r2", frozenset({"chat:write"}), 43200))
    assert upstreams.server.arrivals[0].form == {"grant_type": "refresh_token", "refresh_token": REFRESH_TOKEN}


async def test_a_provider_that_cannot_narrow_is_not_asked_to(upstreams: Upstreams) -> None:
    outcome = await upstreams.slack.refresh(REFRESH_TOKEN, frozenset({"chat:write"}))
    assert isinstance(outcome, Refusal) and not outcome.ends_grant
    assert isinstance(await upstreams.google.narrow("token", frozenset()), Refusal)
    assert upstreams.server.arrivals == []


GOOD = {"access_token": "a", "expires_in": 60}


def error(code: str, *, status: int = 400) -> Reply:
    return json_reply({"error": code}, status=status)


def not_ok(code: str, *, headers: dict[str, str] | None = None) -> Reply:
    return json_reply({"ok": False, "error": code}, headers=headers)


MEANINGS: list[tuple[str, str, Reply, RefreshOutcome | type]] = [
    ("dead grant", "google", error("invalid_grant", status=400), Refusal("invalid_grant", "", True)),
    (
        "wrong client",
        "google",
        error("invalid_client", status=401),
        Refusal("invalid_client", "", False),
    ),
    ("bad request", "google", error("invalid_scope", status=400), Refusal("invalid_scope", "", False)),
    (
        "slack dead",
        "slack",
        not_ok("invalid_refresh_token"),
        Refusal("invalid_refresh_token", "", True),
    ),
    ("slack revoked", "slack", not_ok("token_revoked"), Refusal("token_revoked", "", True)),
    (
        "slack client",
        "slack",
        not_ok("bad_client_secret"),
        Refusal("bad_client_secret", "", False),
    ),
    (
        "slack client id",
        "slack",
        not_ok("invalid_client_id"),
        Refusal("invalid_client_id", "", False),
    ),
    (
        "slack busy",
        "slack",
        not_ok("ratelimited", headers={"Retry-After": "7"}),
        NotSent("", 7, is_limited=True),
    ),
    (
        "busy",
        "google",
        json_reply({"error": "rate"}, status=429, headers={"Retry-After": "30"}),
        NotSent("", 30, is_limited=True),
    ),
    ("busy, no time", "google", Reply(429), NotSent("", 30, is_limited=True)),
    ("maintenance", "google", Reply(503, headers={"Retry-After": "5"}), NotSent("", 5)),
    ("slack fatal", "slack", not_ok("fatal_error"), Silent),
    ("slack not ok", "slack", json_reply({"ok": False}), Silent),
    ("slack odd ok", "slack", json_reply({"ok": "true", **GOOD}), Silent),
    ("503 alone", "google", Reply(503), Silent),
    ("500 with tokens", "google", json_reply(GOOD, status=500), Silent),
    ("500 with error", "google", error("invalid_grant", status=500), Silent),
    ("html", "google", Reply(200, b"<html>error</html>", {"Content-Type": "text/html"}), Silent),
    ("html 400", "google", Reply(400, b"<html>error</html>"), Silent),
    ("empty", "google", Reply(200), Silent),
    ("array", "google", json_reply([GOOD]), Silent),
    ("no token", "google", json_reply({"expires_in": 60}), Silent),
    ("odd token", "google", json_reply({"access_token": {"a": 1}}), Silent),
    ("deep", "google", Reply(200, b"[" * 100_000), Silent),
    ("cut", "google", Reply(200, b'{"access_token": "a"', claimed_length=900), Silent),
    ("huge", "google", Reply(200, b'{"access_token": "a"}', claimed_length=30_000_000), Silent),
    ("reset", "google", Reply(close=True), Silent),
    ("not HTTP", "google", Reply(raw=b"SSH-2.0\r\n\r\n"), Silent),
    ("redirect", "google", Reply(307, b'{"access_token": "a"}', {"Location": "/canary"}), Silent),
    ("redirect 302", "google", Reply(302, headers={"Location": "/canary"}), Silent),
    ("server_error", "google", error("server_error", status=400), Silent),
    ("timeout status", "google", error("x", status=408), Silent),
]


@pytest.mark.requirement("S-148")
@pytest.mark.parametrize(
    ("name", "reply", "meaning"), [case[1:] for case in MEANINGS], ids=[case[0] for case in MEANINGS]
)
async def test_a_refresh_says_whether_the_token_was_spent(
    upstreams: Upstreams, name: str, reply: Reply, meaning: RefreshOutcome | type
) -> None:
    upstreams.server.answer = lambda _: reply
    upstream = upstreams.google if name == "google" else upstreams.slack
    outcome = await upstream.refresh(REFRESH_TOKEN)
    match meaning:
        case NotSent():
            assert isinstance(outcome, NotSent)
            assert (outcome.retry_after, outcome.is_limited) == (meaning.retry_after, meaning.is_limited)
        case Refusal():
            assert outcome == meaning
        case _:
            assert isinstance(outcome, Silent), outcome
    assert len(upstreams.server.arrivals) == 1  # sent once, and no redirect followed
    upstreams.server.answer = lambda _: json_reply({"ok": True, **GOOD})  # the twin
    assert isinstance(await upstream.refresh(REFRESH_TOKEN), Rotation)


@pytest.mark.parametrize(
    ("reply", "is_over"),
    [
        (Reply(500), True),
        (Reply(503), True),
        (Reply(200, b"<html>"), True),
        (error("server_error", status=400), True),
        (Reply(502), False),
        (Reply(504), False),
        (Reply(524), False),
        (Reply(close=True), False),
    ],
    ids=["500", "503", "html", "server_error", "502", "504", "524", "reset"],
)
async def test_only_an_answer_of_the_provider_itself_says_that_it_is_done_with_the_request(
    upstreams: Upstreams, reply: Reply, *, is_over: bool
) -> None:
    """A gateway that gave up on the provider doesn't know what the provider still does."""
    upstreams.server.answer = lambda _: reply
    outcome = await upstreams.google.refresh(REFRESH_TOKEN)
    assert isinstance(outcome, Silent), outcome
    assert outcome.is_over is is_over


async def test_a_503_with_a_time_says_nothing_about_a_token_that_rotates(upstreams: Upstreams) -> None:
    """A gateway sends one, too, after the provider got the request (RFC 9110 §15.6.4)."""
    upstreams.server.answer = lambda _: Reply(503, headers={"Retry-After": "5"})
    assert await upstreams.slack.refresh(REFRESH_TOKEN) == Silent("status 503", is_over=False, retry_after=5)
    assert await upstreams.google.refresh(REFRESH_TOKEN) == NotSent("the provider is unavailable", retry_after=5)
    upstreams.server.answer = lambda _: Reply(429, headers={"Retry-After": "5"})
    assert isinstance(await upstreams.slack.refresh(REFRESH_TOKEN), NotSent)


async def test_a_provider_that_cannot_be_reached_was_not_sent_anything() -> None:
    unused = socket.create_server(("127.0.0.1", 0))
    port = unused.getsockname()[1]
    unused.close()
    async with Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        upstream = OAuthUpstream(provider_at("google", f"http://127.0.0.1:{port}"), outbound)
        assert isinstance(await upstream.refresh(REFRESH_TOKEN), NotSent)
        assert isinstance(await upstream.revoke(refresh_token="r", access_token=None), Silent)
        with pytest.raises(UpstreamError, match="temporarily_unavailable"):
            await redeem_code(upstream)


async def test_loopback_providers_need_the_sandbox_switch(upstreams: Upstreams) -> None:
    async with Outbound() as strict:
        upstream = OAuthUpstream(provider_at("google", upstreams.server.url), strict)
        assert isinstance(await upstream.refresh(REFRESH_TOKEN), NotSent)
    assert upstreams.server.connections == 0
    assert isinstance(await upstreams.google.refresh(REFRESH_TOKEN), Rotation)


@pytest.mark.parametrize("echoed", [REFRESH_TOKEN, REFRESH_TOKEN[:20], "client-secret-canary"])
async def test_a_provider_that_repeats_a_secret_in_its_error_does_not_spread_it(
    upstreams: Upstreams, echoed: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    error = {"error": "invalid_grant", "error_description": f"token {echoed} is unknown"}
    upstreams.server.answer = lambda _: json_reply(error, status=400)
    outcome = await upstreams.google.refresh(REFRESH_TOKEN)
    assert outcome == Refusal("invalid_grant", "", ends_grant=True)
    upstreams.server.answer = lambda _: json_reply({"error": echoed}, status=400)
    assert await upstreams.google.refresh(REFRESH_TOKEN) == Refusal("error", "", ends_grant=False)
    assert echoed not in caplog.text


async def test_no_token_is_logged_or_shown(upstreams: Upstreams, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen = repr(await redeem_code(upstreams.slack)) + repr(await upstreams.slack.refresh(REFRESH_TOKEN))
    await upstreams.slack.revoke(refresh_token=REFRESH_TOKEN, access_token="access-canary-1")
    everything = caplog.text + seen + repr(upstreams.slack)
    for secret in (REFRESH_TOKEN, "access-canary-1", "xoxe.xoxp-1", "xoxe-1", "client-secret-canary", "the-code"):
        assert secret not in everything


async def test_a_lifetime_that_makes_no_sense_is_as_good_as_none(upstreams: Upstreams) -> None:
    for given, expected in (
        (3600, 3600),
        ("3600", 3600),
        (3600.0, 3600),
        (0, None),
        (-5, None),
        ("soon", None),
        (True, None),
    ):
        upstreams.server.answer = lambda _, given=given: json_reply({"access_token": "a", "expires_in": given})
        outcome = await upstreams.google.refresh(REFRESH_TOKEN)
        assert isinstance(outcome, Rotation) and outcome.answer.expires_in == expected


async def test_google_is_revoked_by_the_refresh_token(upstreams: Upstreams) -> None:
    upstreams.server.answer = lambda _: Reply(200)
    assert await upstreams.google.revoke(refresh_token="r-1", access_token="a-1") is RevokeOutcome.REVOKED
    assert [a.form for a in upstreams.server.arrivals] == [{"token": "r-1"}]
    assert await upstreams.google.revoke(refresh_token=None, access_token="a+/=1") is RevokeOutcome.REVOKED
    assert upstreams.server.arrivals[1].form == {"token": "a+/=1"}


async def test_slack_is_revoked_token_by_token(upstreams: Upstreams) -> None:
    upstreams.server.answer = lambda _: json_reply({"ok": True, "revoked": True})
    assert await upstreams.slack.revoke(refresh_token="r-1", access_token="a-1") is RevokeOutcome.REVOKED
    assert [a.headers["authorization"] for a in upstreams.server.arrivals] == ["Bearer a-1", "Bearer r-1"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (error("invalid_token", status=400), RevokeOutcome.REVOKED),
        (error("invalid_request", status=400), RevokeOutcome.FAILED),
        (error("invalid_token", status=500), RevokeOutcome.FAILED),
        (Reply(429), NotSent("the provider is rate limiting", retry_after=30, is_limited=True)),
        (Reply(503, headers={"Retry-After": "5"}), NotSent("the provider is unavailable", retry_after=5)),
        (Reply(307, headers={"Location": "/canary"}), RevokeOutcome.FAILED),
        (Reply(close=True), Silent),
    ],
)
async def test_a_revocation_succeeded_when_the_token_is_dead(
    upstreams: Upstreams, reply: Reply, expected: RevokeOutcome | NotSent | type[Silent]
) -> None:
    upstreams.server.answer = lambda _: reply
    found = await upstreams.google.revoke(refresh_token="r", access_token=None)
    assert isinstance(found, Silent) if expected is Silent else found == expected
    assert len(upstreams.server.arrivals) == 1


async def test_slack_says_no_to_a_revocation_with_status_200(upstreams: Upstreams) -> None:
    upstreams.server.answer = lambda _: not_ok("internal_error")
    assert await upstreams.slack.revoke(refresh_token=None, access_token="a") is RevokeOutcome.FAILED
    upstreams.server.answer = lambda _: not_ok("token_revoked")
    assert await upstreams.slack.revoke(refresh_token=None, access_token="a") is RevokeOutcome.REVOKED
    assert await upstreams.slack.revoke(refresh_token=None, access_token=None) is RevokeOutcome.UNSUPPORTED


OTHER = """
name = "other"
title = "Other"
client_auth = "{auth}"

[hosts]
authorize_url = "{url}/authorize"
token_url = "{url}/token"
refresh_url = "{url}/refresh"
{revoke}

[scope]
offline = ["offline_access"]

[params]
token = {{ audience = "x" }}
refresh = {{ audience = "y" }}

[identity]
url = "{url}/userinfo"
id = "{{sub}}"
label = "{{email}}"

[scopes]
read = {{ title = "Read" }}
offline_access = {{ title = "Stay connected" }}
"""


def other(folder: Path, url: str, *, auth: str, revokes: bool) -> Provider:
    """A provider of the operator's own, with options that no built-in provider has."""
    revoke = f'revoke_url = "{url}/revoke"' if revokes else ""
    (folder / "other.toml").write_text(OTHER.format(url=url, auth=auth, revoke=revoke), encoding="utf-8")
    registered = ProviderOverrides(client_id="our-client", client_secret=None if auth == "none" else "the-secret")
    return load_catalog([folder], {"other": registered}).provider("other")


@pytest.mark.parametrize("auth", ["client_secret_basic", "client_secret_post", "none"])
async def test_a_provider_of_the_operators_own_is_spoken_to_as_its_file_says(tmp_path: Path, auth: str) -> None:
    async with scripted_server(standard) as server, Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        server.answer = lambda _: json_reply(GOOD)
        upstream = OAuthUpstream(other(tmp_path, server.url, auth=auth, revokes=True), outbound)
        assert upstream.is_configured
        url = upstream.authorization_url(redirect_uri="x", state="s", scopes=frozenset({"read"}), code_verifier="v")
        assert query_of(url)["scope"] == "offline_access read"
        assert isinstance(await upstream.refresh("r"), Rotation)
        server.answer = lambda _: Reply(200)
        assert await upstream.revoke(refresh_token="r", access_token="a") is RevokeOutcome.REVOKED
        server.answer = lambda _: Reply(close=True)
        assert isinstance(await upstream.revoke(refresh_token="r", access_token="a"), Silent)
        refresh, revoke, _ = server.arrivals
        assert (refresh.path, refresh.form["audience"]) == ("/refresh", "y")
        assert (revoke.path, revoke.form["token"], revoke.form["token_type_hint"]) == ("/revoke", "r", "refresh_token")
        for sent in (refresh, revoke):
            assert sent.headers.get("authorization", "").startswith("Basic ") is (auth == "client_secret_basic")
            assert sent.form.get("client_secret") == ("the-secret" if auth == "client_secret_post" else None)
            assert sent.form.get("client_id") == (None if auth == "client_secret_basic" else "our-client")


async def test_an_account_is_ended_by_its_id_where_the_provider_wants_no_token(upstreams: Upstreams) -> None:
    stripe = provider_at("stripe-connect", upstreams.server.url, secret="sk_1")
    upstreams.server.answer = lambda _: json_reply({"stripe_user_id": "acct_1"})
    async with Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        upstream = OAuthUpstream(stripe, outbound)
        unnamed = await upstream.revoke(refresh_token=None, access_token="a")
        assert (unnamed, upstreams.server.arrivals) == (RevokeOutcome.UNSUPPORTED, [])
        ended = await upstream.revoke(refresh_token=None, access_token="a", account="acct_1")
    assert ended is RevokeOutcome.REVOKED
    (sent,) = upstreams.server.arrivals
    assert sent.form == {"client_id": "our-client", "stripe_user_id": "acct_1"}
    assert sent.headers["authorization"] == f"Basic {base64.b64encode(b'sk_1:').decode()}"


async def test_a_provider_that_cannot_revoke_says_so(tmp_path: Path) -> None:
    async with Outbound() as outbound:
        upstream = OAuthUpstream(other(tmp_path, "https://x.example", auth="none", revokes=False), outbound)
        assert await upstream.revoke(refresh_token="r", access_token="a") is RevokeOutcome.UNSUPPORTED


def test_nobody_is_sent_to_a_provider_without_registration() -> None:
    upstream = OAuthUpstream(load_catalog().provider("google"), Outbound())
    with pytest.raises(UpstreamError, match="not_configured"):
        upstream.authorization_url(redirect_uri="x", state="s", scopes=frozenset(), code_verifier="v")
