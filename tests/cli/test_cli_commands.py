"""The command line: what each command does and prints, as text and as JSON, and its refusals."""

from __future__ import annotations

import asyncio
import json
import keyword
import re
import shutil
import stat
from pathlib import Path

import httpx2
import pytest
import typer
from typer.testing import CliRunner

from providers.definitions.catalog import SHELF
from server.app import open_deployment
from server.cli import app
from server.settings import load_settings
from tests.support.accounts import open_account
from tests.support.commands import content, run, run_on_terminal
from tests.support.person import Person
from tests.support.processes import PROGRAM, Place, free_port
from vault import users
from vault.refresh import leases
from vault.upstream import Account, TokenAnswer

STORY = ("one refresh at Slack", "without any prompt", "The next call reports it", "connection.closed")
PASSWORD = "a long enough password for this test"


def test_a_command_is_found_by_its_first_word() -> None:
    """`token-vault apis add` is in server/commands/apis.py; `providers test` in server/commands/providers/test.py."""
    root = typer.main.get_command(app)
    found: dict[str, str] = {}

    def walk(group: object, words: tuple[str, ...]) -> None:
        for name, one in getattr(group, "commands", {}).items():
            walk(one, (*words, name.replace("-", "_")))
        if not hasattr(group, "commands"):
            found[" ".join(words)] = getattr(group, "callback").__module__  # noqa: B009 -- click's type is private

    walk(root, ())
    assert len(found) > 40
    for command, module in found.items():
        first = command.split()[0]
        place = f"server.commands.{first}{'_' if keyword.iskeyword(first) else ''}"
        assert module == place or module.startswith(f"{place}."), command


async def test_users_are_added_listed_disabled_enabled_and_removed(place: Place) -> None:
    added = await content(place, "users", "add", "alice", "--admin", "--password-stdin", feed=PASSWORD + "\n")
    assert added["admin"]
    assert "password" not in json.dumps(added)
    for command, disabled in (("disable", True), ("enable", False)):
        changed = await content(place, "users", command, "alice")
        assert (changed["disabled_at"] is not None) is disabled
    table = await run(place, "users", "list")
    assert "alice" in table.stdout
    await content(place, "users", "remove", "alice")
    assert await content(place, "users", "list") == []


async def test_a_weak_password_and_a_taken_name_are_refused_in_one_line(place: Place) -> None:
    await content(place, "users", "add", "alice", "--password-stdin", feed=PASSWORD + "\n")
    for name, password in (("bob", "short"), ("alice", PASSWORD)):
        refused = await run(place, "users", "add", name, "--password-stdin", feed=password + "\n")
        assert refused.exit_code == 1
        assert refused.stdout == ""
        assert refused.stderr.startswith("token-vault: ")
        assert refused.stderr.count("\n") == 1
    assert [user["name"] for user in await content(place, "users", "list")] == ["alice"]


async def test_the_secret_of_a_client_is_shown_once_and_never_again(place: Place) -> None:
    options = ("--redirect-uri", "https://app.example/callback", "--resource", "https://api.example/", "--confidential")
    added = await content(place, "clients", "add", "Web app", *options)
    secret, client_id = added["client_secret"], added["client_id"]
    shown = await run(place, "clients", "show", client_id, "--json")
    listed = await run(place, "clients", "list", "--json")
    assert secret not in shown.stdout + listed.stdout
    assert json.loads(shown.stdout)["resources"] == ["https://api.example/"]
    for file in place.data.iterdir():
        assert secret.encode() not in file.read_bytes()
    assert "client_secret" not in await content(
        place, "clients", "add", "Public", "--redirect-uri", "http://127.0.0.1/"
    )
    await content(place, "clients", "remove", client_id)
    assert (await run(place, "clients", "show", client_id)).exit_code == 1


@pytest.mark.parametrize("device", [False, True])
async def test_a_client_signs_in_by_code_only_if_its_operator_says_so(place: Place, device: bool) -> None:
    options = ("--redirect-uri", "http://127.0.0.1/callback", *(("--device",) if device else ()))
    added = await content(place, "clients", "add", "Bridge", *options)
    assert ("urn:ietf:params:oauth:grant-type:device_code" in added["grant_types"]) is device


@pytest.mark.parametrize("device", [False, True])
async def test_a_client_needs_no_redirect_uri_to_sign_in_by_code(place: Place, device: bool) -> None:
    added = await run(place, "clients", "add", "Display", *(("--device",) if device else ()))
    assert (added.exit_code == 0) is device
    if device:
        (found,) = await content(place, "clients", "list")
        assert found["redirect_uris"] == []
        assert sorted(found["grant_types"]) == ["refresh_token", "urn:ietf:params:oauth:grant-type:device_code"]
    else:
        assert "--redirect-uri" in added.stderr


