"""What Auth0's interface says about an account: narrower tokens, refresh, revocation, endings, and who may ask."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

import httpx2
import pytest
from joserfc.jwk import ECKey

from server.oauth.clients.rules import DEVICE_GRANT
from tests.auth0.application import CALLBACK, FEDERATED, SECRET, VERIFIER, Application
from tests.auth0.tenant import API
from tests.support.rooms.oauth_world import claims_of, sign_jwt
from tests.support.rooms.portal_room import CHALLENGE, Room, query_of
from vault import apis, delegations
from vault.exchange.exchange import thumbprint

ACCESS = "urn:ietf:params:oauth:token-type:access_token"
CALENDAR = "https://www.googleapis.com/auth/calendar.events"
EVENTS = {"summary": "Lunch", "start": {"date": "2027-01-01"}, "end": {"date": "2027-01-02"}}


async def test_a_narrower_token_can_do_less_at_the_provider_and_a_wider_one_is_refused(
    room: Room, application: Application
) -> None:
    await application.connect("google-oauth2", scopes=[CALENDAR, f"{CALENDAR}.readonly"])
    asked = {"connection": "google-oauth2", "scope": f"{CALENDAR}.readonly"}
    narrow = (await application.account_token(asked)).json()
    whole = (await application.account_token({"connection": "google-oauth2"})).json()
    assert narrow["scope"] == f"{CALENDAR}.readonly"
    assert {CALENDAR, f"{CALENDAR}.readonly"} <= set(whole["scope"].split()), "tools look for each name"
    calendar = f"{room.simulator.url}/google/calendar/v3/calendars/primary/events"
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        for token, status in ((narrow, 403), (whole, 200)):
            headers = {"Authorization": f"Bearer {token['access_token']}"}
            assert (await http.get(calendar, headers=headers)).status_code == 200
            assert (await http.post(calendar, headers=headers, json=EVENTS)).status_code == status
    wider = await application.account_token({**asked, "scope": "https://www.googleapis.com/auth/drive"})
    assert wider.json()["error"] == "invalid_scope"


async def test_a_token_names_no_scope_of_the_account_that_the_person_took_from_the_agent(
    room: Room, application: Application
) -> None:
    connected = await application.connect("google-oauth2", scopes=[CALENDAR, f"{CALENDAR}.readonly"])
    which = {"user_id": application.user.id, "client_id": application.client.id}
    which["connection_id"] = str(connected["id"]).removeprefix("cac_")
    async with room.deployment.transaction() as transaction:
        less = frozenset({f"{CALENDAR}.readonly"})
        await delegations.allow(transaction, **which, scopes=less, now=room.deployment.now())
    answer = await application.account_token({"connection": "google-oauth2"})
    assert answer.json()["scope"] == f"{CALENDAR}.readonly"


async def test_many_exchanges_after_the_end_cause_one_refresh(room: Room, application: Application) -> None:
    await application.connect("google-oauth2", scopes=[CALENDAR])
    asked = {"connection": "google-oauth2"}
    first = (await application.account_token(asked)).json()["access_token"]
    before = len(room.simulator.books()["refreshes"])
    room.deployment.database.clock_offset += 4000
    try:
        answers = await asyncio.gather(*(application.account_token(asked) for _ in range(20)))
        tokens = {one.json()["access_token"] for one in answers}
    finally:
        room.deployment.database.clock_offset -= 4000
    assert (len(tokens), first in tokens) == (1, False)
    assert len(room.simulator.books()["refreshes"]) == before + 1


async def test_what_was_revoked_at_the_provider_is_told_as_not_connected_and_the_list_says_why(
    room: Room, application: Application
) -> None:
    await application.connect(account="carol")
    room.simulator.control("revoke_grant", face="slack", account="carol")
    room.deployment.database.clock_offset += 90_000
    try:
        refused = await application.account_token()
        listed = (await application.me("GET", "accounts")).json()["accounts"]
    finally:
        room.deployment.database.clock_offset -= 90_000
    assert refused.json()["error"] == "federated_connection_refresh_token_not_found"
    assert refused.json()["reason"] == "needs_reauth"
    assert refused.json()["connect_uri"]
    assert [one["state"] for one in listed] == ["needs_reauth"]


async def test_scopes_of_a_start_replace_the_usual_ones_at_the_provider(application: Application) -> None:
    started = await application.start(connection="google-oauth2", scopes=[CALENDAR])
    content = started.json()
    page = await application.person.open(f"{content['connect_uri']}?ticket={content['connect_params']['ticket']}")
    answer = await application.person.submit(page, {"account": "new"}, form="/connect/", button=("decision", "allow"))
    sent = query_of(answer.headers["location"])
    asked = set(sent["scope"].split())
    assert CALENDAR in asked
    assert not any("drive" in one or "gmail" in one for one in asked), asked
    assert sent["access_type"] == "offline"


async def test_a_deleted_account_is_ended_at_the_provider(room: Room, application: Application) -> None:
    connected = await application.connect("google-oauth2", scopes=[CALENDAR])
    token = (await application.account_token({"connection": "google-oauth2"})).json()["access_token"]
    calendar = f"{room.simulator.url}/google/calendar/v3/calendars/primary/events"
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        assert (await http.get(calendar, headers=headers)).status_code == 200
        assert (await application.me("DELETE", f"accounts/{connected['id']}")).status_code == 204
        assert (await http.get(calendar, headers=headers)).status_code == 401


async def test_a_permission_with_an_end_is_over_then(room: Room, application: Application) -> None:
    await application.connect()
    deployment = room.deployment
    ends = "update delegations set expires_at = :at where client_id = :client"
    for seconds, status in ((-1, 401), (600, 200)):
        async with room.deployment.transaction() as transaction:
            await transaction.execute(ends, {"at": deployment.now() + seconds, "client": application.client.id})
        answer = await application.account_token()
        assert answer.status_code == status, answer.text
        assert ("connect_uri" in answer.json()) == (status == 401)
    assert await delegations.list_for_client(deployment.database, application.user.id, client_id=application.client.id)


@pytest.mark.parametrize("field", ["auth_session", "connect_code", "code_verifier"])
async def test_a_completion_has_limits(application: Application, field: str) -> None:
    body = {"auth_session": "x" * 64, "connect_code": "x" * 46, "redirect_uri": CALLBACK, "code_verifier": "x" * 128}
    within = await application.me("POST", "complete", json=body)
    assert within.status_code == 404, "nothing of that name"
    beyond = await application.me("POST", "complete", json=body | {field: body[field] + "x"})
    assert (beyond.status_code, beyond.json()["validation_errors"][0]["field"]) == (400, field)
    unknown = await application.me("POST", "complete", json=body | {"more": "x"})
    assert unknown.status_code == 400


async def test_a_public_client_connects_an_account_with_pkce(room: Room, application: Application) -> None:
    page = await Application.register(room, application.http, auth_method="none", secret_hash=None)
    await page.sign_in()
    token = str((await page.refresh()).json()["access_token"])
    body = {"connection": "sign-in-with-slack", "redirect_uri": CALLBACK, "state": "s"}
    proof = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
    started = await page.me("POST", "connect", token=token, json=body | proof)
    assert started.status_code == 201, started.text
    honest = {
        "auth_session": started.json()["auth_session"],
        "connect_code": query_of(await page.to_return(started))["connect_code"],
        "redirect_uri": CALLBACK,
    }
    assert (await page.me("POST", "complete", token=token, json=honest)).status_code == 404
    completed = await page.me("POST", "complete", token=token, json=honest | {"code_verifier": VERIFIER})
    assert completed.status_code == 201, completed.text


async def test_an_access_token_is_exchanged_by_its_api_and_by_no_other_client(
    room: Room, application: Application
) -> None:
    page = await Application.register(room, application.http, resources=(API,))
    api = await Application.register(room, application.http, redirect_uris=())
    other = await Application.register(room, application.http, redirect_uris=())
    async with room.deployment.transaction() as transaction:
        now = room.deployment.now()
        await apis.add_api(transaction, API, name="API", now=now, scopes=frozenset())
        await apis.link_client(transaction, API, client_id=api.client.id, now=now)
    await page.sign_in(audience=API)
    await page.connect()
    token = {"subject_token": str(page.tokens["access_token"]), "subject_token_type": ACCESS}
    refused = await other.account_token(token)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")
    assert (await api.account_token(token)).status_code == 200


async def test_each_way_of_authenticating_a_client_works_and_a_wrong_one_does_not(
    room: Room, application: Application
) -> None:
    await application.connect()
    unnamed: Mapping[str, str | None] = {"client_id": None, "client_secret": None}
    body = {
        "grant_type": FEDERATED,
        "subject_token": application.refresh_token,
        "subject_token_type": "urn:ietf:params:oauth:token-type:refresh_token",
        "connection": "sign-in-with-slack",
    }
    basic = (application.client.id, SECRET)
    assert (await application.http.post("/oauth/token", data=body, auth=basic)).status_code == 200
    assert (await application.http.post("/oauth/token", json=body, auth=basic)).status_code == 200
    wrong = await application.http.post("/oauth/token", json=body, auth=(application.client.id, "wrong"))
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
    key = ECKey.generate_key("P-256", {"kid": "k"})
    metadata = {**application.client.metadata, "jwks": {"keys": [key.as_dict(private=False)]}}
    signing = await Application.register(
        room, application.http, auth_method="private_key_jwt", secret_hash=None, metadata=metadata
    )
    for audience, status in ((f"{room.url}/", 400), (f"{room.url}/oauth/token", 400), ("https://other.example/", 401)):
        now = room.deployment.now()
        claims = {"iss": signing.client.id, "sub": signing.client.id, "aud": audience, "exp": now + 60,
                  "jti": secrets.token_hex(8)}  # fmt: skip
        assertion = sign_jwt({"alg": "ES256", "kid": "k"}, claims, key)
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        proved = {"client_assertion": assertion, "client_assertion_type": kind}
        answer = await signing.http.post("/oauth/token", json=body | proved)
        assert answer.status_code == status, "400: it is this client, and the refresh token is another's"
    assert (await application.account_token(unnamed)).status_code == 401


async def test_resource_and_audience_name_one_target(room: Room, application: Application) -> None:
    async with room.deployment.transaction() as transaction:
        await apis.add_api(transaction, API, name="API", now=room.deployment.now(), scopes=frozenset())
    page = await Application.register(room, application.http, resources=(API, f"{room.url}/mcp"))
    await page.sign_in(audience=API)
    refresh = {"grant_type": "refresh_token", **page.credentials, "refresh_token": page.refresh_token}

    async def refresh_and_authorize(**query: str) -> tuple[httpx2.Response, dict[str, str]]:
        """Refresh, then request authorization; return both answers."""
        answer = await page.http.post("/oauth/token", json={**refresh, **query})
        usual = {"scope": "openid offline_access", "resource": ""}
        sent = await page.person.http.get(room.authorize_path(page.client, **(usual | query)))
        return answer, query_of(sent.headers["location"])

    for query in ({"audience": API}, {"resource": API}, {"audience": API, "resource": API}):
        answer, back = await refresh_and_authorize(**query)
        assert answer.status_code == 200, answer.text
        assert "code" in back, back
    for query in ({"audience": API, "resource": f"{room.url}/mcp"}, {"audience": "https://other.example"}):
        answer, back = await refresh_and_authorize(**query)
        assert (answer.json()["error"], back["error"]) == ("invalid_target", "invalid_target")


async def test_a_pushed_request_keeps_what_only_this_interface_has(room: Room, application: Application) -> None:
    """RFC 9126: without its audience, the token would be for another API."""
    audience = "https://pushed.example"
    async with room.deployment.transaction() as transaction:
        await apis.add_api(transaction, audience, name="Pushed", now=room.deployment.now(), scopes=frozenset())
    page = await Application.register(room, application.http, resources=(f"{room.url}/mcp", audience))
    asked = {
        **query_of(room.authorize_path(page.client, scope="openid offline_access", resource="")),
        **page.credentials,
    }
    for more, status in (
        ({"audience": "https://other.example"}, 400),
        ({"audience": audience, "requested_connection": "google-oauth2"}, 400),
        ({"audience": audience}, 201),
    ):
        pushed = await page.http.post("/par", data=asked | more)
        assert pushed.status_code == status, pushed.text
    request = {"client_id": page.client.id, "request_uri": pushed.json()["request_uri"]}
    consent = await page.person.open("/authorize?" + urlencode(request))
    answer = await page.person.submit(consent, form="/consent", button=("decision", "allow"))
    code = query_of(answer.headers["location"])["code"]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
    redeemed = await page.http.post("/oauth/token", json=form | page.credentials)
    assert claims_of(redeemed.json()["access_token"])["aud"] == audience


async def test_a_device_s_request_keeps_its_audience(room: Room, application: Application) -> None:
    audience = "https://device.example"
    async with room.deployment.transaction() as transaction:
        await apis.add_api(transaction, audience, name="Device", now=room.deployment.now(), scopes=frozenset())
    grant_types = frozenset({"authorization_code", "refresh_token", DEVICE_GRANT})
    page = await Application.register(
        room, application.http, resources=(f"{room.url}/mcp", audience), grant_types=grant_types
    )
    asked = {**page.credentials, "scope": "openid offline_access"}
    refused = await page.http.post("/device_authorization", data=asked | {"audience": "https://other.example"})
    assert refused.json()["error"] == "invalid_target"
    given = (await page.http.post("/device_authorization", data=asked | {"audience": audience})).json()
    code = {"user_code": str(given["user_code"])}
    consent = await page.person.submit(await page.person.open("/device"), code, form="/device")
    await page.person.submit(consent, form="/consent", button=("decision", "allow"))
    form = {"grant_type": DEVICE_GRANT, "device_code": given["device_code"]}
    redeemed = await page.http.post("/oauth/token", json=form | page.credentials)
    assert claims_of(redeemed.json()["access_token"])["aud"] == audience


async def test_who_asks_too_often_is_told_until_when_to_wait(room: Room, application: Application) -> None:
    await application.connect()
    assert (await application.account_token()).status_code == 200
    budget = room.deployment.token_requests
    later = time.monotonic() + 300  # spend a later budget, so that none is refilled during the request
    while not budget.spend(application.user.id, application.client.id, now=later):
        pass
    refused = await application.account_token()
    assert refused.status_code == 429
    headers = refused.headers
    assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == (str(budget.limit), "0")
    assert int(headers["x-ratelimit-reset"]) >= room.deployment.now() + int(headers["retry-after"]) - 20


async def test_the_activity_names_the_token_that_went_out(room: Room, application: Application) -> None:
    await application.connect()
    token = (await application.account_token()).json()["access_token"]
    (released,) = [one for one in await room.events(application.user) if one.kind == "token.released"]
    assert released.details["token_thumbprint"] == thumbprint(token)
    assert released.client_id == application.client.id


async def test_an_exchange_of_what_needs_a_yes_waits_for_one_which_counts_for_that_exchange_only(
    room: Room, application: Application
) -> None:
    deployment = room.deployment
    connected = await application.connect()
    which = {"user_id": application.user.id, "client_id": application.client.id}
    which["connection_id"] = str(connected["id"]).removeprefix("cac_")
    async with deployment.transaction() as transaction:
        await delegations.set_ask(transaction, **which, ask=frozenset({"chat:write"}), now=deployment.now())
    impossible = await application.account_token({"scope": "chat:write"})
    assert impossible.json()["error"] == "invalid_scope", "Slack narrows nothing, so nobody is asked in vain"
    exact = await application.account_token({"scope": " ".join(map(str, connected["scopes"]))})  # pyright: ignore[reportArgumentType] -- a list
    assert exact.json()["error"] == "authorization_pending"
    for decision, error in (("allow", None), ("deny", "access_denied")):
        waiting = await application.account_token()
        assert (waiting.status_code, waiting.json()["error"]) == (400, "authorization_pending")
        page = await application.person.open(urlsplit(waiting.json()["approval_uri"]).path)
        await application.person.submit(page, form="/approvals/", button=("decision", decision))
        answer = await application.account_token()
        assert answer.json().get("error") == error, answer.text
        if error is None:
            assert set(answer.json()) == {"access_token", "scope", "expires_in", "issued_token_type", "token_type"}
            assert answer.json()["access_token"].startswith("xox")
    async with deployment.transaction() as transaction:
        await delegations.set_ask(transaction, **which, ask=frozenset(), now=deployment.now())
    assert (await application.account_token()).status_code == 200


async def test_a_token_that_is_refused_for_what_it_could_do_was_not_released(
    room: Room, application: Application
) -> None:
    await application.connect()
    refused = await application.account_token({"scope": "chat:write"})
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_scope")
    assert "token.released" not in await room.kinds(application.user)
    whole = (await application.account_token()).json()["scope"]
    assert (await application.account_token({"scope": whole})).status_code == 200
    assert (await room.kinds(application.user)).count("token.released") == 2
