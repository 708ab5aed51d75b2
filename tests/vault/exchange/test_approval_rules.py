"""Which calls need approval: the entry for all tools that may change something, and named tools and scopes."""

from __future__ import annotations

import pytest

from vault.exchange.approval_rules import WRITES, ApprovalQuestion
from vault.upstream import UpstreamPolicy

POLICY = UpstreamPolicy(
    "chat",
    covers={"all": frozenset({"write", "read"})},
    always_granted=frozenset({"openid"}),
    tool_scopes={"post": frozenset({"write"}), "look": frozenset({"all"})},
    writing_tools=frozenset({"post", "delete"}),
    reading=frozenset({"read"}),
)
ALL = frozenset({"all"})


@pytest.mark.parametrize(
    ("scopes", "tool", "asks"),
    [
        ({"write"}, "post", True),
        ({"all"}, "look", False),  # a tool that only reads is allowed, although its scope could write
        ({"all"}, "delete", True),  # unknown here, as if from a later release
        ({"read"}, None, False),
        ({"read", "openid"}, None, False),
        ({"write"}, None, True),
        ({"all"}, None, True),
        ({"unknown"}, None, True),
    ],
)
def test_whatever_may_write_is_asked_about(scopes: set[str], tool: str | None, *, asks: bool) -> None:
    asked = ApprovalQuestion(frozenset({WRITES}), ALL, POLICY)
    assert asked.is_about(frozenset(scopes), tool=tool) is asks
    assert not ApprovalQuestion(frozenset(), ALL, POLICY).is_about(frozenset(scopes), tool=tool)


def test_the_entry_stands_beside_others() -> None:
    asked = ApprovalQuestion(frozenset({WRITES, "tool:look"}), ALL, POLICY)
    assert asked.is_about(ALL, tool="look")
    assert asked.is_about(ALL, tool="post")