@pytest.mark.parametrize("uri", ["javascript:alert(1)", "http://app.example/", "https://app.example/#x", "not-a-uri"])
async def test_a_redirect_uri_that_is_not_allowed_is_refused(place: Place, uri: str) -> None:
    refused = await run(place, "clients", "add", "Web app", "--redirect-uri", uri)
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"token-vault: --redirect-uri {uri}")
    assert await content(place, "clients", "list") == []
    assert await content(place, "clients", "add", "Web app", "--redirect-uri", "https://app.example/")


async def test_tools_and_providers_are_listed_and_shown(place: Place) -> None:
    tools = await content(place, "tools", "list")
    assert [tool["name"] for tool in tools][-1] == "connections"
    assert all(tool["input_schema"] and tool["output_schema"]["properties"] for tool in tools)
    providers = {found["name"]: found for found in await content(place, "providers", "list")}
    assert "google-calendar" in providers["google"]["aliases"]
    shown = await content(place, "providers", "show", "slack")
    assert shown["redirect_uri"] == f"{place.url}/connect/callback/slack"
    assert "chat:write" in shown["scopes"]
    assert (await run(place, "providers", "show", "nobody")).exit_code == 1


async def test_a_provider_file_is_checked(place: Place, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('name = "bad"\n')
    refused = await run(place, "providers", "check", str(bad))
    assert refused.exit_code == 1
    assert "bad.toml" in refused.stdout
    good = Path(__file__).parent.parent.parent / "providers" / "services" / "slack.toml"
    assert (await run(place, "providers", "check", str(good))).exit_code == 0


async def test_one_thing_is_shown_in_words_for_people(place: Place) -> None:
    added = await content(
        place, "clients", "add", "Web", "--redirect-uri", "https://a.example/", "--redirect-uri", "http://127.0.0.1/cb"
    )
    shown = (await run(place, "clients", "show", added["client_id"])).stdout
    fields = {line.split()[0]: line.split()[1:] for line in shown.splitlines()}
    assert fields["redirect_uris"] == ["https://a.example/", "http://127.0.0.1/cb"]
    assert fields["last_used_at"] == ["-"]
    shown += (await run(place, "providers", "show", "slack")).stdout
    assert "\nconfigured     no\n" in shown
    for word in ("None", "False", "[", "{"):
        assert word not in shown


async def test_an_account_of_a_provider_that_is_not_set_up_gets_no_link(place: Place) -> None:
    refused = await run(place, "connections", "connect", "slack")
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert "Run token-vault providers setup slack, then restart" in refused.stderr
    with (place.data / "config.toml").open("a") as settings:
        settings.write('[providers.slack]\nclient_id = "1.2"\n')
    made = await run(place, "connections", "connect", "slack")
    assert made.exit_code == 0
    assert made.stdout.startswith(f"{place.url}/sign-in/local?")


async def test_a_sandbox_gives_links_to_the_stand_ins_that_only_its_process_knows(place: Place) -> None:
    sandbox = Place(place.data.rename(place.data.with_name("sandbox")), place.port)
    made = await run(sandbox, "connections", "connect", "slack")
    assert made.exit_code == 0, made.stderr


@pytest.mark.parametrize("option", [(), ("--admin",)])
async def test_the_only_user_is_signed_in_unasked_only_as_admin(place: Place, option: tuple[str, ...]) -> None:
    """The only user may have signed in through a provider: the operator must not connect accounts as them."""
    place.configure({"providers": {"slack": {"client_id": "1.2"}}})
    made = await run(place, "users", "add", "somebody", "--password-stdin", *option, feed="a long enough password\n")
    assert made.exit_code == 0, made.stderr
    for command in (("sign-in",), ("connections", "connect", "slack")):
        unasked = await run(place, *command)
        assert unasked.exit_code == (0 if option else 1)
        assert ("Pick a user with --user NAME" in unasked.stderr) is not bool(option)
        assert (await run(place, *command, "--user", "somebody")).exit_code == 0


async def test_the_owner_gets_a_one_time_link_and_connects_from_it(place: Place) -> None:
    made = await content(place, "sign-in")
    assert made["url"].startswith(f"{place.url}/sign-in/local?ticket=")
    place.configure({"providers": {"google": {"client_id": "1", "client_secret": "2"}}})
    link = await content(place, "connections", "connect", "google-calendar")
    assert "return_to=%2Fconnections%2Fconnect%3Fprovider%3Dgoogle-calendar" in link["url"]
    shown = await content(place, "providers", "show", "google-calendar")
    assert shown["name"] == "google"
    assert await content(place, "connections", "list") == []
    assert await content(place, "delegations", "list") == []
    missing = await run(place, "connections", "disconnect", "nothing")
    assert missing.exit_code == 1
    assert "connections list" in missing.stderr
    assert (await run(place, "delegations", "revoke", "agent", "nothing")).exit_code == 1


async def test_a_backup_is_made_beside_a_running_vault_and_restored_when_it_stopped(place: Place) -> None:
    await content(place, "users", "add", "alice", "--password-stdin", feed=PASSWORD + "\n")
    file = str(place.data.parent / "vault.backup")
    async with place.serve():
        made = await content(place, "backup", file)
        assert made["with_keys"] is False
        running = await run(place, "restore", file, "--force")
        assert running.exit_code == 1
        assert "Stop all its processes" in running.stderr
    await content(place, "users", "add", "bob", "--password-stdin", feed=PASSWORD + "\n")
    assert "--force" in (await run(place, "restore", file)).stderr
    restored = await run(place, "restore", file, "--force")
    assert restored.exit_code == 0, restored.output
    assert "No account needs to be reconnected." in restored.stdout
    assert "must sign in again" in restored.stderr
    assert [user["name"] for user in await content(place, "users", "list")] == ["alice"]
    again = await run(place, "backup", file)
    assert (again.exit_code, again.stderr.count("already exists")) == (1, 1)
    assert "doesn't include the key store" in (await run(place, "backup", file + "2")).stderr


async def connect(place: Place, provider: str) -> None:
    """Connect one account at the provider, as set in the settings."""
    async with open_deployment(load_settings(data=place.data), data=place.data) as opened, opened.transaction() as work:
        user = await users.create_user(work, "alice", now=opened.now())
        await open_account(
            work,
            opened,
            user.id,
            provider,
            TokenAnswer("access", "refresh", frozenset({"a"}), 3600, Account("1", "alice")),
        )


async def test_an_account_that_waits_for_its_provider_is_shown_so_and_nobody_is_asked_to_connect(place: Place) -> None:
    place.configure({"providers": {"slack": {"client_id": "ours", "client_secret": "secret"}}})
    (place.data / "config.toml").chmod(0o600)
    await connect(place, "slack")
    settings = load_settings(data=place.data)

    async def account_report() -> tuple[object, str, str]:
        (one,) = await content(place, "connections", "list", "--user", "alice")
        doctor = json.loads((await run(place, "doctor", "--json")).stdout)
        (found,) = [found for found in doctor if found["check"] == "refreshes"]
        return one["status"], found["verdict"], f"{found['sentence']}; {found['fix']}"

    async with open_deployment(settings, data=place.data) as opened:
        (row,) = await opened.database.fetch("select id from connections")
        facts = await leases.read(opened.database, str(row["id"]))
        assert facts is not None
        async with opened.transaction() as work:
            lease = await leases.claim(work, facts, owner=opened.vault.owner, now=opened.now())
            assert lease is not None
        assert (await account_report())[:2] == ("active", "ok")  # its answer is pending
        async with opened.transaction() as work:
            await leases.settle(work, lease, now=opened.now())
        status, verdict, said = await account_report()
        assert (status, verdict) == ("waiting", "note")
        assert "slack didn't answer the last refresh of 1 of its accounts" in said
        assert "no action needed" in said
        async with opened.transaction() as work:
            await leases.resolve(work, lease)
        assert (await account_report())[:2] == ("active", "ok")


@pytest.mark.parametrize(
    ("provider", "settings", "own_file", "goes_on"),
    [
        ("square", {"client_secret": "secret"}, None, True),
        ("square", {}, None, False),  # without a secret, its refresh tokens work only once
        ("google", {"client_secret": "secret"}, None, True),
        ("google", {"client_secret": "secret"}, "strict", False),
    ],
)
async def test_a_restore_goes_by_the_providers_as_they_are_set_up_here(
    place: Place, provider: str, settings: dict[str, str], own_file: str | None, *, goes_on: bool
) -> None:
    place.configure({"providers": {provider: {"client_id": "ours", **settings}}})
    if own_file is not None:
        shutil.copytree(SHELF / "rules", place.data / "providers" / "rules")
        text = (SHELF / f"{provider}.toml").read_text(encoding="utf-8")
        assert 'mode = "none"\n\n[downscope]' in text
        text = text.replace('mode = "none"\n\n[downscope]', f'mode = "{own_file}"\n\n[downscope]')
        text = re.sub(r'refresh_token = "refresh".*\n', "", text)  # this probe would use up the only refresh token
        (place.data / "providers" / f"{provider}.toml").write_text(text, encoding="utf-8")
    await connect(place, provider)
    file = str(place.data.parent / "vault.backup")
    await content(place, "backup", file)
    (restored,) = await content(place, "restore", file, "--force")
    assert (restored["verdict"] == "unaffected") is goes_on


async def test_bad_settings_end_every_command_in_one_line(place: Place) -> None:
    (place.data / "config.toml").write_text("[server]\nprot = 1\n")
    refused = await run(place, "users", "list")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("token-vault: server.prot:")
    assert refused.stderr.count("\n") == 1
    place.configure()
    assert (await run(place, "users", "list")).exit_code == 0


async def test_wrong_usage_has_exit_code_two(place: Place) -> None:
    assert (await run(place, "users", "add")).exit_code == 2
    assert (await run(place, "no-such-command")).exit_code == 2
    assert (await run(place, "version")).exit_code == 0


async def test_the_version_is_said_to_a_command_and_to_an_option(place: Place) -> None:
    said = (await run(place, "version")).stdout
    option = await asyncio.to_thread(CliRunner().invoke, app, ["--version"])
    assert (option.exit_code, option.stdout) == (0, said)


async def _lines_on_terminal(place: Place, *command: str, columns: int) -> list[str]:
    code, seen = await run_on_terminal(place, *command, columns=columns)
    assert code == 0, seen
    lines = seen.splitlines()
    assert columns < 80 or max(len(line) for line in lines) <= columns
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("command", [("providers", "list"), ("tools", "list")])
async def test_a_table_is_a_line_each_for_a_program_and_keeps_names_and_headings_whole_on_a_terminal(
    place: Place, command: tuple[str, str]
) -> None:
    names = [str(one["name"]) for one in await content(place, *command)]
    printed = (await run(place, *command)).stdout
    head, *lines = printed.splitlines()
    assert [line.split()[0] for line in lines] == names
    narrow = await _lines_on_terminal(place, *command, columns=80)
    assert len(narrow) > len(lines) + 1, "nothing had to be broken"
    assert {line.split()[0] for line in narrow if line and not line.startswith(" ")} >= set(names)
    assert set(head.split()) <= set(" ".join(narrow).split())
    tiny = await _lines_on_terminal(place, *command, columns=30)
    assert [line for line in tiny if line and not line.startswith(" ")] == names, "a block each"


@pytest.mark.parametrize(
    ("typed", "expected"), [("token-vault prov", ["providers"]), ("token-vault providers se", ["setup"])]
)
async def test_a_shell_completes_commands(place: Place, typed: str, expected: list[str]) -> None:
    asks = {"_TOKEN_VAULT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, stdout=asyncio.subprocess.PIPE, env=place.environment() | asks
    )
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    assert out.decode().split() == expected


async def test_help_of_every_command_is_there() -> None:
    for command in (
        "serve", "stdio", "demo", "version", "client-config", "doctor", "explain", "sign-in", "activity", "users add",
        "users list", "users remove", "users disable", "clients add", "clients list", "clients show",
        "clients remove", "connections list", "connections connect", "connections disconnect", "delegations list",
        "delegations revoke", "providers list", "providers show", "providers check", "tools list",
        "keys rotate-signing", "backup", "restore", "quarantine",
    ):  # fmt: skip
        result = await asyncio.to_thread(CliRunner().invoke, app, [*command.split(), "--help"])
        assert result.exit_code == 0, command
        for option in ("--config", "--data", "--json"):
            assert option in result.stdout, (command, option)


async def test_help_loads_nothing_of_the_product() -> None:
    program = "import sys, server.cli; print(sorted(set(sys.modules) & {'mcp', 'pydantic', 'aiohttp', 'starlette'}))"
    process = await asyncio.create_subprocess_exec(
        *Place(Path(), 0).arguments()[:1], "-c", program, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    assert out.decode().strip() == "[]"


async def test_zero_settings_make_key_databases_and_a_secret_for_the_first_admin(tmp_path: Path) -> None:
    place = Place(tmp_path / "new", free_port())
    arguments = [*place.arguments("serve"), "--port", str(place.port)]
    process = await asyncio.create_subprocess_exec(*arguments, stderr=asyncio.subprocess.PIPE, env=place.environment())
    assert process.stderr is not None
    said = ""
    try:
        async with asyncio.timeout(30):
            while f"{place.url}/first-run" not in said:
                said += (await process.stderr.readline()).decode()
            async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:  # it must answer by now
                assert (await http.get(f"{place.url}/first-run")).status_code == 200
            process.terminate()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert stat.S_IMODE(place.data.stat().st_mode) == 0o700
    for name in ("master.key", "vault.sqlite", "keys.sqlite"):
        assert stat.S_IMODE((place.data / name).stat().st_mode) == 0o600


async def test_the_sandbox_works_at_once_with_data_of_its_own(tmp_path: Path) -> None:
    place = Place(tmp_path, free_port())
    place.configure()
    process = await asyncio.create_subprocess_exec(
        *place.arguments("serve", "--sandbox"), stderr=asyncio.subprocess.PIPE, env=place.environment()
    )
    try:
        await place.healthy()
        assert (tmp_path / "sandbox" / "vault.sqlite").exists()
        assert not (tmp_path / "vault.sqlite").exists()
    finally:
        process.terminate()
        async with asyncio.timeout(30):
            await process.communicate()


@pytest.mark.long  # the test below reads the same lines
async def test_the_demo_does_what_it_says(tmp_path: Path) -> None:
    place = Place(tmp_path / "demo", 0)
    async with asyncio.timeout(60):
        code, out, err = await place.run("demo")
    assert code == 0, out + err
    for line in STORY:
        assert line in out
    assert "✗" not in out
    assert "make demo KEEP=1" in out
    assert "{" not in out, "a name that was not filled in"


async def test_the_demo_that_is_left_running_can_be_used_as_it_says(tmp_path: Path) -> None:
    place = Place(tmp_path / "demo", 0)
    process = await asyncio.create_subprocess_exec(
        *place.arguments("demo", "--keep"), stdout=asyncio.subprocess.PIPE, env=place.environment()
    )
    assert process.stdout is not None
    said: list[str] = []
    async with asyncio.timeout(60):
        while not said or "Press Ctrl+C to stop" not in said[-1]:
            line = (await process.stdout.readline()).decode()
            assert line, "the demo ended"
            said.append(line.rstrip("\n"))
    try:
        text = "\n".join(said)
        for line in STORY:
            assert line in text
        assert "✗" not in text
        entry = json.JSONDecoder().raw_decode(text[text.index("{", text.index("MCP client configuration")) :])[0]
        url = entry["mcpServers"]["token-vault"]["url"]
        assert f"claude mcp add --scope user --transport http token-vault {url}" in said
        link = next(line for line in said if "/sign-in/local?" in line)
        password = re.search(r"with the password (\S+),", text)
        assert password is not None
        async with httpx2.AsyncClient(trust_env=False, follow_redirects=True, timeout=30) as http:
            assert (await http.post(url, json={})).status_code == 401
            assert "<title>Home · Token Vault</title>" in (await http.get(link)).text
        async with Person(url.removesuffix("/mcp")) as person:
            assert "<title>Home · Token Vault</title>" in (await person.sign_in("alice", password[1])).text
    finally:
        process.terminate()
        async with asyncio.timeout(30):
            assert await process.wait() == 0


async def test_groups_and_directories_are_made_shown_and_ended(place: Place) -> None:
    await content(place, "users", "add", "bob", "--password-stdin", feed=PASSWORD + "\n")
    await content(place, "groups", "create", "Sales")
    await content(place, "groups", "add", "sales", "bob")
    assert [(one["user"], one["by"]) for one in await content(place, "groups", "show", "Sales")] == [("bob", ["local"])]
    await content(place, "groups", "remove", "Sales", "bob")
    assert (await run(place, "groups", "remove", "Sales", "bob")).exit_code == 1
    assert [one["members"] for one in await content(place, "groups", "list")] == [0]
    await content(place, "groups", "delete", "Sales")
    assert (await run(place, "groups", "show", "Sales")).stderr.startswith("token-vault: no group 'Sales'")
    made = await content(place, "scim", "token", "okta")
    assert made["token"] not in (await run(place, "scim", "list", "--json")).stdout
    assert (await run(place, "scim", "adopt", "bob", "--external-id", "00u1")).exit_code == 0
    assert (await run(place, "scim", "adopt", "bob")).exit_code == 1
    await content(place, "scim", "end", "okta")
    assert await content(place, "scim", "list") == []
