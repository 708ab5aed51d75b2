"""What rules decide about a call, which rules are refused at loading, and what an attacker can't get past them."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import cedarpy
import pytest
from cedarpy import _internal

from server.policy.cases import CasePlace
from server.policy.files import RulesRefused, fingerprint, split
from server.policy.gate import load
from server.policy.schema import actions_of
from tests.support.rules import MAIL, Rules, rules_in, with_arguments
from vault.refresh.policy_checks import PolicyOutcome

NO_POSTS = '@id("no-posts") @reason("not now") forbid(principal, action == Action::"slack_post", resource);'
POST: dict[str, object] = {"channel": "C123", "text": "hello"}
TEST = {"method": "POST", "api": "web", "path": "/auth.test"}  # which any of several scopes allows


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> CasePlace:
    return (await rules_in(tmp_path_factory.mktemp("place"))).place


@pytest.fixture
def here(tmp_path: Path, place: CasePlace) -> Rules:
    return Rules(tmp_path / "rules", place)


def rule(condition: str, *, scope: str = "principal, action, resource", name: str = "one", notes: str = "") -> str:
    return f'@id("{name}") {notes} forbid({scope}) {condition};'


async def test_a_rule_takes_away_what_it_names_and_nothing_else(here: Rules) -> None:
    rules = here.load(NO_POSTS)
    verdict = here.judge(rules, "slack_post", arguments=POST)
    assert (verdict.outcome, verdict.rule, verdict.reason) == (PolicyOutcome.FORBID, "no-posts", "not now")
    assert verdict.digest == rules.digest
    assert here.outcome(rules, "slack_channels") == "allow"


@pytest.mark.parametrize(
    ("condition", "met", "unmet"),
    [
        ('when { principal == User::"Alice" }', {"user": "alice"}, {"user": "bob"}),
        ('when { principal in Group::"FINANCE" }', {"groups": ["Finance"]}, {"groups": ["Sales"]}),
        ('when { principal.role == "auditor" }', {"role": "auditor"}, {"role": "member"}),
        ('when { context.agent.id == "bot" }', {"agent": "bot"}, {"agent": "other"}),
        ('when { context.agent.kind == "dynamic" }', {"agent_kind": "dynamic"}, {"agent_kind": "manual"}),
        ('when { context.actors.contains("worker") }', {"actors": ["worker"]}, {}),
        ('when { resource.provider == "google" && resource.name like "*@corp.example" }',
         {"account": "a@corp.example"}, {"account": "a@home.example"}),
        ("when { context.hour >= 19 }", {"at": "2026-01-07T20:00"}, {"at": "2026-01-07T18:59"}),
        ('when { ["Saturday", "Sunday"].contains(context.weekday) }', {"at": "2026-01-10T12:00"}, {}),
        ('when { context.now > datetime("2026-06-01") }', {"at": "2026-06-02T00:00"}, {}),
        ("unless { context.strong }", {}, {"strong": True}),
        ("unless { context has signedInSeconds && context.signedInSeconds < 600 }", {}, {"signed_in_seconds": 5}),
        ('unless { context has address && context.address.isInRange(ip("10.0.0.0/8")) }',
         {"address": "192.0.2.1"}, {"address": "10.1.2.3"}),
        ('unless { context has address && context.address.isInRange(ip("10.0.0.0/8")) }',
         {}, {"address": "::ffff:10.1.2.3"}),
        ('unless { ["example.com"].containsAll(context.recipientDomains) }',
         {"arguments": {**MAIL, "bcc": ["eve@evil.test"]}}, {"arguments": MAIL}),
        ('when { context.recipientDomains.contains("evil.test") }',
         {"arguments": {**MAIL, "cc": ["eve@EVIL.test"]}}, {"arguments": MAIL}),
        ('when { context.arguments.subject like "*Urgent*" }', {"arguments": {**MAIL, "subject": "Urgent!"}}, {}),
        ("when { context.arguments has cc && context.arguments.cc.contains(\"x@y.test\") }",
         {"arguments": {**MAIL, "cc": ["x@y.test"]}}, {}),
        ('when { action == Action::"gmail_send" && context.scopes.contains("https://www.googleapis.com/auth/x") }',
         {"scopes": ["https://www.googleapis.com/auth/x"]}, {}),
    ],
)  # fmt: skip
async def test_each_thing_that_a_rule_can_look_at(
    here: Rules, condition: str, met: dict[str, object], unmet: dict[str, object]
) -> None:
    rules = here.load(rule(condition, scope='principal, action == Action::"gmail_send", resource'))
    assert here.outcome(rules, "gmail_send", **{"arguments": MAIL, **met}) == "forbid"
    assert here.outcome(rules, "gmail_send", **{"arguments": MAIL, **unmet}) == "allow"


async def test_a_condition_can_name_a_group_of_actions(here: Rules) -> None:
    rules = here.load(rule('when { action in Action::"writes" }'))
    assert here.outcome(rules, "slack_post", arguments=POST) == "forbid"
    assert here.outcome(rules, "slack_channels") == "allow"


@pytest.mark.parametrize(
    ("scope", "met", "unmet"),
    [
        ('principal == User::"Alice", {action}, resource', {"user": "alice"}, {"user": "bob"}),
        ('principal in Group::"FINANCE", {action}, resource', {"groups": ["Finance"]}, {"groups": ["Sales"]}),
        ('principal is User in Group::"FINANCE", {action}, resource', {"groups": ["Finance"]}, {}),
        ("principal is User, {action}, resource", {}, None),
        ('principal, {action}, resource == Account::"acc"', {"account_id": "acc"}, {"account_id": "other"}),
        ('principal, {action}, resource in Account::"acc"', {"account_id": "acc"}, {"account_id": "other"}),
        ('principal, {action}, resource is Account in Account::"acc"', {"account_id": "acc"}, {"account_id": "other"}),
        ("principal, {action}, resource is Account", {"account_id": "acc"}, None),
    ],
)  # fmt: skip
async def test_each_scope_that_a_rule_can_have(
    here: Rules, scope: str, met: dict[str, object], unmet: dict[str, object] | None
) -> None:
    def outcome(facts: dict[str, object]) -> PolicyOutcome:
        asked = {name: value for name, value in facts.items() if name != "account_id"}
        call = here.facts(rules, "slack_post", **asked, arguments=POST)
        return rules.judge(replace(call, account_id=str(facts.get("account_id", "-")))).outcome

    for action in ("action", 'action == Action::"slack_post"', 'action in Action::"writes"'):
        rules = here.load(rule("", scope=scope.replace("{action}", action)))
        assert outcome(met) is PolicyOutcome.FORBID
        if unmet is not None:
            assert outcome(unmet) is PolicyOutcome.ALLOW


async def test_a_rule_can_ask_the_person_instead_and_a_forbidding_one_comes_first(here: Rules) -> None:
    asking = rule("", scope='principal, action in Action::"writes", resource', name="ask", notes="@approval")
    night = rule("when { context.hour < 6 }", name="night")
    rules = here.load(asking, night)
    assert here.outcome(rules, "slack_post", arguments=POST) == "ask"
    assert here.outcome(rules, "slack_post", arguments=POST, at="2026-01-07T05:00") == "forbid"
    assert here.outcome(rules, "slack_channels") == "allow"


async def test_the_time_is_that_of_the_time_zone(tmp_path: Path) -> None:
    here = await rules_in(tmp_path, zone="Asia/Tokyo")
    rules = here.load(rule("when { context.hour == 8 }"))
    assert here.outcome(rules, "slack_channels", at="2026-01-06T23:30:00+00:00") == "forbid"
    assert here.outcome(rules, "slack_channels", at="2026-01-07T08:30") == "forbid"
    assert here.outcome(rules, "slack_channels", at="2026-01-07T08:30:00+00:00") == "allow"


# Other ways to the same effect


@pytest.mark.parametrize(
    "governing",
    [
        NO_POSTS,
        rule(
            'when { context.arguments.channel == "C123" }', scope='principal, action == Action::"slack_post", resource'
        ),
        rule("", scope='principal, action in Action::"writes", resource'),
        rule('when { action == Action::"slack_post" }'),
        rule('when { action in Action::"writes" }'),
        rule('unless { action in Action::"reads" }', scope='principal, action in Action::"tools", resource'),
    ],
)
@pytest.mark.parametrize("way", ["exchange", "proxy"])
async def test_what_holds_for_a_tool_holds_for_its_scopes_elsewhere(here: Rules, governing: str, way: str) -> None:
    rules = here.load(governing)
    verdict = here.judge(rules, way, provider="slack", scopes=["chat:write", "channels:read"], **TEST)
    assert verdict.outcome is PolicyOutcome.FORBID
    assert "it governs slack_post" in verdict.reason
    assert here.outcome(rules, way, provider="slack", scopes=["channels:read"], **TEST) == "allow"


@pytest.mark.parametrize("way", ["exchange", "proxy"])
async def test_what_holds_for_arguments_holds_for_scopes_of_any_tool_that_has_some(here: Rules, way: str) -> None:
    named = "context has arguments && context.arguments has text"
    rules = here.load(rule(f'when {{ {named} && context.arguments.text like "*secret*" }}'))
    assert here.outcome(rules, way, provider="slack", scopes=["chat:write"], **TEST) == "forbid"
    assert here.outcome(rules, way, provider="slack", scopes=["team:read"], **TEST) == "allow"


@pytest.mark.parametrize("way", ["exchange", "proxy", "slack_api_call"])
async def test_calls_that_no_request_rule_judges_can_do_what_every_tool_does(tmp_path: Path, way: str) -> None:
    here = await rules_in(tmp_path, overrides={"providers": {"slack": {"unruled_calls": "any"}}})
    arguments: dict[str, object] = {"method": "POST", "path": "/chat.scheduleMessage"} if "api" in way else {}
    use: dict[str, object] = {"provider": "slack", "scopes": ["any:call"], "arguments": arguments, **TEST}
    use["path"] = "/{+}"
    rules = here.load(NO_POSTS)
    verdict = here.judge(rules, way, **use)
    assert verdict.outcome is PolicyOutcome.FORBID
    assert "it governs slack_post" in verdict.reason
    assert here.outcome(rules, way, **use | {"scopes": ["channels:read"], **TEST}) == "allow"
    assert here.outcome(here.load(NO_POSTS.replace("slack_post", "gmail_send")), way, **use) == "allow"


@pytest.mark.parametrize("way", ["exchange", "proxy", "github_api_get"])
async def test_reads_that_no_request_rule_judges_can_do_what_every_reading_tool_does(tmp_path: Path, way: str) -> None:
    here = await rules_in(tmp_path, overrides={"providers": {"github": {"unruled_calls": "read"}}})
    arguments: dict[str, object] = {"path": "/user"} if "api" in way else {}
    use: dict[str, object] = {"provider": "github", "scopes": ["any:read"], "arguments": arguments}
    use |= {"method": "GET", "api": "rest", "path": "/{+}"}
    for group, outcome in (("reads", "forbid"), ("writes", "allow")):
        condition = f'when {{ action in Action::"{group}" && !(action == Action::"github_api_get") }}'
        assert here.outcome(here.load(rule(condition)), way, **use) == outcome, group


async def test_a_rule_for_a_tool_leaves_tokens_that_cant_do_its_work(here: Rules) -> None:
    rules = here.load(NO_POSTS)
    assert here.outcome(rules, "exchange", provider="slack", scopes=["channels:read"]) == "allow"
    assert here.outcome(rules, "exchange", provider="slack", scopes=["chat:write"]) == "forbid"


async def test_one_agent_can_be_left_out_of_what_holds_for_tokens(here: Rules) -> None:
    condition = 'when { context.arguments.channel == "C123" } unless { context.agent.id == "trusted" }'
    rules = here.load(rule(condition, scope='principal, action == Action::"slack_post", resource'))
    use: dict[str, object] = {"provider": "slack", "scopes": ["chat:write"]}
    assert here.outcome(rules, "exchange", **use, agent="trusted") == "allow"
    assert here.outcome(rules, "exchange", **use, agent="another") == "forbid"


# Loading


@pytest.mark.parametrize(
    ("bad", "good", "words"),
    [
        ('@id("all") permit(principal, action, resource);', NO_POSTS, "only take away"),
        ("forbid(principal, action, resource);", rule(""), "@id"),
        (rule("", name="Bad Name"), rule("", name="good-name"), "@id"),
        (f"{NO_POSTS}\n{NO_POSTS}", NO_POSTS, "is taken by rules.cedar:1"),
        (rule("", notes='@approval("no")'), rule("", notes="@approval"), "@approval without a value"),
        (rule("", notes="@aproval"), rule("", notes="@approval"), "Did you mean approval?"),
        (rule("", scope='principal, action == Action::"slack_pots", resource'), NO_POSTS, "slack_post"),
        (rule("when { context.arguments.amount > 5 }", scope='principal, action == Action::"slack_post", resource'),
         rule("when { context.hour > 5 }"), "amount"),
        (rule('when { context.hour > "five" }'), rule("when { context.hour > 5 }"), "expected"),
        (rule("when { context.address.isLoopback() }"),
         rule("when { context has address && context.address.isLoopback() }"), "`context has address &&`"),
        (rule("when { true }")[:-1] + " forbid(", rule("when { true }"), "rules.cedar:1"),
        ('@id("t") forbid(principal == ?principal, action, resource);', NO_POSTS, "?principal"),
        (rule("", notes=f'@reason("{"x" * 301}")'), rule("", notes=f'@reason("{"x" * 300}")'), "@reason"),
    ],
)  # fmt: skip
async def test_rules_that_cant_be_meant_are_refused_with_their_place(
    here: Rules, bad: str, good: str, words: str
) -> None:
    with pytest.raises(RulesRefused, match=r"rules\.cedar:1") as refused:
        here.load(bad)
    assert words in " ".join(refused.value.problems)
    assert here.load(good).rules


async def test_every_problem_is_told_with_the_line_of_its_rule(here: Rules) -> None:
    text = ["// a comment; with a semicolon", NO_POSTS, "", "permit(principal, action, resource);", 'forbid("x;");']
    with pytest.raises(RulesRefused) as refused:
        here.load(*text)
    assert [one.partition(": ")[0] for one in refused.value.problems] == ["rules.cedar:4", "rules.cedar:5"]


async def test_a_problem_with_many_actions_is_told_once(here: Rules) -> None:
    def problems(scope: str) -> tuple[str, ...]:
        with pytest.raises(RulesRefused) as refused:
            here.load(rule("when { context.colour == 1 }", scope=scope), rule("when { context.x }", name="two"))
        return tuple(refused.value.problems)

    (one,) = [found for found in problems("principal, action, resource") if "colour" in found]
    assert re.search(r"`colour` in context not found for \d\d actions, such as exchange: token-vault policy", one)
    (one,) = [found for found in problems('principal, action == Action::"slack_post", resource') if "colour" in found]
    assert "`colour` in context not found for slack_post: token-vault policy schema" in one
    assert len(problems("principal, action, resource")) == 2


def test_rules_end_at_semicolons_outside_of_texts_and_comments() -> None:
    text = '\n// one;\n@reason("a \\"; b") // not; here\nforbid(x)\n;\n  two\n;three'
    assert [(line, " ".join(rule.split())[-12:]) for line, rule in split(text)] == [
        (3, "here forbid(x) ;"[-12:]),
        (6, "two ;"),
        (7, "three"),
    ]


async def test_a_missing_folder_is_refused_and_hidden_files_are_no_rules(here: Rules) -> None:
    folder = here.write(NO_POSTS)
    (folder / ".git").mkdir()
    (folder / ".git" / "x.cedar").write_text("nonsense")
    assert len(here.load(NO_POSTS).rules) == 1
    here.folder = folder / "elsewhere" / "deep"
    with pytest.raises(RulesRefused, match="no folder"):
        load(here.folder, actions_of(here.place.providers.tools), setting="policy.folder")


async def test_a_folder_inside_that_cant_be_read_isnt_passed_over(here: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = here.write(NO_POSTS) / "team"
    inside.mkdir()
    before, scan = fingerprint(here.folder), os.scandir

    def scan_all_but_that(path: Path) -> object:
        if Path(path) == inside:
            raise PermissionError(13, "Permission denied", str(inside))
        return scan(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scan_all_but_that)
        assert fingerprint(here.folder) != before
        with pytest.raises(RulesRefused, match="team: can't be read: Permission denied"):
            here.load(NO_POSTS)
    assert len(here.load(NO_POSTS).rules) == 1


async def test_equal_folders_have_equal_digests(here: Rules, tmp_path: Path) -> None:
    first = here.load(NO_POSTS).digest
    here.folder = tmp_path / "copy"
    assert here.load(NO_POSTS).digest == first
    assert here.load(f"{NO_POSTS} ").digest != first


# Hostile calls


async def test_arguments_that_cant_be_compared_exactly_pass_no_rule_that_names_them(here: Rules) -> None:
    rules = here.load(
        rule("when { context.arguments has limit && context.arguments.limit > 50 }",
             scope='principal, action == Action::"slack_channels", resource', name="limit")
    )  # fmt: skip
    call = here.facts(rules, "slack_channels")
    assert rules.judge(with_arguments(call, limit=50)).outcome is PolicyOutcome.ALLOW
    for strange in (2**63, -(2**70), "51", 51.5, [51], True, {"x": 1}):
        verdict = rules.judge(with_arguments(call, limit=strange))
        assert (verdict.outcome, verdict.rule) == (PolicyOutcome.FORBID, "limit"), strange
    assert rules.judge(with_arguments(call, limit=50, cursor=2**70)).outcome is PolicyOutcome.ALLOW, (
        "no rule names the cursor"
    )


async def test_text_that_is_no_unicode_passes_no_rule_that_names_it(here: Rules) -> None:
    rules = here.load(
        rule(
            'when { context.arguments.text like "*secret*" }',
            scope='principal, action == Action::"slack_post", resource',
        )
    )
    call = here.facts(rules, "slack_post", arguments=POST)
    assert rules.judge(with_arguments(call, text="a\ud800")).outcome is PolicyOutcome.FORBID
    for fine in ("\x00", "\U0001f512", "\\", '"', "e\u0301", "*"):
        assert rules.judge(with_arguments(call, text=fine)).outcome is PolicyOutcome.ALLOW, fine
    assert rules.judge(with_arguments(call, text="x" * 1_000_000 + "secret")).outcome is PolicyOutcome.FORBID
    assert rules.judge(with_arguments(call, text="x" * 1_000_000)).outcome is PolicyOutcome.ALLOW


async def test_a_rule_that_fails_for_a_call_forbids_it(here: Rules) -> None:
    rules = here.load(
        rule("when { context.arguments has limit && context.arguments.limit * 9223372036854775807 < 0 }",
             scope='principal, action == Action::"slack_channels", resource', name="overflow", notes="@approval")
    )  # fmt: skip
    assert here.outcome(rules, "slack_channels", arguments={"limit": 1}) == "allow"
    verdict = here.judge(rules, "slack_channels", arguments={"limit": 2})
    assert (verdict.outcome, verdict.rule) == (PolicyOutcome.FORBID, "overflow")
    assert "failed" in verdict.reason


@pytest.mark.parametrize(
    "address",
    [
        "eve@evil.test",
        "Eve <eve@evil.test>",
        "eve@EVIL.TEST.",
        "eve@ok.test,x@evil.test",
        "eve@ evil.test, ann@example.com",
        'eve@"evil.test", ann@example.com',
        "eve\uff20evil.test, ann@example.com",
        "eve\ufe6bevil.test",
        "ann@@example.com",
        "no-domain",
        "eve@\u212avil.test",
    ],
)
async def test_no_spelling_of_an_address_gets_past_its_domain(here: Rules, address: str) -> None:
    rules = here.load(
        rule('unless { ["example.com"].containsAll(context.recipientDomains) }',
             scope='principal, action == Action::"gmail_send", resource')
    )  # fmt: skip
    call = here.facts(rules, "gmail_send", arguments=MAIL)
    assert rules.judge(call).outcome is PolicyOutcome.ALLOW
    assert rules.judge(with_arguments(call, to=[address])).outcome is PolicyOutcome.FORBID


async def test_names_of_people_are_no_code(here: Rules) -> None:
    rules = here.load(rule('when { principal == User::"a\\"b" }', name="quoted"))
    assert here.outcome(rules, "slack_channels", user='a"b') == "forbid"
    assert here.outcome(rules, "slack_channels", user='x" || true || "') == "allow"


async def test_answers_are_remembered_across_calls_in_one_bounded_memory(
    here: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments aren't stored anywhere; a stored answer is never used for another tool's or channel's question."""
    monkeypatch.setattr("server.policy.rules._REMEMBERED", 4)
    asked: list[str] = []
    ask = _internal.is_authorized

    def count(request: dict[str, object], policies: cedarpy.PolicySet, entities: str | _internal.Entities) -> object:
        asked.append(str(request["action"]))
        return ask(request, policies, entities)

    monkeypatch.setattr(_internal, "is_authorized", count)
    channel = 'when { context.arguments has channel && context.arguments.channel == "C99" }'
    posts = 'principal, action == Action::"slack_post", resource'
    hours = ("slack_post", "slack_channels")
    rules = here.load(
        *(rule(f"when {{ context.hour == {n + 5} }}", name=f"r{n}", scope=posts.replace("slack_post", tool))
          for n, tool in enumerate(hours)),
        rule(channel, name="channel", scope=posts),
    )  # fmt: skip
    for _ in range(2):
        for tool, arguments in (("slack_post", POST), ("slack_channels", {})):
            assert here.outcome(rules, tool, arguments=arguments) == "allow"
    assert asked.count(str({"type": "Action", "id": "slack_channels"})) == 1
    assert asked.count(str({"type": "Action", "id": "slack_post"})) == 1, "its hour; no rule is about its channel"
    for _ in range(2):
        assert here.outcome(rules, "slack_post", arguments={**POST, "channel": "C99"}) == "forbid"
    assert asked.count(str({"type": "Action", "id": "slack_post"})) == 2, "and its channel, once"
    assert "C99" not in str(rules._known)  # pyright: ignore[reportPrivateUsage] -- what it holds is the point
    for hour in range(24):
        at = f"2026-01-07T{hour:02}:00"
        for n, tool in enumerate(hours):
            arguments = POST if tool == "slack_post" else {}
            assert here.outcome(rules, tool, arguments=arguments, at=at) == ("forbid" if hour == n + 5 else "allow")
        assert len(rules._known) <= 4  # pyright: ignore[reportPrivateUsage] -- its size is the point


