"""`providers setup`: what it prints, asks, writes, refuses, and undoes; and that the vault works afterward."""

from __future__ import annotations

import asyncio
import json
import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.simulator.local_server import running_simulator
from server.app import open_deployment
from server.lifecycle.address_change import notice_move
from server.settings import load_settings
from server.setup.provider_consoles import id_problem, secret_problem, service_of
from server.setup.settings_file import ConfigFileRefused, with_values
from tests.support.commands import content, run, run_on_terminal
from tests.support.processes import Place, free_port

SLACK_ID, GOOGLE_ID = "1234567890.9876543210", "1234-abcd.apps.googleusercontent.com"
SECRET = "GOCSPX-a-secret-of-the-test"


def config(place: Place) -> Path:
    return place.data / "config.toml"


def set_public_url(place: Place, url: str) -> None:
    config(place).write_text(f'[server]\nport = {place.port}\npublic_url = "{url}"\n', encoding="utf-8")


async def google(place: Place, *more: str) -> dict[str, object]:
    words = ("providers", "setup", "google", "--client-id", GOOGLE_ID, "--client-secret-stdin", *more)
    found = await content(place, *words, feed=SECRET + "\n")
    assert isinstance(found, dict)
    return found


async def test_slack_on_this_machine_is_an_app_without_a_secret(place: Place) -> None:
    shown = await run(place, "providers", "setup", "slack", "--show")
    manifest = json.loads(shown.stdout[shown.stdout.index("{") : shown.stdout.rindex("}") + 1])
    assert manifest["oauth_config"]["redirect_urls"] == [f"{place.url}/connect/callback/slack"]
    assert set(manifest["oauth_config"]["scopes"]["user"]) >= {"channels:history", "channels:read", "chat:write"}
    assert manifest["settings"]["token_rotation_enabled"] is True
    for said in (
        "can't turn token rotation off",
        "can turn PKCE off again",
        "30 days",
        "turn on PKCE",
        "has no secret",
    ):
        assert said in shown.stdout, said
    written = await content(place, "providers", "setup", "slack", "--client-id", SLACK_ID)
    assert isinstance(written, dict)
    assert (written["client"], written["secret_file"]) == ("public", None)
    assert not (place.data / "slack.secret").exists()
    async with open_deployment(load_settings(data=place.data), data=place.data) as deployment:
        assert deployment.vault.upstreams["slack"].is_configured
        assert deployment.vault.policies["slack"].grant_lifetime == 30 * 86400


async def test_slack_behind_https_is_an_app_with_a_secret(place: Place) -> None:
    set_public_url(place, "https://vault.example.com")
    shown = await content(place, "providers", "setup", "slack", "--show")
    assert isinstance(shown, dict)
    assert shown["redirect_uri"] == "https://vault.example.com/connect/callback/slack"
    assert shown["client"] == "confidential"
    assert "PKCE off" in " ".join(shown["steps"]) and "30 days" not in " ".join(shown["warnings"])
    words = ("providers", "setup", "slack", "--client-id", SLACK_ID, "--client-secret-stdin")
    await content(place, *words, feed="0123456789abcdef\n")
    async with open_deployment(load_settings(data=place.data), data=place.data) as deployment:
        provider = deployment.catalog.provider("slack")
        assert (provider.pkce, provider.client_auth) == ("off", "client_secret_basic")
        assert provider.registration.client_secret == "0123456789abcdef"
        assert deployment.vault.policies["slack"].grant_lifetime is None


async def test_google_names_every_step_and_ends_in_seven_days_until_it_is_published(place: Place) -> None:
    shown = await run(place, "providers", "setup", "google", "--show")
    for said in ("Google Calendar API", "consent screen", "Test users", "Web application", "7 days", "--published"):
        assert said in shown.stdout, said
    assert f"Authorized redirect URIs: {place.url}/connect/callback/google" in shown.stdout
    assert "Do the same for mail with Gmail API. Do the same for files with Google Drive API." in shown.stdout
    lines = {line.split(":")[0].strip(): line for line in shown.stdout.splitlines() if "/auth/" in line}
    assert set(lines) == {"calendar", "mail", "files"}
    tools = await content(place, "tools", "list")
    needed = {scope for tool in tools if tool["provider"] == "google" for scope in tool["scopes"]}
    assert {word for line in lines.values() for word in line.split()[1:]} == needed
    assert not (place.data / "google.secret").exists()
    for more, lifetime in (((), 7 * 86400), (("--published",), None)):
        await google(place, *more)
        async with open_deployment(load_settings(data=place.data), data=place.data) as deployment:
            assert deployment.vault.policies["google"].grant_lifetime == lifetime
            assert deployment.catalog.provider("google").params.authorize["access_type"] == "offline"


