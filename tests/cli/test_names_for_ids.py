"""Names can replace ids on the command line; an ambiguous one lists candidates, a mistyped one gets a suggestion."""

from __future__ import annotations

import asyncio
import json
import shlex
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typer.testing import CliRunner, Result

from providers.definitions.catalog import ProviderFileRefused, read_provider
from providers.definitions.suggestions import did_you_mean, what_is_wrong
from server.app import open_deployment
from server.cli import app
from server.settings import SettingsRefused, load_settings
from tests.support.accounts import open_account
from vault import clients, delegations, users
from vault.records import Client, ClientKind
from vault.upstream import Account, TokenAnswer

CHAT = frozenset({"chat:write"})
IDS = dict[str, str]


@pytest.fixture
async def ids(tmp_path: Path) -> IDS:
    """Alice with a Slack and two Google accounts; Cursor may use Slack, and two other agents share one name."""
    async with open_deployment(load_settings(), data=tmp_path) as deployment, deployment.transaction() as transaction:
        now = deployment.now()
        owner = await users.create_user(transaction, "alice", now=now)
        made = {"alice": owner.id}
        for provider, account in (
            ("slack", "alice@team"),
            ("google", "alice@a.example"),
            ("google", "alice@b.example"),
        ):
            connection = await open_account(
                transaction,
                deployment,
                owner.id,
                provider,
                TokenAnswer("at", "rt", CHAT, 3600, Account(f"id-of-{account}", account)),
            )
            made[account] = connection.id
        for client_id, name in (("cursor-1", "Cursor"), ("twin-1", "Twin"), ("twin-2", "Twin")):
            await clients.save_client(
                transaction,
                Client(
                    id=client_id,
                    kind=ClientKind.DYNAMIC,
                    name=name,
                    auth_method="none",
                    redirect_uris=("http://127.0.0.1/cb",),
                    grant_types=frozenset({"authorization_code"}),
                    resources=(),
                    created_at=now,
                ),
            )
        await delegations.allow(
            transaction,
            user_id=owner.id,
            client_id="cursor-1",
            connection_id=made["alice@team"],
            scopes=CHAT,
            now=now,
        )
        return made


async def run(data: Path, *command: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, [*command, "--data", str(data)])


async def content(data: Path, *command: str) -> dict[str, object]:
    result = await run(data, *command, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def test_agents_and_accounts_are_named(tmp_path: Path, ids: IDS) -> None:
    assert (await content(tmp_path, "clients", "show", "CURSOR"))["client_id"] == "cursor-1"
    ask = await content(tmp_path, "delegations", "ask", "cursor", "slack", "--tool", "slack_post")
    assert (ask["client_id"], ask["connection_id"]) == ("cursor-1", ids["alice@team"])
    gone = await content(tmp_path, "delegations", "revoke", "Cursor", "alice@team", "--user", ids["alice"])
    assert gone == {"client_id": "cursor-1", "connection_id": ids["alice@team"]}
    assert (await content(tmp_path, "connections", "disconnect", "alice@B.example"))["id"] == ids["alice@b.example"]
    assert (await content(tmp_path, "connections", "disconnect", "google-calendar"))["id"] == ids["alice@a.example"]
    assert (await content(tmp_path, "clients", "remove", "cursor"))["client_id"] == "cursor-1"
    assert (await content(tmp_path, "users", "disable", ids["alice"]))["name"] == "alice"


async def test_an_ambiguous_name_says_the_candidates(tmp_path: Path, ids: IDS) -> None:
    for command, candidates in (
        (("clients", "show", "twin"), ("twin-1", "twin-2")),
        (("connections", "disconnect", "google"), (ids["alice@a.example"], ids["alice@b.example"])),
        (("explain", "--client", "twin", "--connection", "slack"), ("twin-1", "twin-2")),
    ):
        refused = await run(tmp_path, *command)
        assert refused.exit_code == 1
        assert "several " in refused.stderr
        assert all(one in refused.stderr for one in candidates)
        assert refused.stderr.count("\n") == 1
    assert (await run(tmp_path, "clients", "show", "twin-1")).exit_code == 0


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("clients show Cursr", "Cursor"),
        ("clients release cursor gihub proxy", "github"),
        ("connections disconnect alice@taem", "alice@team"),
        ("connections connect gihub", "github"),
        ("connections list --user alcie", "alice"),
        ("users disable alcie", "alice"),
        ("delegations ask cursor slack --tool slack_pots", "slack_post"),
        ("delegations ask cursor slack --scope chat:wriet", "chat:write"),
        ("delegations revoke cusror slack", "Cursor"),
        ("explain --client cusror --connection slack", "Cursor"),
        ("explain --client cursor --connection slack --user alcie", "alice"),
        ("activity --user alcie", "alice"),
        ("sign-in --user alcie", "alice"),
        ("clients add Bot --confidential --admin alcie --admin-scope admin:read", "alice"),
        ("tools list --profile everyady", "everyday"),
        ("providers show gihub", "github"),
        ("providers setup gogle-calendar", "google-calendar"),
        ("providers test gihub", "github"),
        ("providers shwo github", "show"),
        ("provders list", "providers"),
    ],
)
async def test_a_mistyped_name_says_what_was_meant(tmp_path: Path, ids: IDS, command: str, meant: str) -> None:
    refused = await run(tmp_path, *command.split())
    assert refused.exit_code in {1, 2}
    assert "did you mean" in refused.stderr.lower()
    assert meant in refused.stderr.replace(refused.stderr.partition("id you mean")[0], "")


