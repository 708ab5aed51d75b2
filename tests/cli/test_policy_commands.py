"""`token-vault policy`: check, schema, test, explain, and replay, and what the doctor says about rules."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from server.admin_settings import AdminSettings
from server.app import open_deployment
from server.doctor.policy import check_policy
from server.policy.gate import load
from server.policy.replay import Replay, ReplayReport
from server.policy.schema import actions_of
from server.settings import load_settings
from tests.conftest import Store
from tests.support.commands import content, run
from tests.support.doctor_places import examine
from tests.support.processes import Place
from tests.support.rooms.mcp_room import SLACK, Room, room
from vault.upkeep import replicas
from vault.upkeep.replicas import Replica

RULE = '@id("no-posts") @reason("not now") forbid(principal, action == Action::"slack_post", resource);'
CASES = """
[[case]]
name = "posts are off"
call = "slack_post"
arguments = { channel = "#general", text = "hello" }
expect = "forbid"
rule = "no-posts"

[[case]]
name = "lists are on"
call = "slack_channels"
expect = "allow"
"""


def case_of(call: str, use: Mapping[str, object]) -> str:
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in use.items())
    return f'[[case]]\nname = "one"\ncall = "{call}"\n{lines}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "rules"
    made.mkdir()
    (made / "rules.cedar").write_text(RULE)
    return made


async def test_cases_in_the_folder_are_run_and_a_wrong_one_fails(place: Place, folder: Path) -> None:
    none = await run(place, "policy", "test", "--folder", str(folder))
    assert (none.exit_code, "no test cases" in none.output) == (1, True)
    (folder / "cases.toml").write_text(CASES)
    assert [one["passed"] for one in await content(place, "policy", "test", "--folder", str(folder))] == [True, True]
    (folder / "cases.toml").write_text(CASES.replace('expect = "allow"', 'expect = "ask"'))
    wrong = await run(place, "policy", "test", "--folder", str(folder))
    assert wrong.exit_code == 1
    assert "cases.toml: lists are on: expected ask, got allow" in wrong.output
    (folder / "cases.toml").write_text(CASES.replace("#general", "not a channel!"))
    odd = await run(place, "policy", "test", "--folder", str(folder))
    assert (odd.exit_code, "posts are off: slack_post: channel" in odd.output) == (1, True)


async def test_check_lists_every_problem_and_what_looks_wrong(place: Place, folder: Path) -> None:
    good = await content(place, "policy", "check", "--folder", str(folder))
    assert (good["rules"], good["problems"], good["doubts"]) == (1, [], [])
    (folder / "more.cedar").write_text(
        '@id("all") forbid(principal, action, resource);\n'
        '@id("nobody") forbid(principal == User::"nobody", action, resource);\n'
        '@id("agentless") forbid(principal, action, resource) when { context.agent.id == "gone" };\n'
        '@id("typo") forbid(principal, action, resource) when { resource.provider == "slak" };\n'
        '@id("alias") forbid(principal, action, resource) when { resource.provider == "gmail" };\n'
        '@id("known") forbid(principal, action, resource) when { resource.provider == "github" };\n'
        '@id("own") forbid(principal, action, resource) when { resource.provider == "token-vault" };'
    )
    await content(place, "users", "add", "somebody", "--password-stdin", feed="a long enough password\n")
    doubts = (await content(place, "policy", "check", "--folder", str(folder)))["doubts"]
    assert sorted(one.partition(": ")[0] for one in doubts) == [f"more.cedar:{line}" for line in (1, 2, 3, 4, 5)]
    assert "more.cedar:4: typo names the provider 'slak', which isn't there. Did you mean slack?" in doubts
    assert "more.cedar:5: alias names the provider 'gmail': write 'google'" in doubts
    (folder / "more.cedar").write_text('@id("x") permit(principal, action, resource);\nforbid(')
    bad = await run(place, "policy", "check", "--folder", str(folder))
    assert bad.exit_code == 1
    assert [line.partition(": ")[0] for line in bad.output.splitlines()] == ["more.cedar:1", "more.cedar:2"]


async def test_the_schema_names_every_tool_and_explain_says_which_rules_a_call_meets(
    place: Place, folder: Path
) -> None:
    text = (await content(place, "policy", "schema"))["schema"]
    assert re.search(r'action "gmail_send" in \["tools", "writes"\]', text)
    case = json.dumps({"arguments": {"channel": "#general", "text": "hello"}})
    said = await content(place, "policy", "explain", "slack_post", "--case", case, "--folder", str(folder))
    assert (said["outcome"], said["rule"], said["meets"]) == ("forbid", "no-posts", ["no-posts (rules.cedar:1)"])
    said = await content(place, "policy", "explain", "slack_channels", "--folder", str(folder))
    assert (said["outcome"], said["meets"]) == ("allow", "no rule")
    unknown = await run(place, "policy", "explain", "slack_pots", "--folder", str(folder))
    assert (unknown.exit_code, "slack_post" in unknown.output) == (1, True)


@pytest.mark.parametrize(
    ("call", "provider", "wrong", "says"),
    [
        ("exchange", "slack", "", "name the provider of the account that exchange uses"),
        ("exchange", "gmail", "nowhere", "no provider has this name"),
        ("request", "token-vault", "", "request uses no account: write token-vault"),
        ("request", "token-vault", "slack", "request uses no account: write token-vault"),
        ("slack_channels", "slack", "github", "slack_channels is a tool of slack: write that, or omit it"),
        ("slack_channels", "", "nowhere", "no provider has this name"),
    ],
)
async def test_explain_and_test_take_no_case_that_the_rules_never_see(
    place: Place, folder: Path, call: str, provider: str, wrong: str, says: str
) -> None:
    for name, is_right in ((wrong, False), (provider, True)):
        use = {"scopes": [] if "_" in call else ["team:read"], **({"provider": name} if name else {})}
        told = await run(place, "policy", "explain", call, "--case", json.dumps(use), "--folder", str(folder))
        assert (told.exit_code == 0) == is_right, told.output
        assert is_right or f"--case: provider: {says}" in " ".join(told.output.split())
        (folder / "cases.toml").write_text(case_of(call, use))
        tested = await run(place, "policy", "test", "--folder", str(folder))
        assert (tested.exit_code == 0) == is_right, tested.output
        assert is_right or f"cases.toml: one: provider: {says}" in " ".join(tested.output.split())


async def test_explain_and_test_take_no_call_that_the_proxy_refuses(place: Place, folder: Path) -> None:
    use = {"provider": "slack", "api": "web", "method": "GET", "path": "/users.list", "scopes": ["users:read"]}
    for wrong in ("", "provider", "api", "method", "path", "scopes"):
        case = {name: value for name, value in use.items() if name != wrong}
        (folder / "cases.toml").write_text(case_of("proxy", case))
        told = await run(place, "policy", "explain", "proxy", "--case", json.dumps(case), "--folder", str(folder))
        tested = await run(place, "policy", "test", "--folder", str(folder))
        assert (told.exit_code, tested.exit_code) == ((1, 1) if wrong else (0, 0)), wrong
        if wrong:
            assert f"--case: {wrong}: " in told.output
            assert f"cases.toml: one: {wrong}: " in tested.output


async def test_a_token_without_scopes_is_no_case(place: Place, folder: Path) -> None:
    for scopes, outcome in ((["chat:write"], "forbid"), (["users:read"], "allow"), ([], "")):
        use = {"provider": "slack", "scopes": scopes, "expect": outcome or "allow"}
        (folder / "cases.toml").write_text(case_of("exchange", use))
        tested = await run(place, "policy", "test", "--folder", str(folder))
        assert (tested.exit_code == 0) == bool(outcome), tested.output
    assert "cases.toml: one: scopes: name those that the exchange asks for" in tested.output


async def test_a_case_with_an_alias_is_about_the_provider_that_the_gate_sees(place: Place, folder: Path) -> None:
    tokens = 'forbid(principal, action == Action::"exchange", resource)'
    (folder / "rules.cedar").write_text(f'@id("mail") {tokens} when {{ resource.provider == "google" }};')
    for name, outcome in (("gmail", "forbid"), ("slack", "allow")):
        use = {"provider": name, "scopes": ["a"], "expect": outcome}
        (folder / "cases.toml").write_text(case_of("exchange", use))
        (told,) = await content(place, "policy", "test", "--folder", str(folder))
        assert told["passed"], told


async def test_explain_takes_a_person_with_the_role_that_their_groups_give(place: Place, folder: Path) -> None:
    (place.data / "config.toml").write_text('[admin.group_roles]\n"Book keepers" = "auditor"\n')
    (folder / "rules.cedar").write_text(f'{RULE[:-1]} when {{ principal.role == "auditor" }};')
    for name in ("alice", "bob"):
        await content(place, "users", "add", name, "--password-stdin", feed="a long enough password\n")
    await content(place, "groups", "create", "book keepers")
    await content(place, "groups", "add", "book keepers", "alice")
    case = json.dumps({"arguments": {"channel": "#general", "text": "hello"}})
    for name, outcome in (("alice", "forbid"), ("bob", "allow")):
        asked = ("policy", "explain", "slack_post", "--user", name, "--case", case, "--folder", str(folder))
        assert (await content(place, *asked))["outcome"] == outcome


async def test_explain_takes_a_person_with_their_id(place: Place, folder: Path) -> None:
    ids = [
        (await content(place, "users", "add", name, "--password-stdin", feed="a long enough password\n"))["id"]
        for name in ("alice", "bob")
    ]
    (folder / "rules.cedar").write_text(f'{RULE[:-1]} when {{ principal.id == "{ids[0]}" }};')
    case = json.dumps({"arguments": {"channel": "#general", "text": "hello"}})
    for name, outcome in (("alice", "forbid"), ("bob", "allow")):
        asked = ("policy", "explain", "slack_post", "--user", name, "--case", case, "--folder", str(folder))
        assert (await content(place, *asked))["outcome"] == outcome


async def test_rules_without_their_package_are_refused_with_the_fix(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(overrides={"policy": {"folder": str(folder)}})
    monkeypatch.setitem(sys.modules, "server.policy.rules", None)
    with pytest.raises(Exception, match=r"pip install 'mcp-token-vault\[policy\]'"):
        async with open_deployment(settings, data=folder.parent / "data"):
            pass
    monkeypatch.undo()
    async with open_deployment(settings, data=folder.parent / "data"):
        pass


async def test_rules_with_a_mistake_stop_no_command_that_takes_away(place: Place, folder: Path) -> None:
    for name in ("alice", "bob"):
        await content(place, "users", "add", name, "--password-stdin", feed="a long enough password\n")
    (place.data / "config.toml").write_text(f'[policy]\nfolder = "{folder}"\n')
    good, bad = RULE, "forbid("
    for text, exit_code in ((good, 0), (bad, 1)):
        (folder / "rules.cedar").write_text(text)
        said = await run(place, "status")
        assert (said.exit_code, "policy.folder: rules.cedar:1" in said.output) == (exit_code, bool(exit_code))
    assert await content(place, "connections", "list", "--user", "alice") == []
    assert await content(place, "panic", "--user", "alice") == {"dry_run": True, "accounts": {}, "total": 0}
    assert (await run(place, "panic", "--user", "alice", "--yes", "--wait", "0")).exit_code == 0
    assert (await run(place, "users", "disable", "bob")).exit_code == 0


async def test_the_doctor_compares_the_rules_of_every_process(place: Place, folder: Path) -> None:
    (place.data / "config.toml").write_text(f'[server]\nport = {place.port}\n[policy]\nfolder = "{folder}"\n')
    await content(place, "users", "add", "somebody", "--password-stdin", feed="a long enough password\n")
    assert "has 1 (digest" in (await examine(place))["policy"]["sentence"]
    settings = load_settings(place.data / "config.toml", data=place.data)
    async with open_deployment(settings, data=place.data) as deployment:
        assert deployment.policy is not None
        now = deployment.now()
        said = Replica("r1", "host-1", "serve", "1", now, now, {}, {}, policy=deployment.policy.digest)
        for policy, verdict in ((said.policy, "ok"), ("another", "problem"), (None, "problem")):
            async with deployment.transaction() as transaction:
                await replicas.note_replica(transaction, replace(said, policy=policy))
            (found,) = await check_policy(deployment)
            assert found.verdict.value == verdict, found
            assert verdict == "ok" or "host-1" in found.sentence


async def test_the_doctor_tells_a_mistake_in_the_rules_to_try(place: Place, folder: Path) -> None:
    (place.data / "config.toml").write_text(f'[server]\nport = {place.port}\n[policy]\nshadow_folder = "{folder}"\n')
    await content(place, "users", "add", "somebody", "--password-stdin", feed="a long enough password\n")
    assert "policy" not in await examine(place)
    (folder / "rules.cedar").write_text("forbid(")
    assert "policy.shadow_folder: rules.cedar:1" in (await examine(place, fails=True))["policy"]["sentence"]


# Replay


@pytest.fixture(scope="module")
async def used_vault(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    """A vault where an agent listed channels twice and posted once."""
    async with room(tmp_path_factory.mktemp("lived")) as opened:
        agent = await opened.agent("alice")
        await opened.connect(agent, "slack", scopes=SLACK)
        async with opened.client(agent) as client:
            for _ in range(2):
                assert not (await client.call_tool("slack_channels", {})).is_error
            assert not (await client.call_tool("slack_post", {"channel": "#general", "text": "hi"})).is_error
        yield opened


async def replay_activity(lived: Room, folder: Path, *rules: str, since: int = 3600) -> ReplayReport:
    (folder / "rules.cedar").write_text("\n".join(rules))
    deployment = lived.vault.deployment
    await deployment.activity.settle()
    report = ReplayReport()
    loaded = load(folder, actions_of(deployment.tools), setting="policy.folder")
    replay = Replay(loaded, deployment.vault.policies, ZoneInfo("UTC"), AdminSettings())
    async for _ in replay.run(deployment.database, since=deployment.now() - since, report=report):
        pass
    return report


async def test_replay_says_what_rules_would_have_refused_and_asked_about(used_vault: Room, folder: Path) -> None:
    asking = '@id("ask-lists") @approval forbid(principal, action == Action::"slack_channels", resource)'
    report = await replay_activity(used_vault, folder, RULE, f'{asking} when {{ principal == User::"ALICE" }};')
    assert dict(report.uses) == {"ask": 2, "forbid": 1}
    assert report.by_rule["ask-lists", "ask"] == 2
    assert report.by_rule["no-posts", "forbid"] == 1
    assert dict((await replay_activity(used_vault, folder, RULE.replace("slack_post", "gmail_send"))).uses) == {
        "allow": 3
    }
    assert not (await replay_activity(used_vault, folder, RULE, since=-3600)).uses, "nothing is as new as that"


@pytest.mark.parametrize(
    ("condition", "uses"),
    [
        ('when { context.arguments.channel == "#general" }', {"allow": 2, "open": 1}),
        ('when { context.agent.kind == "manual" && context.arguments.channel == "#general" }', {"allow": 3}),
        (
            'when { context.agent.kind == "dynamic" && context.arguments.channel == "#general" }',
            {"allow": 2, "open": 1},
        ),
        ('unless { context.agent.kind == "dynamic" || context.arguments.channel == "#general" }', {"allow": 3}),
        ("unless { context has address && context.address.isLoopback() }", {"allow": 2, "open": 1}),
        ("unless { context.strong }", {"allow": 2, "open": 1}),
    ],
)
async def test_what_was_not_recorded_is_never_guessed(
    used_vault: Room, folder: Path, condition: str, uses: dict[str, int]
) -> None:
    report = await replay_activity(used_vault, folder, f"{RULE[:-1]} {condition};")
    assert dict(report.uses) == uses
    if "open" in uses:
        (why,) = report.open_for
        assert why.startswith("not recorded: ")


async def test_a_sure_refusal_needs_nothing_that_was_not_recorded(used_vault: Room, folder: Path) -> None:
    unsure = RULE.replace("no-posts", "unsure")[:-1] + ' when { context.arguments.channel == "x" };'
    report = await replay_activity(used_vault, folder, unsure, RULE)
    assert dict(report.uses) == {"allow": 2, "forbid": 1}
    assert report.by_rule["no-posts", "forbid"] == 1


async def test_the_command_says_what_it_counted(used_vault: Room, folder: Path) -> None:
    (folder / "rules.cedar").write_text(f'{RULE[:-1]} when {{ context.arguments.text == "hi" }};')
    await used_vault.vault.deployment.activity.settle()
    place = Store("", used_vault.vault.deployment.data)
    said = await run(place, "policy", "replay", "--since", "1h", "--folder", str(folder))
    assert said.exit_code == 0, said.output
    assert "against 3 uses of accounts: 0 forbidden, 0 asked about, 2 allowed, 1 couldn't be judged." in said.output
    assert "1 couldn't be judged: not recorded: arguments" in said.output
    (folder / "rules.cedar").write_text(RULE)
    found = await content(place, "policy", "replay", "--folder", str(folder))
    assert (found["uses"], found["forbid"], found["could_not_be_judged"]) == (3, 1, 0)
    assert [one["call"] for one in found["affected"]] == ["slack_post"]
    wrong = await run(place, "policy", "replay", "--since", "soon", "--folder", str(folder))
    assert (wrong.exit_code, "such as 90d" in wrong.output) == (1, True)