async def test_a_host_that_google_does_not_take_is_named(place: Place) -> None:
    for url, warned in (("https://vault.internal", True), ("https://vault.example.com", False)):
        set_public_url(place, url)
        shown = await content(place, "providers", "setup", "google", "--show")
        assert isinstance(shown, dict)
        assert any("public domain name only" in warning for warning in shown["warnings"]) is warned


async def test_the_secret_is_in_a_file_of_its_own_and_nowhere_else(place: Place) -> None:
    found = await google(place)
    secret = place.data / "google.secret"
    assert found["secret_file"] == str(secret)
    assert secret.read_text(encoding="utf-8").strip() == SECRET
    for path in (secret, config(place)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SECRET not in json.dumps(found)
    assert SECRET not in config(place).read_text(encoding="utf-8")
    result = await run(
        place, "providers", "setup", "google", "--client-id", GOOGLE_ID, "--client-secret-stdin", feed=SECRET
    )
    assert result.exit_code == 0
    assert SECRET not in result.output


async def test_what_stands_in_the_settings_file_stays_and_undo_puts_it_back(place: Place) -> None:
    before = (
        f'# mine\n[server]\nport = {place.port}  # mine too\n\n[providers.google]\n# old\nclient_id = "old"\n'
        'client_secret = "inline"\napis = { calendar = "https://www.googleapis.com/calendar/v3" }\n\n[tokens]\n'
        "access_lifetime = 600\n"
    )
    config(place).write_text(before, encoding="utf-8")
    await google(place)
    after = config(place).read_text(encoding="utf-8")
    for line in ("# mine", f"port = {place.port}  # mine too", "# old", "access_lifetime = 600"):
        assert line in after.splitlines()
    section = tomllib.loads(after)["providers"]["google"]
    assert section == {
        "client_id": GOOGLE_ID,
        "client_secret_file": str(place.data / "google.secret"),
        "testing": True,
        "apis": {"calendar": "https://www.googleapis.com/calendar/v3"},
    }
    await google(place, "--published")
    undone = await run(place, "providers", "setup", "google", "--undo")
    assert undone.exit_code == 0
    assert config(place).read_text(encoding="utf-8") == before
    assert not [path.name for path in place.data.iterdir() if "google" in path.name]
    again = await run(place, "providers", "setup", "google", "--undo")
    assert again.exit_code == 1
    assert "no setup of google to undo" in again.stderr


async def test_undo_leaves_alone_what_was_written_later(place: Place) -> None:
    await google(place)
    config(place).write_text(
        config(place).read_text(encoding="utf-8") + "[tokens]\naccess_lifetime = 600\n", encoding="utf-8"
    )
    assert (await run(place, "providers", "setup", "google", "--undo")).exit_code == 0
    found = tomllib.loads(config(place).read_text(encoding="utf-8"))
    assert found["tokens"] == {"access_lifetime": 600}
    assert not found.get("providers", {}).get("google")


async def test_undo_of_the_first_settings_file_removes_it(place: Place) -> None:
    config(place).unlink()
    await google(place)
    assert (await run(place, "providers", "setup", "google", "--undo")).exit_code == 0
    assert not config(place).exists()


@pytest.mark.parametrize(
    ("words", "feed", "said"),
    [
        (("google", "--client-id", SECRET, "--client-secret-stdin"), SECRET, "that's Google's client secret"),
        (("google", "--client-id", GOOGLE_ID, "--client-secret-stdin"), GOOGLE_ID, "that's Google's client ID"),
        (("google", "--client-id", GOOGLE_ID, "--client-secret-stdin"), "", "the client secret is empty"),
        (
            ("google", "--client-id", "two words", "--client-secret-stdin"),
            SECRET,
            "the client ID is empty or contains spaces",
        ),
        (("google", "--client-id", GOOGLE_ID), "", "--client-secret-stdin"),
        (("slack", "--client-id", "xoxe.xoxp-1"), "", "that's a Slack token"),
        (("slack", "--client-id", "A0123456789"), "", "the App ID begins with A0"),
        (("slack", "--client-id", SLACK_ID, "--client-secret-stdin"), SECRET, "takes no secret on loopback"),
        (("slack",), "", "can't ask without a terminal; pass --client-id"),
        (("nobody",), "", "no provider 'nobody'"),
    ],
)
async def test_a_mistake_is_named_and_nothing_is_written(
    place: Place, words: tuple[str, ...], feed: str, said: str
) -> None:
    before = config(place).read_bytes()
    refused = await run(place, "providers", "setup", *words, feed=feed)
    assert refused.exit_code == 1
    assert said in " ".join(refused.stderr.split())
    assert SECRET not in refused.output
    assert config(place).read_bytes() == before
    assert not list(place.data.glob("*.secret"))


async def test_a_variable_that_wins_over_the_file_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = await run(place, "providers", "setup", "slack", "--client-id", SLACK_ID)
    monkeypatch.setenv("TOKEN_VAULT_PROVIDERS__SLACK__CLIENT_ID", "other")
    warned = await run(place, "providers", "setup", "slack", "--client-id", SLACK_ID)
    assert "overrides the settings file" in warned.stderr
    assert "overrides the settings file" not in quiet.stderr


async def test_a_person_at_a_terminal_is_asked_and_the_secret_is_not_shown(place: Place) -> None:
    answers = [("Client ID", GOOGLE_ID), ("Client secret", SECRET)]
    code, screen = await run_on_terminal(place, "providers", "setup", "google", answers=answers)
    assert (code, "token-vault connections connect google" in screen) == (0, True), screen
    assert SECRET not in screen
    assert (place.data / "google.secret").read_text(encoding="utf-8").strip() == SECRET


def test_a_file_that_cannot_be_changed_safely_is_refused_with_what_to_write() -> None:
    for text in ("providers = 3\n", '[[providers]]\nslack = "x"\n', "[providers]\nslack = true\n"):
        with pytest.raises(ConfigFileRefused, match=r'add client_id = "new" to \[providers.slack\]'):
            with_values(text, SLACK, {"client_id": "new"})
        with pytest.raises(ConfigFileRefused, match=r"remove client_id from \[providers.slack\]"):
            with_values(text, SLACK, {"client_id": None})
    with pytest.raises(ConfigFileRefused, match="isn't valid TOML"):
        with_values("[server\n", SLACK, {"client_id": "new"})
    assert with_values("", SLACK, {"client_id": "new"}) == '[providers.slack]\nclient_id = "new"\n'


SLACK = ("providers", "slack")
ADDED = '\n[providers.slack]\nclient_id = "new"\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '# a\n[providers.slack] # b\n# c\nclient_id = "old"  # d\nkeep = 1\n\n# of tokens\n[tokens]\nx = 1 # e\n',
            '# a\n[providers.slack] # b\n# c\nclient_id = "new"  # d\nkeep = 1\n\n# of tokens\n[tokens]\nx = 1 # e\n',
        ),
        (
            "[providers.slack]\nkeep = 1 # d\n\n# of tokens\n[tokens]\nx = 1\n",
            '[providers.slack]\nkeep = 1 # d\nclient_id = "new"\n\n# of tokens\n[tokens]\nx = 1\n',
        ),
        ("providers = { slack = { client_id = 'x' } } # a\n", 'providers = { slack = { client_id = "new" } } # a\n'),
        ('[providers]\nslack.client_id = "x" # a\n', '[providers]\nslack.client_id = "new" # a\n'),
        ('providers.slack.client_id="x" # a\n[s]\n', 'providers.slack.client_id="new" # a\n[s]\n'),
        ("[providers.a]\nx=1\n[server]\ny=1\n[providers.b]\nz=1\n",) * 2,
        ("[providers]\n\n[tokens]\nx = [\n  1, # one\n]\n",) * 2,
        ("x = 1",) * 2,
        ('[providers . "slack"]\n"client_id" = "x"\n', '[providers . "slack"]\n"client_id" = "new"\n'),
    ],
)
def test_comments_order_and_spacing_of_a_settings_file_survive_a_change(before: str, after: str) -> None:
    if after == before:  # a missing table is added at the end
        after = before + ADDED if before.endswith("\n") else f"{before}\n{ADDED}"
    changed = with_values(before, SLACK, {"client_id": "new", "client_secret": None})
    assert changed == after
    assert with_values(changed, SLACK, {"client_id": "new", "client_secret": None}) == changed
    gone = tomllib.loads(with_values(changed, SLACK, {"client_id": None})).get("providers", {}).get("slack", {})
    assert "client_id" not in gone
    windows = with_values(before.replace("\n", "\r\n"), SLACK, {"client_id": "new"})
    assert windows == (after.replace("\n", "\r\n") if "\n" in before else after)


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=40))
def test_any_value_is_read_back_as_it_was_written(value: str) -> None:
    text = with_values("[a]\nb = 1\n", ("providers", "slack"), {"client_id": value, "testing": True})
    assert tomllib.loads(text) == {"a": {"b": 1}, "providers": {"slack": {"client_id": value, "testing": True}}}
    assert tomllib.loads(with_values(text, ("providers", "slack"), {"client_id": None, "testing": None}))["a"] == {
        "b": 1
    }


