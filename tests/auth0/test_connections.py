"""Each Auth0 connection with its provider's behavior: connected, exchanged under Auth0's name, renewed, or ended.

`HABITS` follows the services' documentation, not our provider files. So do the double's descriptions
(`providers/simulator/families`). None of it was observed at a live service.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import httpx2
import pytest

from providers.check.trial import asked_of
from providers.definitions.catalog import load_catalog
from providers.definitions.model import Provider
from providers.simulator.local_server import SettingsSection, Simulator, running_simulator
from providers.simulator.modes import SERVED, Mode, mode_of
from providers.simulator.person import consent
from providers.simulator.rules import RotationRule
from providers.simulator.state.books import Entry
from server.auth0.names import provider_of
from tests.auth0.application import CALLBACK, Application
from tests.support.harness import running_vault
from tests.support.rooms.portal_room import Room, query_of
from tests.support.simulator_apps import add_mode, family_settings

HOUR, DAY = 3600, 86400
FOREVER = 10**9

# What a refresh does to the refresh token. "unknown": undocumented, so the double assumes the worst case.
Refresh = Literal["keeps it", "adds another", "replaces it", "replaces it, reuse ends all", "unknown", "impossible"]


@dataclass(frozen=True)
class Habit:
    """How the service of a connection behaves. An empty separator: the app has the scopes, so none are requested."""

    connection: str
    provider: str
    life: int  # lifetime of an access token in seconds; FOREVER: until someone revokes it
    refresh: Refresh
    source: str
    separator: str = " "
    answered: str = " "  # the separator in answers, "array", or "absent"
    offline: tuple[str, str] | None = None  # the parameter and value that a refresh token requires
    says_life: bool = True
    ends_access: bool = False  # a refresh ends the previous access token

    def __str__(self) -> str:
        return f"{self.connection}{'' if self.refresh != 'impossible' else ' without refresh'}"


_GOOGLE = "developers.google.com/identity/protocols/oauth2/web-server"
_ENTRA = "learn.microsoft.com/entra/identity-platform: refresh-tokens, v2-oauth2-auth-code-flow"
_ROTATING = "docs.slack.dev/authentication/using-token-rotation"
_APP = "docs.github.com/apps: refreshing-user-access-tokens"
_OFFLINE = ("access_type", "offline")

HABITS = (
    Habit("google-oauth2", "google", HOUR, "keeps it", _GOOGLE, offline=_OFFLINE),
    Habit("google-apps", "google", HOUR, "keeps it", _GOOGLE, offline=_OFFLINE),
    Habit("windowslive", "microsoft", HOUR, "adds another", _ENTRA, offline=("scope", "offline_access")),
    Habit("waad", "microsoft", HOUR, "adds another", _ENTRA, offline=("scope", "offline_access")),
    Habit("github", "github", 8 * HOUR, "replaces it", _APP, "", "absent", ends_access=True),
    Habit("bitbucket", "bitbucket", 2 * HOUR, "unknown", "confluence.atlassian.com/bitbucket/oauth-endpoint", ""),
    Habit("slack", "slack", 12 * HOUR, "replaces it", _ROTATING, ",", ","),
    Habit("sign-in-with-slack", "slack", FOREVER, "impossible", _ROTATING + ": off", ",", ",", says_life=False),
    Habit("box", "box", HOUR, "replaces it", "developer.box.com/guides/authentication/tokens", answered="absent"),
    Habit("dropbox", "dropbox", 4 * HOUR, "keeps it", "dropbox.tech: using-oauth-2-0-with-offline-access",
          offline=("token_access_type", "offline")),
    Habit("basecamp", "basecamp", 14 * DAY, "keeps it", "github.com/basecamp/api: sections/authentication", ""),
    Habit("figma", "figma", HOUR, "keeps it", "Nango providers.yaml@2f4c0af671; arcticjs.dev", ",", ","),
    Habit("digitalocean", "digitalocean", 30 * DAY, "unknown", "docs.digitalocean.com/reference/api/oauth"),
    Habit("hugging-face", "hugging-face", HOUR, "unknown", "huggingface.co/docs/hub/oauth"),
    Habit("salesforce", "salesforce", 2 * HOUR, "replaces it, reuse ends all",
          "help.salesforce.com: remoteaccess_oauth_refresh_token_flow, with rotation",
          offline=("scope", "refresh_token"), says_life=False),
    Habit("amazon", "amazon", HOUR, "unknown", "developer.amazon.com/docs/login-with-amazon/access-token"),
    Habit("discord", "discord", 7 * DAY, "unknown", "discord/discord-api-docs: docs/topics/oauth2"),
    Habit("freshbooks", "freshbooks", 12 * HOUR, "replaces it, reuse ends all", "freshbooks.com/api/authentication"),
    Habit("paypal", "paypal", HOUR, "unknown", "developer.paypal.com/docs/api/identity/v1"),
    Habit("snapchat", "snapchat", HOUR, "unknown", "marketingapi.snapchat.com/docs"),
    Habit("spotify", "spotify", HOUR, "replaces it", "developer.spotify.com: refreshing-tokens"),
    Habit("stripe-connect", "stripe-connect", FOREVER, "impossible", "docs.stripe.com/connect/oauth-reference",
          says_life=False),
    Habit("tumblr", "tumblr", 2520, "unknown", "tumblr.com/docs/en/api/v2", offline=("scope", "offline_access")),
    Habit("twitch", "twitch", 14124, "unknown", "dev.twitch.tv/docs/authentication/refresh-tokens", answered="array"),
    Habit("twitter", "x", 2 * HOUR, "unknown", "docs.x.com: oauth-2-0/user-access-token",
          offline=("scope", "offline.access")),
    # Auth0's two generic connections: the operator names the provider.
    Habit("oauth2", "gitea", HOUR, "unknown", "docs.gitea.com/development/oauth2-provider"),
    Habit("oidc", "keycloak", 300, "unknown", "keycloak.org/docs/latest/server_admin",
          offline=("scope", "offline_access")),
    # Apps whose tokens don't expire: Auth0 can't store them.
    Habit("github", "github", FOREVER, "impossible", _APP + ": expiration off", "", "absent", says_life=False),
    Habit("classic-github", "github-oauth-app", FOREVER, "impossible", "docs.github.com/apps/oauth-apps", answered=",",
          says_life=False),
)  # fmt: skip
_APPROVED = frozenset({"read_write"})  # Stripe's: the person approves each refund, so no full token includes it
_OWN = {"oauth2": "gitea", "oidc": "keycloak", "classic-github": "github-oauth-app"}
_ROTATION: Mapping[Refresh, frozenset[RotationRule]] = {
    "keeps it": frozenset({RotationRule.NONE}),
    "adds another": frozenset({RotationRule.GRACE}),
    "replaces it": frozenset({RotationRule.STRICT}),
    "replaces it, reuse ends all": frozenset({RotationRule.REUSE_REVOKES_FAMILY}),
}


def mode_of_habit(habit: Habit) -> Mode:
    """The double's own description of the service."""
    return SERVED[mode_of(habit.provider) or ""]


