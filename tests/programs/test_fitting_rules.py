"""Which rules a program's call can match before its body is known, and which of their scopes are used or asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from providers.definitions.catalog import load_catalog
from providers.definitions.model import Rule
from server.proxy import program_access
from server.proxy.program_access import WantedCall
from server.proxy.program_hosts import ApiAddress
from tests.support.rooms.program_room import program_room

SLACK = load_catalog().provider("slack")
AT = ApiAddress("slack", "web", "https", "slack.com", 443, "/api")
LIST = "/api/conversations.list"
ALL = {"channels:read", "groups:read", "im:read", "mpim:read"}


async def test_a_condition_that_the_body_may_meet_is_open(tmp_path: Path) -> None:
    async with program_room(tmp_path) as room, room.access() as access:
        for method, query, scopes in (
            ("GET", b"", {"channels:read"}),
            ("GET", b"types=im", {"im:read"}),
            ("HEAD", b"types=mpim", {"mpim:read"}),
            ("POST", b"", ALL),
            ("POST", b"types=im", {"im:read"}),
            ("POST", b"types=nothing", set()),
            ("POST", b"limit=5", ALL),
        ):
            call = WantedCall(method, LIST, query, "Some.Operation")
            found = access.rules_for(SLACK, AT, call)
            assert {scope for rule in found for scope in rule.scopes} == scopes, call


def rule(*scopes: str, needs: frozenset[str] = frozenset()) -> Rule:
    return SLACK.rules[0].model_copy(update={"scopes": frozenset(scopes), "needs": needs})


@pytest.mark.parametrize(
    ("may", "expected"),
    [
        ({"a"}, {"a"}),
        ({"b"}, {"b"}),
        ({"a", "b"}, {"a"}),
        ({"c"}, set[str]()),  # it needs another, too
        ({"c", "n"}, {"c", "n"}),
        ({"a", "c", "n"}, {"a", "c", "n"}),
        (set[str](), set[str]()),
    ],
)
def test_of_each_rule_one_scope_is_used_with_those_that_it_needs(may: set[str], expected: set[str]) -> None:
    fitting = [rule("a", "b"), rule("c", needs=frozenset({"n"}))]
    assert program_access._scopes_within(SLACK, fitting, frozenset(may)) == expected


async def test_the_least_is_asked_for_and_preferably_what_the_account_has(tmp_path: Path) -> None:
    async with program_room(tmp_path) as room:
        fitting = [rule("b", "c", needs=frozenset({"n"})), rule("d")]
        for has, expected in (
            (None, {"d"}),
            (set[str](), {"d"}),
            ({"b", "n"}, {"b", "n"}),
            ({"c", "n"}, {"c", "n"}),
            ({"b", "n", "d"}, {"d"}),
            ({"b"}, {"d"}),
        ):
            account = None if has is None else replace(room.account, scopes=frozenset(has))
            assert program_access._least(fitting, account) == expected, has
