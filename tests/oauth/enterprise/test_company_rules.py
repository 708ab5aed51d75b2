"""What a company's rules allow an agent to do with its people's accounts."""

from __future__ import annotations

import pytest

from server.issuer_settings import AllowedAgents
from server.mcp.offer.connections_spec import SPEC
from server.oauth.enterprise.rules import allowed_by
from tests.support.rooms.enterprise_room import Company
from vault.company_access import ASK


@pytest.mark.parametrize("asks", [False, True])
async def test_a_tool_in_a_rule_adds_the_scopes_that_it_needs(shared_company: Company, *, asks: bool) -> None:
    post = shared_company.place.deployment.tool("slack_post")
    assert post is not None
    known = {"slack_post": post, "connections": SPEC}
    rule = AllowedAgents(
        agents=("Invoices",), tools=(*known, "removed_tool"), accounts={"slack": ("read",)}, ask_writes=asks
    )
    allowed = allowed_by({"everyone": rule}, groups=frozenset(), tool=known.get, further=None)
    assert allowed.accounts == {"slack": post.scopes | {"read"} | ({ASK} if asks else set())}