def double(habit: Habit) -> Mode:
    """The simulated service: strictest rotation if none is documented, no refresh tokens if the app has none."""
    mode = mode_of_habit(habit)
    if habit.refresh == "unknown":
        mode = replace(mode, rules=mode.rules.model_copy(update={"rotation": RotationRule.REUSE_REVOKES_FAMILY}))
    if habit.refresh == "impossible":
        rules = mode.rules.model_copy(update={"access_lifetime": FOREVER, "refresh_idle": None})
        mode = replace(mode, rules=rules, has_refresh=False, shape=replace(mode.shape, expiry="absent"))
    return mode


def face(provider: str) -> str:
    return f"contract-{provider}"


def settings_of(simulator: Simulator, provider: Provider) -> SettingsSection:
    """The settings for `[providers.NAME]`; the provider file decides which URLs exist."""
    section = family_settings(simulator, face(provider.name), apis=provider.apis)
    if provider.hosts.revoke_url is None:
        del section["revoke_url"]
    if provider.identity.source != "endpoint":
        del section["userinfo_url"]
    return section


@pytest.fixture(scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[list[Application]]:
    """Three applications of one person, at a vault whose providers are all doubles."""
    catalog = load_catalog()
    async with running_simulator() as simulator, AsyncExitStack() as stack:
        for habit in HABITS:
            add_mode(simulator, face(habit.provider), double(habit))
        used = {habit.provider: catalog.provider(habit.provider) for habit in HABITS}
        vault = await stack.enter_async_context(
            running_vault(
                tmp_path_factory.mktemp("shop"),
                providers={name: settings_of(simulator, provider) for name, provider in used.items()},
                overrides={"auth0": {"enabled": True, "connections": _OWN}, "server": {"issuer_slash": True}},
            )
        )
        room = Room(vault, simulator, stack)
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=room.url, timeout=30, trust_env=False))
        released = {"auth0": True, "release": dict.fromkeys(used, "full")}
        made = [await Application.register(room, http, metadata=released)]
        clients = [(await Application.register(room, http, metadata=released)).client for _ in range(2)]
        made += [replace(made[0], client=client) for client in clients]
        for one in made:
            await one.sign_in()
        yield made


