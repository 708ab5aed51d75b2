"""The two ways to be an app at Slack, how Google's grants end, and the fix for every provider error."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from providers.simulator.local_server import Simulator, running_simulator
from providers.simulator.person import ConsentRefused, consent
from server.app import build_app, open_deployment
from server.connecting.provider_errors import FIXES, fix_for
from server.settings import load_settings
from tests.support.harness import RunningVault, free_socket, running_vault, serve_app
from tests.support.person import Person
from tests.support.rooms import mcp_room
from tests.support.rooms.portal_room import Room, query_of
from tests.support.simulator_apps import public_slack_settings
from vault import connections
from vault.records import Client, Connection, User
from vault.refresh import rotation
from vault.refusals import ConnectionRequired, TemporarilyUnavailable

EVENTS = "https://www.googleapis.com/auth/calendar.events"
DAY = 86400


@asynccontextmanager
async def _room(
    data: Path, simulator: Simulator, *, sections: Mapping[str, Mapping[str, object]] | None = None
) -> AsyncGenerator[Room]:
    data.mkdir(exist_ok=True)
    providers = {**simulator.settings(), **(sections or {})}
    async with running_vault(data, providers=providers) as vault, AsyncExitStack() as stack:
        yield Room(vault, simulator, stack)


@asynccontextmanager
async def _again(
    data: Path, simulator: Simulator, *, sections: Mapping[str, Mapping[str, object]]
) -> AsyncGenerator[Room]:
    """The vault of an earlier room, with other settings for its providers."""
    listening = free_socket()
    port = listening.getsockname()[1]
    overrides: dict[str, object] = {
        "server": {"port": port, "public_url": f"http://localhost:{port}"},
        "providers": {**simulator.settings(), **sections},
        "sandbox": {"loopback_upstreams": True},
    }
    settings = load_settings(overrides=overrides)
    async with (
        open_deployment(settings, data=data) as deployment,
        serve_app(build_app(deployment), listening),
        AsyncExitStack() as stack,
    ):
        yield Room(RunningVault(settings.public_url, deployment), simulator, stack)


@pytest.fixture(scope="module")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with running_simulator() as simulator, _room(tmp_path_factory.mktemp("ways"), simulator) as opened:
        yield opened


@pytest.fixture(scope="module")
async def public(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    """The vault at Slack as an app with PKCE and without a secret; at Google in Testing mode."""
    async with running_simulator() as simulator:
        sections = {
            "slack": public_slack_settings(simulator),
            "google": {**simulator.google_settings(), "testing": True},
        }
        async with _room(tmp_path_factory.mktemp("public"), simulator, sections=sections) as opened:
            yield opened


async def _someone(room: Room) -> tuple[User, Person, Client]:
    room.simulator.reset()
    user = await room.user()
    return user, await room.signed_in(user), await room.agent()


async def _only(room: Room, user: User) -> Connection:
    (found,) = await connections.list_connections(room.deployment.database, user.id)
    return found


async def _refresh(room: Room, connection: Connection) -> None:
    await rotation.refresh(room.deployment.vault, connection.id, if_generation=connection.generation)


async def test_an_app_with_a_secret_sends_slack_no_pkce(room: Room) -> None:
    user, person, client = await _someone(room)
    url = await room.to_provider(person, await room.link(user, client))
    assert "code_challenge" not in query_of(url)
    assert "scope" not in query_of(url)
    await person.open(await consent(url))
    await _refresh(room, await _only(room, user))
    books = room.simulator.books()
    assert (books["redemptions"][-1]["sent_verifier"], books["redemptions"][-1]["client_auth"]) == (False, "basic")
    assert (books["refreshes"][-1]["outcome"], books["refreshes"][-1]["client_auth"]) == ("rotated", "basic")
    assert (await _only(room, user)).grant_expires_at is None


@pytest.mark.parametrize("rotates", [True, False])
async def test_a_token_that_never_ends_is_said_after_connecting_with_its_fix(room: Room, *, rotates: bool) -> None:
    user, person, client = await _someone(room)
    room.simulator.control("app", client_id="sandbox-client", client_secret="sandbox-secret", rotates=rotates)
    page = await person.open(await consent(await room.to_provider(person, await room.link(user, client))))
    assert "Slack is connected" in page.text
    assert ("turn on Token rotation there" in page.text) is not rotates
    assert (await _only(room, user)).has_refresh_token is rotates


async def test_who_is_let_in_by_an_app_in_testing_is_said_before_the_way_there(room: Room, public: Room) -> None:
    for place, is_said in ((room, False), (public, True)):
        user, person, client = await _someone(place)
        link = await place.link(user, client, provider="google", scopes=frozenset({EVENTS}))
        for page in (link.url, "/connections/connect?provider=google"):
            assert ("Test users" in (await person.open(page)).text) is is_said


@pytest.mark.requirement("S-142")
async def test_an_app_without_a_secret_proves_itself_by_pkce_and_shows_its_thirty_days(public: Room) -> None:
    user, person, client = await _someone(public)
    public.simulator.control("rules", face="slack", http_for_public_apps_only=True)  # as at Slack itself
    url = await public.to_provider(person, await public.link(user, client))
    assert query_of(url)["code_challenge_method"] == "S256"
    assert query_of(url)["user_scope"] == "chat:write"
    assert "scope" not in query_of(url)
    await person.open(await consent(url))
    first = await _only(public, user)
    assert first.grant_expires_at == first.created_at + 30 * DAY
    assert first.status(first.created_at + 22 * DAY) == "active"
    assert first.status(first.created_at + 24 * DAY) == "expiring"
    assert "Connection expires" in (await person.open("/connections")).text
    await _refresh(public, first)
    books = public.simulator.books()
    assert (books["redemptions"][-1]["sent_verifier"], books["redemptions"][-1]["client_auth"]) == (True, "none")
    assert (books["refreshes"][-1]["outcome"], books["refreshes"][-1]["client_auth"]) == ("rotated", "none")
    assert (await _only(public, user)).grant_expires_at == first.grant_expires_at


@pytest.mark.parametrize("days", [29, 31])
async def test_a_refresh_token_that_slack_ended_asks_for_a_new_connection(public: Room, days: int) -> None:
    user, person, client = await _someone(public)
    await public.connect(person, user, client)
    public.simulator.advance(days * DAY)
    if days < 30:
        await _refresh(public, await _only(public, user))
        return
    with pytest.raises(ConnectionRequired):
        await _refresh(public, await _only(public, user))
    assert (await _only(public, user)).status(public.deployment.now()) == "needs_reauth"
    await public.connect(person, user, client)
    assert (await _only(public, user)).status(public.deployment.now()) == "active"


async def _google(room: Room, user: User, person: Person, client: Client, **answers: str) -> Connection:
    link = await room.link(user, client, provider="google", scopes=frozenset({EVENTS}))
    page = await person.open(link.url)
    answer = await person.submit(page, {**answers}, form="/connect/", button=("decision", "allow"))
    url = answer.headers["location"]
    assert query_of(url)["access_type"] == "offline"
    await person.open(await consent(url))
    return await _only(room, user)


async def test_a_google_app_in_testing_shows_its_seven_days_from_the_first_hour(public: Room) -> None:
    user, person, client = await _someone(public)
    found = await _google(public, user, person, client)
    assert found.grant_expires_at == found.created_at + 7 * DAY
    assert found.status(found.created_at) == "expiring"


async def test_what_google_says_of_the_end_of_a_grant_is_shown_without_a_setting(room: Room) -> None:
    user, person, client = await _someone(room)
    room.simulator.control("rules", face="google", refresh_lifetime=604_799, tells_refresh_lifetime=True)
    found = await _google(room, user, person, client)
    assert found.grant_expires_at is not None
    assert abs(found.grant_expires_at - found.created_at - 604_799) <= 2


async def test_a_later_consent_without_a_refresh_token_keeps_the_old_one_and_its_end(public: Room) -> None:
    user, person, client = await _someone(public)
    first = await _google(public, user, person, client)
    public.deployment.database.clock_offset += DAY
    person = await public.signed_in(user)
    try:
        public.simulator.control("omit_refresh_token", face="google", times=1)
        again = await _google(public, user, person, client, account="new")
        assert again.generation > first.generation
        assert again.grant_expires_at == first.grant_expires_at
        await _refresh(public, again)
        fresh = await _google(public, user, person, client, account="new")
        assert fresh.grant_expires_at == public.deployment.now() + 7 * DAY
    finally:
        public.deployment.database.clock_offset -= DAY


# Errors

_IMPOSSIBLE = {"not_configured", "account_unknown"}  # our codes, not the provider's
_UNCLEAR = {"internal_error", "fatal_error", "server_error", "temporarily_unavailable", "ratelimited"}  # reported busy


def _plain(text: str) -> str:
    return text.replace("&#39;", "'").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")


def _fix_for(room: Room, code: str, provider: str) -> str:
    redirect = f"{room.url}/connect/callback/{provider}"
    return fix_for(code, name=provider, title=provider.title(), redirect=redirect)


@pytest.mark.parametrize("provider", ["slack", "google"])
@pytest.mark.parametrize("code", sorted(set(FIXES) - _IMPOSSIBLE))
async def test_an_error_of_the_consent_has_a_page_with_its_fix(room: Room, provider: str, code: str) -> None:
    user, person, client = await _someone(room)
    scopes = frozenset({EVENTS}) if provider == "google" else frozenset({"chat:write"})
    link = await room.link(user, client, provider=provider, scopes=scopes)
    state = query_of(await room.to_provider(person, link))["state"]
    page = await person.open(f"/connect/callback/{provider}?state={state}&error={code}")
    assert page.status_code == 400
    assert _fix_for(room, code, provider) in _plain(page.text)
    assert code in page.text
    assert not await connections.list_connections(room.deployment.database, user.id)


@pytest.mark.parametrize("provider", ["slack", "google"])
@pytest.mark.parametrize("code", sorted(set(FIXES) - _IMPOSSIBLE))
async def test_an_error_of_the_token_endpoint_has_a_page_with_its_fix(room: Room, provider: str, code: str) -> None:
    user, person, client = await _someone(room)
    scopes = frozenset({EVENTS}) if provider == "google" else frozenset({"chat:write"})
    link = await room.link(user, client, provider=provider, scopes=scopes)
    callback = await consent(await room.to_provider(person, link))
    body = json.dumps({"ok": False, "error": code})
    status = 200 if provider == "slack" else 400
    room.simulator.fault(f"{provider}.token.code", "status", status=status, body=body)
    page = await person.open(callback)
    shown = _plain(page.text)
    assert page.status_code == 400
    assert _fix_for(room, code, provider) in shown or (code in _UNCLEAR and "Try again in a few minutes" in shown)
    assert not await connections.list_connections(room.deployment.database, user.id)


async def test_the_fix_of_a_redirect_address_is_the_exact_address(room: Room) -> None:
    for code in ("bad_redirect_uri", "redirect_uri_mismatch"):
        assert f"add exactly {room.url}/connect/callback/slack to the app at Slack" in _fix_for(room, code, "slack")


async def test_an_unregistered_redirect_address_ends_at_the_providers_page_and_a_registered_one_does_not(
    room: Room,
) -> None:
    user, person, client = await _someone(room)
    room.simulator.control("client", redirect_uris=["https://old.example.com/connect/callback/slack"])
    url = await room.to_provider(person, await room.link(user, client))
    with pytest.raises(ConsentRefused, match="bad_redirect_uri"):
        await consent(url)
    room.simulator.control("client", redirect_uris=[f"{room.url}/connect/callback/slack"])
    url = await room.to_provider(person, await room.link(user, client))
    assert "Slack is connected" in (await person.open(await consent(url))).text


@pytest.mark.parametrize("has_secret", [True, False])
async def test_an_app_with_a_secret_on_plain_http_is_refused_before_slack_does(
    tmp_path: Path, *, has_secret: bool
) -> None:
    registration: dict[str, object] = {"client_id": "1234567890.9876543210"}
    if has_secret:
        registration["client_secret"] = "the-secret-of-the-app"
    async with running_simulator() as simulator, AsyncExitStack() as stack:
        simulator.control("rules", face="slack", http_for_public_apps_only=True)
        room = Room(
            await stack.enter_async_context(running_vault(tmp_path / "data", providers={"slack": registration})),
            simulator,
            stack,
        )
        user = await room.user("alice")
        person = await room.signed_in(user)
        link = await room.link(user, await room.agent())
        page = await person.open(link.url)
        answer = await person.submit(page, form="/connect/", button=("decision", "allow"))
        if has_secret:
            assert answer.status_code == 409
            assert "Slack accepts an app with a client secret only at an https address" in answer.text
            assert "server.public_url" in answer.text
        else:
            assert answer.headers["location"].startswith("https://slack.com/oauth/v2/authorize?")
        way = f"{simulator.url}/slack/oauth/v2/authorize?redirect_uri={room.url}/connect/callback/slack&state=s"
        app = "client_id=sandbox-client" if has_secret else f"client_id=public-client&code_challenge={'c' * 43}"
        asked = f"{way}&user_scope=chat:write&code_challenge_method=S256&{app}"
        if has_secret:  # what would happen at Slack
            with pytest.raises(ConsentRefused, match="bad_redirect_uri"):
                await consent(asked.replace("&code_challenge_method=S256", ""))
        else:
            assert "code=" in await consent(asked)


@pytest.mark.parametrize(
    ("provider", "changes", "code"),
    [
        ("slack", {"client_secret": "wrong"}, "bad_client_secret"),
        ("google", {"client_secret": "wrong"}, "invalid_client"),
    ],
)
async def test_wrong_secrets_are_said_on_the_page_and_by_the_tool(
    tmp_path: Path, provider: str, changes: dict[str, object], code: str
) -> None:
    scopes = frozenset({EVENTS}) if provider == "google" else frozenset({"chat:write"})
    async with running_simulator() as simulator:
        good = simulator.settings()[provider]
        async with _room(tmp_path / "data", simulator) as right:
            user = await right.user("alice")
            agent = await right.agent()
            person = await right.signed_in(user)
            link = await right.link(user, agent, provider=provider, scopes=scopes)
            await person.open(await consent(await right.to_provider(person, link)))
        async with _again(tmp_path / "data", simulator, sections={provider: {**good, **changes}}) as room:
            connection = await _only(room, user)
            with pytest.raises(TemporarilyUnavailable, match=f"{code}.*providers setup {provider}"):
                await _refresh(room, connection)
            assert (await _only(room, user)).status(room.deployment.now()) in {"active", "expiring"}
            other = await room.user()
            person = await room.signed_in(other)
            link = await room.link(other, agent, provider=provider, scopes=scopes)
            page = await person.open(await consent(await room.to_provider(person, link)))
            assert _fix_for(room, code, provider) in _plain(page.text)


@pytest.mark.parametrize("reason", ["accessNotConfigured", "SERVICE_DISABLED"])
async def test_an_api_that_is_not_enabled_is_said_by_the_tool_with_the_fix(tmp_path: Path, reason: str) -> None:
    async with mcp_room.room(tmp_path / "data") as room:
        agent = await room.agent()
        scopes = frozenset({EVENTS, f"{EVENTS}.readonly"})
        await room.connect(agent, "google", scopes=scopes)
        if reason == "accessNotConfigured":
            room.simulator.control("rules", face="google", api_enabled=False)
        else:  # the newer form: no `errors`, the reason is in `details`
            detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}
            error = {"code": 403, "message": "disabled", "status": "PERMISSION_DENIED", "details": [detail]}
            room.simulator.fault("google", "status", status=403, body=json.dumps({"error": error}), skip=1)
        async with room.client(agent) as client:
            refused = await client.call_tool("calendar_list", {})
            assert refused.is_error
            text = " ".join(getattr(part, "text", "") for part in refused.content)
            assert reason in text
            assert "that Google API (Calendar, Gmail, Drive) is off in the app's Google Cloud project" in text
            room.simulator.control("rules", face="google", api_enabled=True)
            assert not (await client.call_tool("calendar_list", {})).is_error