async def test_two_hundred_rules_say_what_each_of_them_says(here: Rules) -> None:
    """Sorting rules by call, provider, and agent, and remembering answers, doesn't change any decision."""
    tools = [one.name for one in here.place.providers.tools if one.provider is not None]
    named = [(tools[n % len(tools)], f"a{n % 7}", n % 24) for n in range(150)]
    written = [
        rule(
            f'when {{ context.agent.id == "{agent}" && context.hour == {hour} }}',
            scope=f'principal, action == Action::"{tool}", resource',
            name=f"r{n}",
        )
        for n, (tool, agent, hour) in enumerate(named)
    ]
    written += [
        rule(f'when {{ resource.provider == "slack" && context.hour == {n % 5} }}', name=f"g{n}") for n in range(50)
    ]
    rules = here.load(*written)
    plain = here.facts(rules, "slack_channels")
    forbidden = 0
    for tool in tools:
        action = rules.actions[tool]
        for agent in ("a0", "a3", "other"):
            for hour in range(24):
                now = plain.now - 12 * 3600 + hour * 3600
                who = replace(plain.agent, id=agent)
                call = replace(plain, action=action, provider=action.provider, agent=who, now=now)
                expected = (tool, agent, hour) in named or (action.provider == "slack" and hour < 5)
                for _ in range(2):
                    assert (rules.judge(call).outcome is PolicyOutcome.FORBID) is expected
                forbidden += expected
    assert forbidden > 20
