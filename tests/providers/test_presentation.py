"""How calls look to the person who approves them: what tools declare fits, and hostile content stays harmless."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from providers.definitions.catalog import load_catalog
from providers.tools.builtin import builtin_tools
from providers.tools.declarations import ToolFileRefused, read_tool_file
from providers.tools.declared_tools import data_tools
from providers.tools.presentation import DEFAULT, Lookup, Presentation, problem
from tests.generating.shipped_tools import shipped_tools

FILE = """
provider = "slack"
[[tool]]
name = "announce"
title = "Announce"
description = "Post an announcement."
scopes = ["chat:write"]
effect = "create"
[tool.presentation]
sentence = "announce in {channel}"
[[tool.presentation.lookups]]
api = "web"
path = "/conversations.info"
query = { channel = "{channel}" }
scopes = ["channels:read"]
names = { channel = "#{channel.name}" }
[tool.request]
api = "web"
method = "POST"
path = "/chat.postMessage"
[tool.arguments.channel]
description = "The channel"
[tool.result]
fields = { ts = { path = "ts", type = "word" } }
line = "{ts}"
"""


def test_every_tool_that_changes_something_says_what_in_a_sentence_about_its_arguments() -> None:
    catalog = load_catalog()
    for spec in (*builtin_tools(), *shipped_tools().values()):
        assert spec.provider is not None
        assert problem(spec.presentation, catalog.provider(spec.provider), spec.input.model_fields) is None, spec.name
        assert spec.read_only or spec.presentation.sentence, f"{spec.name}: declare a sentence"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("{channel}", "{chanel}", "names chanel"),
        ('["channels:read"]', '["chat:write"]', "only reads"),
        ('api = "web"\npath = "/conv', 'api = "wob"\npath = "/conv', "no API 'wob'"),
        ("/conversations.info", "/conversations.everything", "no request rule"),
        ('["channels:read"]', '["team:read"]', "no request rule"),
    ],
)
def test_a_presentation_that_does_not_fit_is_refused_with_its_fix(tmp_path: Path, old: str, new: str, why: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(ToolFileRefused, match=why):
        data_tools([(path, read_tool_file(path))], load_catalog())
    path.write_text(FILE)
    (spec,) = data_tools([(path, read_tool_file(path))], load_catalog())  # the twin
    assert spec.presentation.parts() == (("announce in ", "channel"), ("", ""))


def test_domains_are_those_of_people() -> None:
    with pytest.raises(ValidationError):
        Presentation(target_domains=("to",))
    assert Presentation(people=("to",), target_domains=("to",))


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        ({"to": ["a@Example.com", "b@example.com"]}, {"domains": ["example.com"]}),
        ({"to": ["a@example.com"], "cc": ["c@other.example"]}, {"domains": ["example.com", "other.example"]}),
        ({"to": "a@example.com"}, {"domains": ["example.com"]}),
        ({"to": ["a@example.com@evil.example"]}, None),
        ({"to": ["Alice <a@example.com>"]}, None),
        ({"to": ["nobody"]}, None),
        ({"to": []}, None),
        ({}, None),
    ],
)
def test_a_target_of_domains_is_all_recipients_or_none(
    arguments: Mapping[str, object], target: Mapping[str, object] | None
) -> None:
    shown = Presentation(people=("to", "cc"), target_domains=("to", "cc"))
    assert shown.target_of(arguments) == target


def test_a_target_binds_its_arguments_as_they_are() -> None:
    shown = Presentation(target=("channel",), people=("to",), target_domains=("to",))
    assert shown.target_of({"channel": "#a", "text": "x"}) == {"channel": "#a", "domains": []}
    assert shown.target_of({"channel": "#a", "to": ["b@c.example"]}) == {"channel": "#a", "domains": ["c.example"]}
    assert DEFAULT.target_of({"channel": "#a"}) is None


LOOKUP = Lookup(
    api="web",
    path="/{channel}",
    query={"of": "{user}"},
    scopes=frozenset({"channels:read"}),
    only={"channel": "C[0-9]+"},
    names={"channel": "#{channel.name} ({count})"},
    before={"topic": ("channel.topic", "channel.old")},
)


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ({"channel": "C1", "user": 7}, {"channel": "C1", "user": "7"}),
        ({"channel": "general", "user": "u"}, None),
        ({"channel": "C1\n", "user": "u"}, None),
        ({"channel": "C1"}, None),
        ({"channel": "C1", "user": ["u"]}, None),
        ({"channel": "C1", "user": True}, None),
        ({"channel": "C1", "user": ""}, None),
    ],
)
def test_a_lookup_asks_only_with_values_of_the_expected_form(
    arguments: Mapping[str, object], values: Mapping[str, str] | None
) -> None:
    assert LOOKUP.values_of(arguments) == values


def test_what_a_provider_answers_is_cut_cleaned_and_on_one_line() -> None:
    hostile = {"channel": {"name": "a\u202eb\nc" + "x" * 500, "topic": {}, "old": "before"}, "count": 3}
    (name,) = LOOKUP.read_names(hostile).values()
    assert name.startswith("#ab cxx")
    assert len(name) == 120
    assert LOOKUP.read_before(hostile) == {"topic": "before"}
    assert LOOKUP.read_names({"channel": {"name": "a"}}) == {}, "half a name is none"
    assert LOOKUP.read_before({}) == {"topic": ""}


def test_a_tool_that_declares_nothing_has_its_texts_and_recipients_recognized() -> None:
    assert DEFAULT.is_text("body", "short")
    assert DEFAULT.is_text("note", "a\nb")
    assert DEFAULT.is_text("note", "x" * 200)
    assert not DEFAULT.is_text("note", "short")
    assert not DEFAULT.is_text("body", 7)
    assert DEFAULT.is_people("to", ["a@b.example"])
    assert not DEFAULT.is_people("to", [])
    assert not DEFAULT.is_people("channel", "#a")
    assert not Presentation(texts=("note",)).is_text("body", "short"), "the tool said which are texts"


@pytest.mark.parametrize("told", ["{agent} did {what}", "{agent", "agent}", "{agent} {count}{ }"])
def test_what_a_call_did_takes_agent_account_and_count_only(told: str) -> None:
    with pytest.raises(ValidationError, match="done takes"):
        Presentation(done=told)
    told = "{agent} read {count}things of {account}"
    shown = Presentation(done=told, done_one="{agent} read 1 thing of {account}")
    assert (shown.words_for(2), shown.words_for(None), DEFAULT.words_for(1)) == (told, told, "")
    assert shown.words_for(1) == "{agent} read 1 thing of {account}"
    assert Presentation(done=told).words_for(1) == told


@pytest.mark.parametrize(
    ("tool", "arguments", "answer", "named"),
    [
        ("figma_comment", {"file": "Fk1"}, {"file": {"name": "Landing page"}}, "Landing page"),
        ("figma_comment", {"file": "Fk1"}, {"name": "Landing page"}, "Landing page"),
        ("notion_create", {"parent": "p"}, {"properties": {"Name": {"title": [{"plain_text": "Row"}]}}}, "Row"),
        ("linear_create", {"team": "t"}, {"data": {"team": {"name": "Engineering"}}}, "Engineering"),
        ("jira_create", {"site": "s", "project": "AB"}, {"name": "Abacus"}, "Abacus"),
        ("digitalocean_droplet_action", {"droplet": 7}, {"droplet": {"name": "web-1"}}, "web-1"),
        ("pagerduty_note", {"incident": "Q1"}, {"incident": {"title": "Disk full"}}, "Disk full"),
        ("jira_comment", {"site": "s", "issue": "AB-1"}, {"fields": {"summary": "Login fails"}}, "Login fails"),
        ("hubspot_note", {"contact": "5"}, {"properties": {"firstname": "Ann", "lastname": "Lee"}}, "Ann Lee"),
        ("asana_task_create", {"workspace": "9"}, {"data": {"name": "Acme"}}, "Acme"),
        (
            "notion_comment",
            {"page": "p"},
            {"properties": {"title": {"title": [{"plain_text": "Handbook"}]}}},
            "Handbook",
        ),
    ],
)
def test_ids_get_the_names_that_their_services_answer_with(
    tool: str, arguments: Mapping[str, object], answer: Mapping[str, object], named: str
) -> None:
    found = shipped_tools()[tool].presentation.lookups
    assert len({(one.path, one.graphql) for one in found}) == 1, "one read, whose answer can have one of two forms"
    assert all(one.values_of(arguments) is not None for one in found)
    assert [name for one in found for name in one.read_names(answer).values()] == [named]