@contextmanager
def later(room: Room, seconds: int) -> Iterator[None]:
    """Move the clocks of the vault and of the service."""
    room.deployment.database.clock_offset += seconds
    room.simulator.advance(seconds)
    try:
        yield
    finally:
        room.deployment.database.clock_offset -= seconds
        room.simulator.advance(-seconds)


def refreshes(room: Room, habit: Habit) -> list[Entry]:
    """The refreshes that the service has seen so far."""
    return [one for one in room.simulator.books()["refreshes"] if one["face"] == f"families.{face(habit.provider)}"]


async def connect(application: Application, habit: Habit, wanted: list[str], token: str) -> dict[str, object]:
    """Connect from start to finish and check what the service is asked; return the account as the API shows it."""
    asked = {"connection": habit.connection, "redirect_uri": CALLBACK, "scopes": wanted}
    started = await application.me("POST", "connect", token=token, json=asked)
    assert started.status_code == 201, started.text
    content = started.json()
    page = await application.person.open(f"{content['connect_uri']}?ticket={content['connect_params']['ticket']}")
    answer = await application.person.submit(page, {"account": "new"}, form="/connect/", button=("decision", "allow"))
    url = answer.headers["location"]
    sent = query_of(url)
    scopes = sent.get(mode_of_habit(habit).scope_parameter, "")
    assert set(wanted) <= set(scopes.split(habit.separator)) if habit.separator else not scopes
    if habit.offline is not None:
        name, value = habit.offline
        assert value in sent[name].split()
    back = await application.person.open(await consent(url))
    body = {
        "auth_session": content["auth_session"],
        "connect_code": query_of(str(back.headers["location"]))["connect_code"],
        "redirect_uri": CALLBACK,
    }
    completed = await application.me("POST", "complete", token=token, json=body)
    assert completed.status_code == 201, completed.text
    account: dict[str, object] = completed.json()
    return account


async def exchange(application: Application, habit: Habit, wanted: list[str]) -> tuple[str, int]:
    """The account's token and its stated lifetime in seconds."""
    answer = await application.account_token({"connection": habit.connection})
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert set(content) == {"access_token", "scope", "expires_in", "issued_token_type", "token_type"}
    assert set(wanted) <= set(content["scope"].split()), "each scope is a word of its own, whatever the service says"
    assert isinstance(content["expires_in"], int)
    return content["access_token"], content["expires_in"]


async def is_alive(application: Application, habit: Habit, token: str) -> bool:
    """Whether the service accepts the token."""
    probe = f"{application.room.simulator.url}/families/{face(habit.provider)}/probe"
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        answer = await http.get(probe, headers={"Authorization": f"Bearer {token}"})
    return answer.status_code < 300