async def test_a_changed_public_url_is_said_once_with_the_new_redirects(place: Place) -> None:
    async def start() -> str | None:
        async with open_deployment(load_settings(data=place.data), data=place.data) as deployment:
            return notice_move(deployment)

    assert await start() is None
    set_public_url(place, "https://one.example.com")
    assert await start() is None  # nobody outside uses the old URL
    await google(place)
    assert await start() is None
    moved = config(place).read_text(encoding="utf-8").replace("one.example.com", "two.example.com")
    config(place).write_text(moved, encoding="utf-8")
    line = await start()
    assert line is not None and "\n" not in line
    assert "changed from https://one.example.com to https://two.example.com. Update the redirect URL at" in line
    assert "Google to https://two.example.com/connect/callback/google" in line
    assert "Slack" not in line
    assert await start() is None


async def test_the_program_says_at_start_that_the_public_url_changed(place: Place) -> None:
    async with running_simulator() as simulator:
        place.configure({"providers": {"slack": simulator.slack_settings()}})
        async with place.serve():
            pass
        text = config(place).read_text(encoding="utf-8")
        other = Place(place.data, free_port())
        config(place).write_text(text.replace(str(place.port), str(other.port)), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *other.arguments("serve"), env=other.environment(), stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        lines: list[str] = []
        async with asyncio.timeout(30):
            while not any("MCP " in line for line in lines):
                lines.append((await process.stderr.readline()).decode())
            process.terminate()
            await process.wait()
        assert any(f"Update the redirect URL at Slack to {other.url}/connect/callback/slack." in line for line in lines)


async def test_a_service_that_only_its_file_describes_is_set_up_with_its_inputs(place: Place) -> None:
    shown = await run(place, "providers", "setup", "zendesk", "--show")
    assert f"Redirect URLs: {place.url}/connect/callback/zendesk" in shown.stdout
    before = config(place).read_text(encoding="utf-8")
    words = ("providers", "setup", "zendesk", "--client-id", "ours", "--client-secret-stdin")
    missing = await run(place, *words, feed="a-secret\n")
    assert missing.exit_code == 1 and "inputs.subdomain: missing" in missing.stderr
    for wrong in ("subdomain=acme.evil.example/x", "subdomain", "town=x"):
        assert (await run(place, *words, "--input", wrong, feed="a-secret\n")).exit_code == 1
    assert config(place).read_text(encoding="utf-8") == before
    await content(place, *words, "--input", "subdomain=acme", feed="a-secret\n")
    section = tomllib.loads(config(place).read_text(encoding="utf-8"))["providers"]["zendesk"]
    assert (section["client_id"], section["inputs"]) == ("ours", {"subdomain": "acme"})
    async with open_deployment(load_settings(data=place.data), data=place.data) as deployment:
        zendesk = deployment.catalog.provider("zendesk")
        assert zendesk.hosts.token_url == "https://acme.zendesk.com/oauth/tokens"
        assert zendesk.name in deployment.catalog.names and deployment.vault.upstreams["zendesk"].is_configured
    config(place).write_text(config(place).read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    assert (await run(place, "providers", "setup", "zendesk", "--undo")).exit_code == 0
    after = config(place).read_text(encoding="utf-8")
    assert "# mine" in after and not tomllib.loads(after).get("providers", {}).get("zendesk", {}).get("client_id")
    assert "acme" not in after


async def test_an_alias_is_set_up_as_its_provider(place: Place) -> None:
    shown = await content(place, "providers", "setup", "gmail", "--show")
    assert isinstance(shown, dict)
    assert shown["redirect_uri"].endswith("/connect/callback/google")


async def test_an_app_without_a_secret_is_asked_for_none(place: Place) -> None:
    made = await content(place, "providers", "setup", "posthog", "--client-id", "ours")
    assert isinstance(made, dict)
    assert (made["client"], made["secret_file"]) == ("public", None)


UUID = "11111111-2222-3333-4444-555555555555"


@pytest.mark.parametrize(
    ("service", "client_id", "said"),
    [
        ("slack", GOOGLE_ID, "a client ID of Google"),
        ("airtable", GOOGLE_ID, "a client ID of Google"),
        ("google", SLACK_ID, "a client ID of Slack"),
        ("google", "1234-abcd", "ends in .apps.googleusercontent.com"),
        ("github", "1234567", "the App ID is a number"),
        ("github", "ghp_0123456789", "a GitHub token"),
        ("microsoft", "Token Vault", "contains spaces"),
        ("microsoft", "token-vault", "Application (client) ID"),
        ("square", "sq0csp-0123456789", "Square's application secret"),
        ("slack", "A0123456789", "the App ID begins with A0"),
        ("slack", SLACK_ID, None),
        ("google", GOOGLE_ID, None),
        ("github", "Iv1.0123456789abcdef", None),
        ("github", "Ov23li0123456789abcd", None),
        ("github", "0123456789abcdef0123", None),
        ("microsoft", UUID, None),
        ("square", "sq0idp-0123456789abcdefghij", None),
        ("airtable", UUID, None),
        ("", GOOGLE_ID, None),
    ],
)
def test_the_shape_of_a_client_id_is_checked_where_it_is_known(service: str, client_id: str, said: str | None) -> None:
    problem = id_problem(service, client_id)
    assert problem is None if said is None else problem is not None and said in problem


@pytest.mark.parametrize(
    ("service", "secret", "said"),
    [
        ("google", GOOGLE_ID, "Google's client ID"),
        ("slack", SECRET, "Google's client secret"),
        ("microsoft", UUID, "the Secret ID"),
        ("slack", SLACK_ID, "the client ID again"),
        ("github", "ghp_0123456789", "a GitHub token"),
        ("google", SECRET, None),
        ("", SECRET, None),
        ("microsoft", "a~Value.of-the_secret", None),
        ("square", "sq0csp-0123456789", None),
    ],
)
def test_the_shape_of_a_client_secret_is_checked_where_it_is_known(service: str, secret: str, said: str | None) -> None:
    problem = secret_problem(secret, service=service, client_id=SLACK_ID)
    assert problem is None if said is None else problem is not None and said in problem


def test_the_service_is_known_by_its_token_endpoint() -> None:
    token_url = "https://oauth2.googleapis.com/token"
    assert service_of("google-of-the-company", token_url=token_url, ships=False) == "google"
    assert service_of("airtable", token_url="https://airtable.com/oauth2/v1/token", ships=True) == "airtable"
    assert service_of("mine", token_url="https://id.example/token", ships=False) == ""


async def test_a_bad_entry_is_asked_for_again(place: Place) -> None:
    code, seen = await run_on_terminal(
        place,
        "providers",
        "setup",
        "google",
        answers=[
            ("Client ID", SLACK_ID),
            ("Client ID", GOOGLE_ID),
            ("Client secret", GOOGLE_ID),
            ("Client secret", SECRET),
        ],
    )
    assert code == 0, seen
    assert "That's a client ID of Slack; copy the one of this service's app." in seen
    assert "That's Google's client ID; copy the client secret." in seen
    assert SECRET not in seen
    assert (place.data / "google.secret").read_text(encoding="utf-8").strip() == SECRET


@pytest.mark.parametrize("name", ["github", "microsoft", "dropbox", "box", "square"])
async def test_a_setup_names_the_console_and_where_the_redirect_url_goes(place: Place, name: str) -> None:
    more = ("--input", "tenant=common") if name == "microsoft" else ()
    shown = await content(place, "providers", "setup", name, "--show", *more)
    assert isinstance(shown, dict)
    steps = list(shown["steps"])
    assert steps[0].startswith("Open https://")
    assert any(str(shown["redirect_uri"]) in step for step in steps)
