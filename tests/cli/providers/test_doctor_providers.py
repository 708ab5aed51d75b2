"""What `doctor` finds about providers: client, redirect URL, scopes, https, and who may sign in."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from providers.simulator.accounts import CLIENT_ID, CLIENT_SECRET, PUBLIC_CLIENT_ID
from providers.simulator.local_server import Simulator
from tests.support.doctor_places import assert_problem, configure, examine, section_of, slack, stranger_on_port
from tests.support.processes import Place, free_port
from tests.support.rooms.mcp_room import Room, room


async def test_a_providers_clock_that_is_off(place: Place, simulator: Simulator) -> None:
    port = free_port()
    configure(place, *slack(simulator, token_url=f"http://127.0.0.1:{port}/token"))
    (place.data / "config.toml").chmod(0o600)
    refusal = {"ok": False, "error": "invalid_code"}
    async with stranger_on_port(port, "200 OK", refusal, "Date: Mon, 01 Jan 2024 00:00:00 GMT"):
        assert_problem(await examine(place, fails=True), "clock", "Slack", "NTP")
    async with stranger_on_port(port, "200 OK", refusal):
        assert (await examine(place))["clock"]["verdict"] == "ok"


@pytest.mark.parametrize("change", [{"client_secret": "wrong"}, {"client_id": "nobody"}])
async def test_a_client_id_or_secret_that_is_refused(
    place: Place, simulator: Simulator, change: dict[str, str]
) -> None:
    configure(place, *slack(simulator, **change))
    (place.data / "config.toml").chmod(0o600)
    before = len(simulator.books()["redemptions"])
    assert_problem(await examine(place, fails=True), "slack.client", "rejects", "token-vault providers setup slack")
    configure(place, *slack(simulator))
    assert (await examine(place))["slack.client"]["verdict"] == "ok"
    assert not [one for one in simulator.books()["redemptions"][before:] if one.get("outcome") == "ok"]


async def test_a_google_client_that_is_refused(place: Place, simulator: Simulator) -> None:
    configure(place, *section_of("google", {**simulator.google_settings(), "client_secret": "wrong"}))
    (place.data / "config.toml").chmod(0o600)
    assert_problem(await examine(place, fails=True), "google.client", "invalid_client")


@pytest.mark.parametrize("provider", ["slack", "google"])
async def test_a_redirect_address_that_is_not_registered_there(
    place: Place, simulator: Simulator, provider: str
) -> None:
    redirect = f"{place.url}/connect/callback/{provider}"
    configure(place, *section_of(provider, simulator.settings()[provider]))
    (place.data / "config.toml").chmod(0o600)
    simulator.control("client", redirect_uris=[f"{place.url}/connect/callback"])
    found = await examine(place, fails=True)
    assert_problem(found, f"{provider}.redirect", "doesn't know our redirect", f"exactly {redirect}", "--show")
    assert found[f"{provider}.client"]["verdict"] == "ok"
    simulator.control("client", redirect_uris=[redirect])
    assert (await examine(place))[f"{provider}.redirect"]["verdict"] == "ok"
    simulator.control("client", redirect_uris=None)


async def test_user_scopes_that_the_app_there_does_not_have(place: Place, simulator: Simulator) -> None:
    one = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    configure(place, *slack(simulator))
    (place.data / "config.toml").chmod(0o600)
    simulator.control("app", **one, user_scopes=["channels:read", "channels:history"])
    found = await examine(place, fails=True)
    assert_problem(
        found,
        "slack.scopes",
        "invalid_scope_requested",
        "user scopes to the app at Slack: channels:history channels:read",
    )
    simulator.control("app", **one, user_scopes=["channels:read", "channels:history", "chat:write"])
    some = (await examine(place))["slack.scopes"]
    assert (some["verdict"], "skip those tools" in some["fix"]) == ("note", True)
    assert "chat:write" not in some["fix"]
    simulator.control("app", **one)
    assert "slack.scopes" not in await examine(place)


@pytest.mark.parametrize(
    ("status", "body", "location", "check"),
    [
        ("200 OK", "redirect_uri did not match any configured URIs. Passed URI: x", "", "slack.redirect"),
        ("200 OK", "Unable to install. Invalid requested permissions.", "", "slack.scopes"),
        ("200 OK", "a sign-in page; its script knows invalid_scope and bad_redirect_uri", "", None),
        ("403 Forbidden", "invalid_team_for_non_distributed_app", "", "slack.authorize"),
        ("403 Forbidden", "something_new", "", None),
        (
            "302 Found",
            "",
            "https://there.example/signin/oauth/error?authError=ChVyZWRpcmVjdF91cmlfbWlzbWF0Y2g",
            "slack.redirect",
        ),
        ("302 Found", "", "https://there.example/signin/oauth/error?authError=Cg5kZWxldGVkX2NsaWVudBI", "slack.client"),
        ("302 Found", "", "https://there.example/signin/oauth/error?authError=%FF%FF", None),
        ("302 Found", "", "http://localhost/cb?error=invalid_scope", "slack.scopes"),
        ("302 Found", "", "https://there.example/v3/signin/identifier?client_id=x", None),
    ],
)
async def test_what_an_authorization_page_says_before_anybody_signs_in(
    place: Place, simulator: Simulator, *, status: str, body: str, location: str, check: str | None
) -> None:
    port = free_port()
    configure(place, *slack(simulator, authorize_url=f"http://127.0.0.1:{port}/authorize"))
    (place.data / "config.toml").chmod(0o600)
    headers = (f"Location: {location}",) if location else ()
    async with stranger_on_port(port, status, body, *headers):
        found = await examine(place, fails=check is not None)
    if check is not None:
        assert found[check]["verdict"] == "problem", found
    assert "/connect/callback/slack" in found["slack.redirect"]["sentence"] + (found["slack.redirect"]["fix"] or "")


async def test_a_provider_on_this_machine_needs_the_sandboxs_switch(place: Place, simulator: Simulator) -> None:
    lines = [line for line in slack(simulator) if "loopback_upstreams" not in line]
    configure(place, *lines)
    (place.data / "config.toml").chmod(0o600)
    found = await examine(place, fails=True)
    assert_problem(found, "slack.client", "doesn't connect to")
    assert "sandbox.loopback_upstreams = true" in (found["slack.client"]["fix"] or "")


async def test_a_provider_that_does_not_answer(place: Place, simulator: Simulator) -> None:
    configure(place, *slack(simulator, token_url=f"http://127.0.0.1:{free_port()}/token"))
    (place.data / "config.toml").chmod(0o600)
    assert_problem(
        await examine(place, fails=True), "slack.client", "doesn't answer", "correct providers.slack.token_url"
    )


@pytest.mark.parametrize(
    ("status", "code", "verdict", "word"),
    [
        ("200 OK", "bad_redirect_uri", "problem", "/connect/callback/slack"),
        ("200 OK", "something_new", "note", "something_new"),
        ("503 Busy", "", "note", "again"),
        ("200 OK", "invalid_code", "ok", "accepts"),
        ("200 OK", "bad_verification_code", "ok", "accepts"),  # GitHub
    ],
)
async def test_what_a_provider_answers_to_a_code_that_does_not_exist(
    place: Place, simulator: Simulator, *, status: str, code: str, verdict: str, word: str
) -> None:
    port = free_port()
    configure(place, *slack(simulator, token_url=f"http://127.0.0.1:{port}/token"))
    (place.data / "config.toml").chmod(0o600)
    async with stranger_on_port(port, status, {"ok": False, "error": code}):
        found = await examine(place, fails=verdict == "problem")
    assert found["slack.client"]["verdict"] == verdict
    assert word in found["slack.client"]["sentence"] + (found["slack.client"]["fix"] or "")


async def test_a_provider_without_a_client_id_is_no_mistake(place: Place) -> None:
    configure(place, "[providers.slack]", 'scopes = ["chat:write"]')
    found = await examine(place)
    assert found["slack.client"]["verdict"] == "note"
    assert "providers setup slack" in found["slack.client"]["fix"]


async def test_https_where_the_provider_demands_it(place: Place, simulator: Simulator) -> None:
    def at(host: str) -> list[str]:
        return [line.replace(simulator.url, host) for line in slack(simulator)]

    live = at("https://slack.invalid")  # a name that never resolves (RFC 6761), so nothing can be sent
    configure(place, *live)
    (place.data / "config.toml").chmod(0o600)
    assert_problem(await examine(place, fails=True), "slack.https", "https redirect", "server.public_url")
    configure(place, *[line for line in live if not line.startswith("client_secret")])
    assert "slack.https" not in await examine(place, fails=True)  # an app with PKCE may redirect to loopback
    configure(place, *slack(simulator))
    assert "slack.https" not in await examine(place)


async def test_an_app_without_a_secret_is_known_by_its_id(place: Place, simulator: Simulator) -> None:
    public = slack(simulator, client_id=PUBLIC_CLIENT_ID)
    configure(place, *[line for line in public if not line.startswith("client_secret")])
    found = await examine(place)
    assert found["slack.client"]["verdict"] == "ok"
    assert "secret" not in found["slack.client"]["sentence"]


async def test_scopes_that_the_operator_did_not_enable(place: Place, simulator: Simulator) -> None:
    configure(place, *slack(simulator, scopes=["channels:read", "channels:history"]))
    (place.data / "config.toml").chmod(0o600)
    assert_problem(
        await examine(place, fails=True), "slack.scopes", "slack_post", "chat:write", "providers.slack.scopes"
    )
    configure(place, *slack(simulator, scopes=["channels:read", "channels:history", "chat:write"]))
    narrowed = (await examine(place))["slack.scopes"]  # only needed by further tools, which an operator may not want
    assert (narrowed["verdict"], "slack_post" in narrowed["sentence"]) == ("note", False)
    configure(place, *slack(simulator))
    assert "slack.scopes" not in await examine(place)


async def test_scopes_that_an_account_did_not_get(tmp_path: Path) -> None:
    async with room(tmp_path / "data") as healthy:
        place = Place(tmp_path / "data", urlsplit(healthy.url).port or 0)
        place.configure({"providers": healthy.simulator.settings()})
        (place.data / "config.toml").chmod(0o600)
        agent = await healthy.agent()
        await healthy.connect(agent, "slack", scopes=frozenset({"channels:read"}))
        found = await examine(place)
        assert found["slack.scopes"]["verdict"] == "note"
        assert "chat:write" in found["slack.scopes"]["sentence"]
        assert " others have" not in found["slack.scopes"]["sentence"]
        for number in range(3):  # one finding covers all accounts that lack the same scopes
            await insert_connection(healthy, f"account-{number}", scopes="channels:read")
        await insert_connection(healthy, "full", scopes="channels:history channels:read chat:write users:read")
        assert " and 3 others have not granted " in (await examine(place))["slack.scopes"]["sentence"]


async def insert_connection(room: Room, account: str, *, scopes: str) -> None:
    async with room.vault.deployment.transaction() as transaction:
        await transaction.execute(
            "insert into connections (tenant, id, user_id, provider, account, label, scopes, state, generation, "
            "metadata, created_at) values ('default', :id, 'u', 'slack', :id, :id, :scopes, 'active', 1, '{}', 1)",
            {"id": account, "scopes": scopes},
        )


async def test_a_provider_file_that_is_wrong(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "providers"
    folder.mkdir()
    (folder / "bad.toml").write_text('name = "bad"\n')
    (place.data / "config.toml").write_text(f'provider_folders = ["{folder}"]\n[server]\nport = {place.port}\n')
    assert_problem(await examine(place, fails=True), "providers", "bad.toml", "providers check")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("create_users = true", ("everyone with an account at https://id.example", "token-vault users link")),
        ("", ("only linked users", "isn't set")),
        ("create_users = false", None),
    ],
)
async def test_whom_a_provider_of_sign_in_lets_in(place: Place, said: str, words: tuple[str, ...] | None) -> None:
    configure(place, "[sign_in.openid.company]", 'issuer = "https://id.example"', 'client_id = "vault"', said)
    found = await examine(place)
    if words is None:
        assert "sign_in" not in found
        return
    assert found["sign_in"]["verdict"] == "note"
    for word in words:
        assert word in found["sign_in"]["sentence"] + found["sign_in"]["fix"]


async def test_an_address_that_cannot_be_is_blamed_on_its_own_setting(place: Place) -> None:
    configure(place, "[providers.slack]", 'client_id = "1"', 'token_url = "http://slack.example/token"')
    (place.data / "config.toml").chmod(0o600)
    found = await examine(place, fails=True)
    assert_problem(found, "providers", "not https", "correct providers.slack.token_url")