@pytest.mark.parametrize(
    ("settings", "meant"),
    [
        ({"server": {"prot": 1}}, "port"),
        ({"srever": {"port": 1}}, "server"),
        ({"providers": {"slack": {"clientid": "1"}}}, "client_id"),
        ({"sign_in": {"openid": {"okta": {"isuer": "https://a.example"}}}}, "issuer"),
    ],
)
def test_a_mistyped_setting_says_what_was_meant(settings: dict[str, object], meant: str) -> None:
    with pytest.raises(SettingsRefused, match=rf"no such setting\. Did you mean {meant}\?"):
        load_settings(overrides=settings)
    with pytest.raises(SettingsRefused, match=r"no such setting\. Valid ones: .*\bport\b"):
        load_settings(overrides={"server": {"zzzz": 1}})


def test_a_mistyped_variable_says_what_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_VAULT_SERVR__PORT", "1")
    with pytest.raises(SettingsRefused, match=r"Did you mean server\?"):
        load_settings()


async def test_mistyped_names_in_the_settings_say_what_was_meant(tmp_path: Path) -> None:
    for section, meant in (
        ({"providers": {"gihub": {"client_id": "1"}}}, "github"),
        ({"tools": {"clients": {"c": {"enable": ["slack_pots"]}}}}, "slack_post"),
        ({"approvals": {"ask": ["slack_pots"]}}, "slack_post"),
        ({"approvals": {"ask": ["slack:chat:wriet"]}}, "slack:chat:write"),
    ):
        with pytest.raises((SettingsRefused, ProviderFileRefused), match=f"Did you mean {meant}"):
            async with open_deployment(load_settings(overrides=section), data=tmp_path):
                pass


def test_a_mistyped_field_of_a_provider_file_says_what_was_meant(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\n[scope]\ndefualt = []\n')
    with pytest.raises(ProviderFileRefused, match=r"scope\.defualt: no such field\. Did you mean default"):
        read_provider(file)


def test_only_near_names_are_suggested() -> None:
    assert did_you_mean("gihub", ["github", "slack"]) == " Did you mean github?"
    assert did_you_mean("GitHub", ["github"]) == " Did you mean github?"
    assert did_you_mean("zzzz", ["github", "slack"]) == ""
    assert did_you_mean("x", []) == ""


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str = Field(default="", pattern="^[a-z]+$", description="lower case")
    code: str = Field(default="", pattern="^[0-9]+$")
    wide: bool = Field(default=False, alias="as")


class Outer(BaseModel):
    inner: dict[str, Inner] = {}
    many: tuple[Inner, ...] = ()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"inner": {"x": {"zzzz": 1}}}, "there is no such key. Valid ones: id, code, as"),
        ({"many": [{"cod": 1}]}, "there is no such key. Did you mean code?"),
        ({"inner": {"x": {"id": "A"}}}, "doesn't have the expected form (lower case)"),
        ({"many": [{"code": "A"}]}, "String should match pattern '^[0-9]+$'"),
        ({"many": [{"id": 1}]}, "Input should be a valid string"),
    ],
)
def test_what_is_wrong_is_told_with_what_is_right(value: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Outer.model_validate(value)
    assert what_is_wrong(Outer, refused.value.errors()[0]) == told


async def test_what_can_be_undone_says_how(tmp_path: Path, ids: IDS) -> None:
    async def undo(*command: str) -> Result:
        done = await run(tmp_path, *command)
        assert done.exit_code == 0, done.output
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("To ")]
        undone = await run(tmp_path, *shlex.split(line.partition("token-vault ")[2]))
        assert undone.exit_code == 0, undone.output
        return undone

    ask = ("delegations", "ask", "cursor", "slack")
    assert "No action there needs" in (await undo(*ask, "--tool", "slack_post")).stdout
    await run(tmp_path, *ask, "--tool", "slack_post")
    again = await undo(*ask, "--scope", "chat:write")
    assert "Each use of these now needs the user's approval: tool:slack_post." in again.stdout
    assert "can sign in again" in (await undo("users", "disable", "alice")).stdout
    await undo("clients", "release", "cursor", "slack", "proxy")


@pytest.mark.usefixtures("ids")
@pytest.mark.parametrize("value", ["-ABC", "--xyz_1"])
def test_an_id_that_begins_with_a_dash_is_told_its_way(tmp_path: Path, value: str) -> None:
    command = ["clients", "show", "--data", str(tmp_path)]
    refused = CliRunner().invoke(app, [*command, value], prog_name="token-vault")
    assert refused.exit_code == 2
    said = " ".join(refused.output.replace("│", " ").split())
    assert f"If {value} is an ID, write -- before it, after all options: token-vault clients show -- {value}" in said
    known = CliRunner().invoke(app, [*command, "--", value])
    assert known.exit_code == 1, known.output
    assert f"no agent '{value}'" in known.output


@pytest.mark.parametrize(
    ("words", "said"), [(("clients", "list", "-A"), "No such option: -A"), (("clients", "show", "--jsn"), "--json")]
)
def test_an_unknown_option_is_no_id(words: tuple[str, ...], said: str) -> None:
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert said in refused.output
    assert "is an ID" not in refused.output
