"""What people approve each time is alike at services that do the same."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from providers.api.rules import Call, allows, expand
from providers.definitions.catalog import load_catalog
from providers.definitions.model import Provider
from providers.tools.spec import ToolSpec
from server.mcp.approval_settings import ApprovalRules
from server.settings import load_settings
from tests.generating.shipped_tools import shipped_tools
from vault.exchange.approval_rules import ApprovalQuestion

CATALOG = load_catalog()
TOOLS: Mapping[str, ToolSpec] = shipped_tools()
MONEY = re.compile(r"(?<![a-z])(refund|payout|transfer(?!Ownership)|withdraw|purchase|charge)", re.IGNORECASE)
ASKS = ApprovalRules.from_settings(load_settings(), CATALOG, tuple(TOOLS.values()))


def asks(provider: Provider, scope: str) -> bool:
    """Whether a token with this scope, released for later use, needs the person's approval."""
    policy = ASKS.apply(provider.policy())
    scopes = frozenset({scope})
    return ApprovalQuestion(policy.ask, scopes, policy).is_about(scopes, tool=None)


def test_a_scope_that_moves_money_and_does_other_things_asks() -> None:
    """A scope for money alone is the person's own choice."""
    unasked: list[str] = []
    found = 0
    for provider in CATALOG.all_providers():
        tools = [one for one in TOOLS.values() if one.provider == provider.name and not one.approval]
        for rule in provider.rules:
            if rule.method == ("GET",) or MONEY.search(rule.path) is None:
                continue
            found += 1
            for scope in rule.scopes:
                is_shared = any(scope in expand(provider, tool.scopes) for tool in tools)
                if is_shared and not asks(provider, scope):
                    unasked.append(f"{provider.name}: {rule.path} with {scope}")
    assert found > 4
    assert unasked == []


@pytest.mark.parametrize(
    ("name", "money", "reading"), [("stripe-apps", "write", "read"), ("stripe-connect", "read_write", "read_only")]
)
def test_a_refund_asks_and_a_look_does_not(name: str, money: str, reading: str) -> None:
    provider = CATALOG.provider(name)
    refund = Call("main", "POST", "/refunds", {"charge": "ch_1"})
    for scope, may_refund in ((money, True), (reading, False)):
        assert allows(provider, refund, frozenset({scope})) == asks(provider, scope) == may_refund


@pytest.mark.parametrize(
    "alike",
    [
        ("stripe_connect_refund", "stripe_apps_refund"),
        ("cal_com_booking_cancel", "calendly_event_cancel"),
        ("okta_group_add", "keycloak_group_join"),
    ],
)
def test_tools_that_do_the_same_ask_alike(alike: tuple[str, ...]) -> None:
    assert all(TOOLS[name].approval for name in alike)
    for name in alike:
        others = [one for one in TOOLS.values() if one.provider == TOOLS[name].provider and one.read_only]
        assert others
        assert not any(one.approval for one in others)


def test_changing_meetings_changes_no_users() -> None:
    zoom = CATALOG.provider("zoom")
    for method in ("PATCH", "DELETE"):
        assert not allows(zoom, Call("main", method, "/users/12"), frozenset({"write"}))
        assert allows(zoom, Call("main", method, "/meetings/12"), frozenset({"write"}))
