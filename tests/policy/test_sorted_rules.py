"""Which rules apply to a call is computed in advance. Cedar, given all rules and all known facts, must agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.policy.cases import CasePlace
from server.policy.facts import AgentFacts, CallFacts, as_json
from server.policy.rules import RuleSet
from server.policy.schema import ATTRIBUTES
from tests.support.rules import MAIL, Rules, rules_in, with_arguments
from vault.refresh.policy_checks import PolicyOutcome

TOOLS = ("gmail_send", "slack_post", "slack_channels")
SCOPES = ("action", *(f'action == Action::"{one}"' for one in TOOLS), 'action in Action::"writes"')
ANYWHERE = (
    'resource.provider == "slack"',
    '"google" == resource.provider',
    'context.agent.id == "a1"',
    "context.hour == 12",
    "!context.strong",
    'principal == User::"alice"',
)
OF_TOOL: Mapping[str, tuple[str, ...]] = {
    "gmail_send": (
        'context.arguments has account && context.arguments.account == "x"',
        'context.arguments.subject == "x"',
        '"y" == context.arguments.subject',
        'context.arguments.text == "x"',
        'context.recipientDomains.contains("example.com")',
    ),
    "slack_post": (
        'context.arguments has account && context.arguments.account == "y"',
        'context.arguments.channel == "x"',
        'context.arguments.text like "*y*"',
    ),
}
ARGUMENTS: Mapping[str, Mapping[str, object]] = {"gmail_send": MAIL, "slack_post": {"channel": "C123", "text": "hello"}}
NAMES = ("account", "subject", "text", "channel")
CALLS = st.tuples(
    st.sampled_from(TOOLS),
    st.sampled_from(("a1", "a2")),
    st.booleans(),
    st.fixed_dictionaries({name: st.sampled_from((None, "x", "y", "z", "ü", "")) for name in NAMES}),
)


@st.composite
def draw_rule(draw: st.DrawFn) -> tuple[str, bool]:
    """The scope and conditions of one rule that fits the schema, and whether it asks."""
    scope = draw(st.sampled_from(SCOPES))
    conditions = [*ANYWHERE, *next((more for tool, more in OF_TOOL.items() if tool in scope), ())]
    clauses = draw(
        st.lists(
            st.tuples(
                st.sampled_from(("when", "when", "when", "unless")),
                st.lists(st.sampled_from(conditions), min_size=1, max_size=3),
                st.sampled_from((" && ", " && ", " || ")),
            ),
            min_size=1,
            max_size=2,
        )
    )
    text = " ".join(f"{kind} {{ {joint.join(parts)} }}" for kind, parts, joint in clauses)
    return f"forbid(principal, {scope}, resource) {text};", draw(st.booleans())


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> CasePlace:
    found = (await rules_in(tmp_path_factory.mktemp("place"))).place
    tools = [one for one in found.providers.tools if one.name in TOOLS]
    return replace(found, providers=replace(found.providers, tools=tools))


@settings(max_examples=60)
@given(rules=st.lists(draw_rule(), min_size=1, max_size=6), calls=st.lists(CALLS, min_size=1, max_size=6))
def test_sorted_rules_say_what_all_rules_together_say(
    place: CasePlace,
    tmp_path_factory: pytest.TempPathFactory,
    rules: list[tuple[str, bool]],
    calls: list[tuple[str, str, bool, dict[str, str | None]]],
) -> None:
    here = Rules(tmp_path_factory.mktemp("rules"), place)
    texts = [f'@id("r{n}") {"@approval " if asks else ""}{text}' for n, (text, asks) in enumerate(rules)]
    loaded = here.load(*texts)
    assert [one.asks for one in loaded.rules] == [asks for _, asks in rules]
    for tool, agent, is_strong, arguments in calls:
        facts = here.facts(loaded, tool, user="alice", strong=is_strong, arguments=ARGUMENTS.get(tool, {}))
        call = with_arguments(replace(facts, agent=AgentFacts(agent)), **arguments)
        expected = _all_at_once(loaded, texts, call)
        for _ in range(2):  # the second time, the answer comes from memory
            assert loaded.judge(call).outcome is expected


def _all_at_once(rules: RuleSet, texts: Sequence[str], call: CallFacts) -> PolicyOutcome:
    """Evaluated with Cedar's documented function, from the text of all rules and all known facts."""
    policies = "\n".join(["permit(principal, action, resource);", *texts])
    asked: dict[str, object] = {
        "principal": {"type": "User", "id": call.person.key},
        "action": {"type": "Action", "id": call.action.name},
        "resource": {"type": "Account", "id": call.account_id},
        "context": as_json(call.context(dict.fromkeys(ATTRIBUTES))),
    }
    entities = as_json([call.account_entity(), call.person_entity(), call.action_entity()])
    found = cedarpy.is_authorized(asked, policies, entities)  # pyright: ignore[reportUnknownMemberType] -- its signature has a bare dict
    said = [rules.rules[int(one.removeprefix("policy")) - 1] for one in found.diagnostics.reasons if one != "policy0"]
    if found.diagnostics.errors or any(not one.asks for one in said):
        return PolicyOutcome.FORBID
    return PolicyOutcome.ASK if said else PolicyOutcome.ALLOW


@pytest.mark.parametrize("text", [5, "\ud800", "x\ud800"])
def test_a_rule_sees_every_argument_that_is_no_plain_text(
    place: CasePlace, tmp_path_factory: pytest.TempPathFactory, text: object
) -> None:
    here = Rules(tmp_path_factory.mktemp("rules"), place)
    scope = 'principal, action == Action::"gmail_send", resource'
    rules = here.load(f'@id("one") forbid({scope}) when {{ context.arguments.subject == "x" }};')
    call = here.facts(rules, "gmail_send", arguments=MAIL)
    assert rules.judge(with_arguments(call, subject=text)).outcome is PolicyOutcome.FORBID
    assert rules.judge(with_arguments(call, subject="y")).outcome is PolicyOutcome.ALLOW


def test_the_ways_through_the_texts_of_rules_are_bounded(
    place: CasePlace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever an agent chooses to send must not make the vault compile rules again with each call."""
    here = Rules(tmp_path_factory.mktemp("rules"), place)
    scope = 'principal, action == Action::"gmail_send", resource'
    rules = here.load(
        *(
            f'@id("{name}-{n}") forbid({scope}) when {{ context.arguments.{name} == "{n}" }};'
            for name in ("subject", "text")
            for n in range(30)
        )
    )
    call = here.facts(rules, "gmail_send", arguments=MAIL)
    for n in range(32):
        for other in range(32):
            found = rules.judge(with_arguments(call, subject=str(n), text=str(other)))
            assert (found.outcome is PolicyOutcome.FORBID) is (n < 30 or other < 30)
    assert len(rules._compiled) <= 256  # pyright: ignore[reportPrivateUsage] -- its size is the point