@pytest.mark.parametrize("habit", HABITS, ids=str)
def test_the_double_has_the_habits(habit: Habit) -> None:
    mode, expected = mode_of_habit(habit), double(habit)
    assert mode.scope_separator == (habit.separator or " ")
    assert (mode.fixed_scopes is not None) == (not habit.separator)
    assert (mode.shape.separator if mode.shape.scope == "text" else mode.shape.scope) == habit.answered
    assert expected.shape.expiry == ("seconds" if habit.says_life else "absent")
    assert expected.rules.access_lifetime == habit.life
    assert expected.has_refresh == (habit.refresh != "impossible")
    if habit.refresh != "impossible":
        offline = ("scope", mode.offline_scope) if mode.offline_scope else mode.offline_parameter
        assert offline == habit.offline
        assert mode.rules.refresh_ends_access == habit.ends_access
        assert mode.rotation_known == (habit.refresh != "unknown")
        assert habit.refresh == "unknown" or mode.rules.rotation in _ROTATION[habit.refresh]


def test_every_connection_of_auth0s_vault_is_here() -> None:
    assert len({habit.connection for habit in HABITS} - {"sign-in-with-slack", "classic-github"}) == 26


@pytest.mark.parametrize("habit", HABITS, ids=str)
async def test_an_account_is_connected_exchanged_renewed_and_ended(shop: list[Application], habit: Habit) -> None:
    application = shop[HABITS.index(habit) % 3]  # a person may get 30 links in ten minutes
    room = application.room
    add_mode(room.simulator, face(habit.provider), double(habit))
    provider = provider_of(room.deployment, habit.connection)
    assert provider is not None
    wanted = sorted(asked_of(provider) - _APPROVED)
    mine = await application.me_token()
    account = await connect(application, habit, wanted, mine)
    assert account["connection"] == habit.connection
    before = len(refreshes(room, habit))
    token, lives = await exchange(application, habit, wanted)
    assert await is_alive(application, habit, token)
    if habit.life < FOREVER:
        assert habit.life - 120 <= lives <= habit.life
        with later(room, habit.life + 60):
            second, _ = await exchange(application, habit, wanted)
            assert second != token
            assert await is_alive(application, habit, second)
            with later(room, habit.life + 60):
                third, _ = await exchange(application, habit, wanted)
                assert len({token, second, third}) == 3
                assert await is_alive(application, habit, third)
                seen = [(one["outcome"], one["token_generation"]) for one in refreshes(room, habit)[before:]]
                stays = habit.refresh == "keeps it"
                assert seen == ([("kept", 0), ("kept", 0)] if stays else [("rotated", 0), ("rotated", 1)])
    else:
        assert lives > 60
        with later(room, 20 * DAY):
            assert (await exchange(application, habit, wanted))[0] == token
        assert len(refreshes(room, habit)) == before
    assert (await application.me("DELETE", f"accounts/{account['id']}", token=mine)).status_code == 204


async def test_a_token_without_a_successor_is_told_as_not_connected_when_it_ends(shop: list[Application]) -> None:
    """Auth0 stores no account without a refresh token; here it works until its token expires."""
    application, habit = shop[2], next(one for one in HABITS if one.connection == "amazon")
    room = application.room
    add_mode(room.simulator, face(habit.provider), replace(double(habit), has_refresh=False))
    account = await connect(application, habit, ["profile"], await application.me_token())
    _, lives = await exchange(application, habit, ["profile"])
    assert HOUR - 120 <= lives <= HOUR
    assert "expires_at" in account
    with later(room, HOUR + 60):
        refused = await application.account_token({"connection": habit.connection})
        assert (refused.status_code, refused.json()["reason"]) == (401, "needs_reauth")
        assert refused.json()["error"] == "federated_connection_refresh_token_not_found"
        assert refused.json()["connect_uri"]
    add_mode(room.simulator, face(habit.provider), double(habit))
    assert "expires_at" not in await connect(application, habit, ["profile"], await application.me_token())
    with later(room, HOUR + 60):
        await exchange(application, habit, ["profile"])
