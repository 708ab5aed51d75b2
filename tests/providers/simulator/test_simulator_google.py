"""The simulator's Google face: consent, refresh tokens, real narrowing, revocation, identity, and the Calendar API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import urljoin, urlsplit

import httpx2
import pytest
from joserfc import jwt
from joserfc.errors import BadSignatureError
from joserfc.jwk import KeySet

from providers.simulator import Simulator, consent
from providers.simulator.person import ConsentRefused
from tests.support.simulator_apps import (
    API,
    CHALLENGE,
    CLIENT,
    EVENTS,
    READONLY,
    REDIRECT,
    SECOND_CLIENT,
    VERIFIER,
    GoogleApp,
    parameters,
)

EMAIL = f"{API}userinfo.email"
PRIMARY = "/calendars/primary/events"
TEAM = "/calendars/team-sandbox@group.calendar.example.com/events"


@pytest.fixture
def app(simulator_client: tuple[Simulator, httpx2.AsyncClient]) -> GoogleApp:
    simulator_client[0].reset()
    return GoogleApp(*simulator_client)


def at(simulator: Simulator, **delta: int) -> str:
    return (datetime.fromtimestamp(simulator.now(), UTC) + timedelta(**delta)).isoformat()


async def test_a_code_is_redeemed_for_tokens_with_scopes_in_their_long_form(app: GoogleApp) -> None:
    answer = await app.connect()
    assert answer["access_token"].startswith("ya29.")
    assert answer["refresh_token"].startswith("1//")
    assert answer["scope"].split() == sorted([EVENTS, READONLY, EMAIL, "openid"])
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 3600)


async def test_the_redirect_names_issuer_scope_and_state(app: GoogleApp) -> None:
    location = parameters(await consent(app.authorize_url()))
    assert (location["iss"], location["state"]) == (f"{app.simulator.url}/google", "st-1")
    assert READONLY in location["scope"].split()


@pytest.mark.parametrize(
    ("client", "status", "error"),
    [(("sandbox-client", "wrong"), 401, "invalid_client"), (("stranger", "sandbox-secret"), 401, "invalid_client")],
)
@pytest.mark.parametrize("post", [False, True])
async def test_a_wrong_client_is_refused_and_spends_nothing(
    app: GoogleApp, client: tuple[str, str], status: int, error: str, post: bool
) -> None:
    form = {"grant_type": "authorization_code", "code": await app.code(), "redirect_uri": REDIRECT}
    refused = await app.token(client=client, post=post, **form)
    assert (refused.status_code, refused.json()["error"]) == (status, error)
    assert (await app.token(post=post, **form)).status_code == 200


async def test_client_authentication_is_needed_once_and_only_once(app: GoogleApp) -> None:
    form = {"grant_type": "authorization_code", "code": await app.code(), "redirect_uri": REDIRECT}
    assert (await app.token(client=None, **form)).json()["error"] == "invalid_request"
    both = await app.token(**form, client_id=CLIENT[0], client_secret=CLIENT[1])
    assert both.json()["error"] == "invalid_request"
    assert (await app.token(**form)).status_code == 200


@pytest.mark.parametrize(("grant_type", "error"), [("password", "unsupported_grant_type"), ("", "invalid_request")])
async def test_another_grant_type_is_refused(app: GoogleApp, grant_type: str, error: str) -> None:
    assert (await app.token(grant_type=grant_type)).json()["error"] == error
    assert (await app.redeem(await app.code())).status_code == 200


async def test_codes_are_bound_to_time_use_redirect_client_and_verifier(app: GoogleApp) -> None:
    pkce = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
    assert (await app.redeem(await app.code(), redirect_uri=f"{REDIRECT}/")).json()["error"] == "redirect_uri_mismatch"
    assert (await app.redeem(await app.code(), client=SECOND_CLIENT)).json()["error"] == "invalid_grant"
    assert (await app.redeem(await app.code(**pkce), code_verifier=VERIFIER[::-1])).json()["error"] == "invalid_grant"
    assert (await app.redeem(await app.code(**pkce))).json()["error"] == "invalid_grant"
    code = await app.code(**pkce)
    assert (await app.redeem(code, code_verifier=VERIFIER)).status_code == 200
    assert (await app.redeem(code, code_verifier=VERIFIER)).json()["error"] == "invalid_grant"
    late = await app.code()
    app.simulator.advance(60)
    assert (await app.redeem(late)).json()["error"] == "invalid_grant"


async def test_a_plain_challenge_is_verified_too(app: GoogleApp) -> None:
    plain = {"code_challenge": VERIFIER, "code_challenge_method": "plain"}
    assert (await app.redeem(await app.code(**plain), code_verifier=VERIFIER[::-1])).json()["error"] == "invalid_grant"
    assert (await app.redeem(await app.code(**plain), code_verifier=VERIFIER)).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"response_type": "token"},
        {"scope": ""},
        {"scope": f"{API}everything"},
        {"access_type": "sometimes"},
        {"prompt": "maybe"},
        {"redirect_uri": "http://elsewhere.example/cb"},
        {"client_id": "stranger"},
    ],
)
async def test_a_bad_authorization_request_is_told_on_a_page(app: GoogleApp, changes: dict[str, str]) -> None:
    sent_on = await app.http.get(app.authorize_url(**changes))
    assert (sent_on.status_code, urlsplit(sent_on.headers["location"]).path) == (302, "/google/signin/oauth/error")
    assert (await app.http.get(urljoin(app.base, sent_on.headers["location"]))).status_code == 400
    assert (await app.http.get(app.authorize_url())).status_code == 200


async def test_an_app_in_testing_lets_its_test_users_in_and_nobody_else(app: GoogleApp) -> None:
    app.simulator.control(
        "app", client_id="tested", client_secret="a secret", redirect_uris=[REDIRECT], test_users=["bob"]
    )
    with pytest.raises(ConsentRefused, match="developer-approved testers"):
        await consent(app.authorize_url(client_id="tested"), account="alice")
    assert "code" in parameters(await consent(app.authorize_url(client_id="tested"), account="bob"))


async def test_a_project_without_the_calendar_api_says_where_to_enable_it(app: GoogleApp) -> None:
    for enabled in (False, True):
        app.simulator.control(
            "app", client_id=CLIENT[0], client_secret=CLIENT[1], redirect_uris=None, api_enabled=enabled
        )
        token = str((await app.connect(account="carol"))["access_token"])
        answer = await app.api("GET", PRIMARY, token)
        assert answer.status_code == (200 if enabled else 403)
        assert ("Enable it by visiting" in answer.text) is not enabled


async def test_a_refresh_token_needs_offline_access(app: GoogleApp) -> None:
    assert "refresh_token" not in await app.connect(access_type=None)
    assert "refresh_token" in await app.connect(account="bob")


async def test_a_refresh_token_comes_at_the_first_consent_or_when_consent_is_asked_for(app: GoogleApp) -> None:
    first = await app.connect()
    assert "refresh_token" not in await app.connect()
    assert "refresh_token" in await app.connect(prompt="consent")
    assert (await app.refresh(first["refresh_token"])).status_code == 200
    await app.http.post(f"{app.base}/revoke", data={"token": first["access_token"]})
    assert "refresh_token" in await app.connect()


async def test_the_person_can_untick_scopes_but_not_the_identity(app: GoogleApp) -> None:
    answer = await app.connect(scopes=[READONLY])
    assert answer["scope"].split() == sorted([READONLY, EMAIL, "openid"])
    refused = await app.api("POST", PRIMARY, answer["access_token"], json={})
    assert refused.status_code == 403
    assert (await app.connect(account="bob"))["scope"].split() == sorted([EVENTS, READONLY, EMAIL, "openid"])
    books = app.simulator.books()
    assert books["consents"][0]["granted"] == sorted([READONLY, EMAIL, "openid"])


async def test_unticking_everything_is_a_refusal(app: GoogleApp) -> None:
    url = app.authorize_url(scope=EVENTS)
    assert parameters(await consent(url, scopes=[]))["error"] == "access_denied"
    assert "code" in parameters(await consent(url))


async def test_a_refresh_token_stays_the_same(app: GoogleApp) -> None:
    token = (await app.connect())["refresh_token"]
    for _ in range(3):
        answer = (await app.refresh(token)).json()
        assert "refresh_token" not in answer
    assert [entry["outcome"] for entry in app.simulator.books()["refreshes"]] == ["kept"] * 3


async def test_scope_on_refresh_yields_a_really_narrower_token_and_leaves_the_grant_alone(app: GoogleApp) -> None:
    tokens = await app.connect()
    narrow = (await app.refresh(tokens["refresh_token"], scope=READONLY)).json()
    assert narrow["scope"] == READONLY
    event = {"summary": "x", "start": {"date": "2030-01-01"}, "end": {"date": "2030-01-02"}}
    assert (await app.api("GET", PRIMARY, narrow["access_token"])).status_code == 200
    refused = await app.api("POST", PRIMARY, narrow["access_token"], json=event)
    assert refused.status_code == 403
    assert (await app.api("POST", PRIMARY, tokens["access_token"], json=event)).status_code == 200
    again = (await app.refresh(tokens["refresh_token"])).json()
    assert again["scope"] == tokens["scope"]


@pytest.mark.parametrize("scope", [f"{API}calendar", f"{READONLY} {API}drive"])
async def test_a_wider_scope_on_refresh_is_refused(app: GoogleApp, scope: str) -> None:
    token = (await app.connect())["refresh_token"]
    refused = await app.refresh(token, scope=scope)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_scope")
    assert (await app.refresh(token, scope=f"{READONLY} email")).status_code == 200


@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
async def test_revoking_either_token_ends_the_whole_grant(app: GoogleApp, which: str) -> None:
    tokens, bob = await app.connect(), await app.connect(account="bob")
    second = await app.connect(prompt="consent")
    assert (await app.http.post(f"{app.base}/revoke", data={"token": tokens[which]})).status_code == 200
    for dead in (tokens, second):
        assert (await app.api("GET", PRIMARY, dead["access_token"])).status_code == 401
        refused = await app.refresh(dead["refresh_token"])
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert (await app.api("GET", PRIMARY, bob["access_token"])).status_code == 200


async def test_revoking_an_unknown_or_dead_token_is_an_error(app: GoogleApp) -> None:
    token = (await app.connect())["access_token"]
    unknown = await app.http.post(f"{app.base}/revoke", data={"token": "ya29.stranger"})
    assert (unknown.status_code, unknown.json()["error"]) == (400, "invalid_token")
    assert (await app.http.post(f"{app.base}/revoke", data={"token": token})).status_code == 200
    assert (await app.http.post(f"{app.base}/revoke", data={"token": token})).status_code == 400


async def test_a_refresh_token_of_another_client_or_of_nobody_is_refused(app: GoogleApp) -> None:
    token = (await app.connect())["refresh_token"]
    assert (await app.refresh(token, client=SECOND_CLIENT)).json()["error"] == "unauthorized_client"
    assert (await app.refresh("1//stranger")).json()["error"] == "invalid_grant"
    assert (await app.refresh(token)).status_code == 200


async def test_a_refresh_token_dies_after_six_idle_months(app: GoogleApp) -> None:
    token = (await app.connect())["refresh_token"]
    app.simulator.advance(179 * 86400)
    assert (await app.refresh(token)).status_code == 200
    app.simulator.advance(180 * 86400)
    assert (await app.refresh(token)).json()["error"] == "invalid_grant"


async def test_beyond_the_limit_the_oldest_refresh_token_dies_silently(app: GoogleApp) -> None:
    app.simulator.control("rules", face="google", refresh_limit=2)
    tokens = [(await app.connect(prompt="consent"))["refresh_token"] for _ in range(3)]
    assert [(await app.refresh(token)).status_code for token in tokens] == [400, 200, 200]


async def test_include_granted_scopes_makes_a_token_wider_than_what_was_asked(app: GoogleApp) -> None:
    await app.connect(scope=f"openid {EVENTS}")
    plain = await app.connect(scope=f"openid {READONLY}")
    assert plain["scope"].split() == sorted([READONLY, "openid"])
    merged = await app.connect(scope=f"openid {READONLY}", include_granted_scopes="true")
    assert merged["scope"].split() == sorted([EVENTS, READONLY, "openid"])


async def test_userinfo_tells_what_the_identity_scopes_allow(app: GoogleApp) -> None:
    async def userinfo(token: str) -> httpx2.Response:
        return await app.http.get(f"{app.base}/oauth2/v3/userinfo", headers={"authorization": f"Bearer {token}"})

    both = (await app.connect())["access_token"]
    assert (await userinfo(both)).json() == {
        "sub": "100000000000000000001",
        "email": "alice@example.com",
        "email_verified": True,
    }
    named = (await app.connect(scope="openid profile"))["access_token"]
    assert "email" not in (await userinfo(named)).json()
    without = (await app.connect(scope=EVENTS))["access_token"]
    assert (await userinfo(without)).status_code == 403
    assert (await userinfo("ya29.stranger")).status_code == 401


async def test_an_id_token_carries_the_nonce_and_verifies_with_the_published_key(app: GoogleApp) -> None:
    async def claims(**changes: str) -> dict[str, object]:
        token = (await app.connect(nonce="n-1", prompt="consent", **changes))["id_token"]
        document = (await app.http.get(f"{app.base}/.well-known/openid-configuration")).json()
        keys = KeySet.import_key_set((await app.http.get(document["jwks_uri"])).json())
        decoded = jwt.decode(token, keys, algorithms=["RS256"]).claims
        assert decoded["iss"] == document["issuer"]
        return decoded

    good = await claims()
    assert (good["aud"], good["nonce"], good["email"]) == (CLIENT[0], "n-1", "alice@example.com")
    app.simulator.control("id_token", claims={"aud": "someone-else", "nonce": "n-2"}, remove=["email"])
    wrong = await claims()
    assert (wrong["aud"], wrong["nonce"], "email" in wrong) == ("someone-else", "n-2", False)
    app.simulator.control("id_token", signed_by="stranger")
    with pytest.raises(BadSignatureError):
        await claims()
    app.simulator.control("id_token", signed_by="none")
    assert (await app.connect())["id_token"].endswith(".")
    assert "id_token" not in await app.connect(scope=EVENTS)


async def test_a_bad_token_gets_googles_401(app: GoogleApp) -> None:
    token = (await app.connect())["access_token"]
    for bad in (None, "ya29.garbage"):
        refused = await app.api("GET", PRIMARY, bad)
        assert refused.status_code == 401
        error = refused.json()["error"]
        assert (error["status"], error["errors"][0]["reason"]) == ("UNAUTHENTICATED", "authError")
        assert "invalid_token" in refused.headers["www-authenticate"]
    in_query = await app.api("GET", PRIMARY, None, access_token=token)
    assert in_query.status_code == 401
    app.simulator.advance(3590)
    assert (await app.api("GET", PRIMARY, token)).status_code == 200
    app.simulator.advance(10)
    assert (await app.api("GET", PRIMARY, token)).status_code == 401


async def test_a_missing_scope_gets_googles_403_with_error_info(app: GoogleApp) -> None:
    token = (await app.connect(scope=f"openid {READONLY}"))["access_token"]
    refused = await app.api("POST", PRIMARY, token, json={})
    error = refused.json()["error"]
    assert (refused.status_code, error["status"]) == (403, "PERMISSION_DENIED")
    assert error["details"][0]["reason"] == "ACCESS_TOKEN_SCOPE_INSUFFICIENT"
    assert error["details"][0]["metadata"]["method"] == "calendar.v3.Events.Insert"
    assert EVENTS in refused.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("verb", "path", "scope"),
    [
        ("GET", "/users/me/calendarList", f"{API}calendar.calendarlist.readonly"),
        ("GET", "/calendars/primary", f"{API}calendar.calendars.readonly"),
        ("GET", PRIMARY, READONLY),
        ("POST", "/freeBusy", f"{API}calendar.freebusy"),
    ],
)
async def test_each_method_demands_one_of_its_scopes(app: GoogleApp, verb: str, path: str, scope: str) -> None:
    body = {"timeMin": at(app.simulator), "timeMax": at(app.simulator, days=7), "items": [{"id": "primary"}]}
    json = body if verb == "POST" else None
    other = (await app.connect(scope=f"openid {API}gmail.readonly"))["access_token"]
    assert (await app.api(verb, path, other, json=json)).status_code == 403
    fitting = (await app.connect(account="bob", scope=f"openid {scope}"))["access_token"]
    assert (await app.api(verb, path, fitting, json=json)).status_code == 200


async def test_events_are_paged_and_the_sync_token_stands_on_the_last_page_only(app: GoogleApp) -> None:
    token = (await app.connect())["access_token"]
    names: list[str] = []
    query: dict[str, str] = {"singleEvents": "true", "orderBy": "startTime", "maxResults": "100"}
    pages = 0
    while pages == 0 or "pageToken" in query:
        page = (await app.api("GET", PRIMARY, token, **query)).json()
        names += [event["summary"] for event in page["items"]]
        pages += 1
        assert ("nextPageToken" in page) is not ("nextSyncToken" in page)
        query.pop("pageToken", None)
        if "nextPageToken" in page:
            query["pageToken"] = page["nextPageToken"]
    assert (pages, len(names), names[0], names[-1]) == (2, 8, "Retrospective", "Budget check")
    bogus = await app.api("GET", PRIMARY, token, pageToken="bogus")
    assert bogus.status_code == 400
    first = (await app.api("GET", PRIMARY, token)).json()["nextPageToken"]
    assert (await app.api("GET", TEAM, token, pageToken=first)).status_code == 400


async def test_time_bounds_select_events_and_must_name_their_offset(app: GoogleApp) -> None:
    token = (await app.connect())["access_token"]
    now = at(app.simulator)
    upcoming = (await app.api("GET", PRIMARY, token, timeMin=now, singleEvents="true", orderBy="startTime")).json()
    assert upcoming["items"][0]["summary"] == "Design review"
    past = (await app.api("GET", PRIMARY, token, timeMax=now)).json()
    assert [event["summary"] for event in past["items"]] == ["Retrospective"]
    assert (await app.api("GET", PRIMARY, token, timeMin=now[:19])).status_code == 400
    empty = await app.api("GET", PRIMARY, token, timeMin=now, timeMax=at(app.simulator, hours=-1))
    assert empty.json()["error"]["errors"][0]["reason"] == "timeRangeEmpty"


async def test_ordering_by_start_time_needs_single_events(app: GoogleApp) -> None:
    token = (await app.connect())["access_token"]
    assert (await app.api("GET", PRIMARY, token, orderBy="startTime")).status_code == 400
    assert (await app.api("GET", PRIMARY, token, orderBy="startTime", singleEvents="true")).status_code == 200


async def test_a_sync_token_is_always_too_old_here(app: GoogleApp) -> None:
    token = (await app.connect())["access_token"]
    refused = await app.api("GET", PRIMARY, token, syncToken="sync-1")
    assert (refused.status_code, refused.json()["error"]["errors"][0]["reason"]) == (410, "fullSyncRequired")


async def test_a_weekly_event_is_one_master_or_many_instances(app: GoogleApp) -> None:
    token = (await app.connect())["access_token"]
    master = (await app.api("GET", TEAM, token, q="stand-up")).json()["items"]
    assert (len(master), master[0]["recurrence"]) == (1, ["RRULE:FREQ=WEEKLY"])
    first = datetime.fromisoformat(master[0]["start"]["dateTime"])
    bounds = {
        "timeMin": (first - timedelta(days=1)).isoformat(),
        "timeMax": (first + timedelta(days=20)).isoformat(),
    }
    instances = (await app.api("GET", TEAM, token, singleEvents="true", q="stand-up", **bounds)).json()["items"]
    assert len(instances) == 3
    assert {event["recurringEventId"] for event in instances} == {master[0]["id"]}
    assert len({event["id"] for event in instances}) == 3


async def test_a_created_event_shows_in_list_get_and_books(app: GoogleApp) -> None:
    token = (await app.connect())["access_token"]
    start = {"dateTime": "2030-07-01T09:00:00", "timeZone": "America/New_York"}
    end = {"dateTime": "2030-07-01T09:30:00", "timeZone": "America/New_York"}
    body = {"summary": "Launch", "start": start, "end": end, "attendees": [{"email": "bob@example.com"}]}
    created = (await app.api("POST", PRIMARY, token, json=body)).json()
    assert created["start"] == {"dateTime": "2030-07-01T09:00:00-04:00", "timeZone": "America/New_York"}
    assert created["attendees"] == [{"email": "bob@example.com"}]
    assert (await app.api("GET", f"{PRIMARY}/{created['id']}", token)).json()["summary"] == "Launch"
    assert len((await app.api("GET", PRIMARY, token, q="launch")).json()["items"]) == 1
    assert [event["summary"] for event in app.simulator.books()["events"]] == ["Launch"]
    patched = await app.api("PATCH", f"{PRIMARY}/{created['id']}", token, json={"summary": "Launch day"})
    assert (patched.json()["summary"], patched.json()["sequence"]) == ("Launch day", 1)
    assert (await app.api("DELETE", f"{PRIMARY}/{created['id']}", token)).status_code == 204
    assert (await app.api("DELETE", f"{PRIMARY}/{created['id']}", token)).status_code == 410


_DAY = {"start": {"date": "2030-01-01"}, "end": {"date": "2030-01-02"}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"start": None}, "required"),
        ({"end": {}}, "required"),
        ({"start": {"date": "tomorrow"}}, "invalid"),
        ({"start": {"dateTime": "2030-01-01T09:00:00"}, "end": {"dateTime": "2030-01-01T10:00:00Z"}}, "required"),
        ({"start": {"dateTime": "2030-01-01T09:00:00Z", "timeZone": "Mars/Olympus"}}, "invalid"),
        ({"end": {"dateTime": "2030-01-01T10:00:00Z"}}, "invalid"),
        ({"end": {"date": "2029-01-01"}}, "timeRangeEmpty"),
    ],
)
async def test_an_event_with_bad_times_is_refused(app: GoogleApp, change: dict[str, object], reason: str) -> None:
    token = (await app.connect())["access_token"]
    refused = await app.api("POST", PRIMARY, token, json={**_DAY, **change})
    assert (refused.status_code, refused.json()["error"]["errors"][0]["reason"]) == (400, reason)
    assert (await app.api("POST", PRIMARY, token, json=_DAY)).status_code == 200


async def test_a_reader_cannot_write_and_a_stranger_cannot_see(app: GoogleApp) -> None:
    bob, alice = (await app.connect(account="bob"))["access_token"], (await app.connect())["access_token"]
    assert (await app.api("GET", TEAM, bob)).status_code == 200
    refused = await app.api("POST", TEAM, bob, json=_DAY)
    assert refused.json()["error"]["errors"][0]["reason"] == "requiredAccessLevel"
    assert (await app.api("POST", TEAM, alice, json=_DAY)).status_code == 200
    foreign = await app.api("GET", "/calendars/alice@example.com/events", bob)
    assert (foreign.status_code, foreign.json()["error"]["errors"][0]["reason"]) == (404, "notFound")
    assert (await app.api("GET", f"{PRIMARY}/nothing", bob)).status_code == 404


async def test_a_scope_for_own_calendars_does_not_reach_others(app: GoogleApp) -> None:
    token = (await app.connect(account="bob", scope=f"{API}calendar.events.owned"))["access_token"]
    assert (await app.api("GET", PRIMARY, token)).status_code == 200
    assert (await app.api("GET", TEAM, token)).status_code == 404


async def test_free_busy_tells_times_and_names_unknown_calendars(app: GoogleApp) -> None:
    token = (await app.connect(scope=f"{API}calendar.readonly"))["access_token"]
    body = {
        "timeMin": at(app.simulator),
        "timeMax": at(app.simulator, days=8),
        "items": [{"id": "primary"}, {"id": "x"}],
    }
    answer = (await app.api("POST", "/freeBusy", token, json=body)).json()["calendars"]
    assert len(answer["primary"]["busy"]) == 7
    assert answer["x"]["errors"][0]["reason"] == "notFound"
    assert (await app.api("POST", "/freeBusy", token, json={"items": []})).status_code == 400


async def test_a_deactivated_account_is_refused_until_it_is_active_again(app: GoogleApp) -> None:
    tokens = await app.connect()
    app.simulator.control("accounts", account="alice", active=False)
    assert (await app.api("GET", PRIMARY, tokens["access_token"])).status_code == 401
    assert (await app.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"
    app.simulator.control("accounts", account="alice", active=True)
    assert (await app.refresh(tokens["refresh_token"])).status_code == 200


async def test_the_login_hint_preselects_an_account(app: GoogleApp) -> None:
    page = (await app.http.get(app.authorize_url(login_hint="bob@example.com"))).text
    assert 'value="bob" checked' in page
    assert 'value="alice" checked' in (await app.http.get(app.authorize_url())).text
