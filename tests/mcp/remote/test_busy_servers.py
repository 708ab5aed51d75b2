"""What a third-party MCP server that is unavailable says about a call."""

from __future__ import annotations

import pytest
from starlette.responses import Response

from tests.mcp.remote.conftest import SUM, Known
from tests.mcp.remote.remote_room import RemoteRoom, text

MAYBE = "The call may have been carried out. Check before you try again"


@pytest.mark.parametrize(
    ("headers", "advice"),
    [({"Retry-After": "7"}, f"{MAYBE} in 7 s."), ({}, f"{MAYBE}."), ({"Retry-After": "x"}, f"{MAYBE}.")],
)
async def test_a_call_that_meets_a_503_may_have_been_carried_out(
    place: RemoteRoom, known_server: Known, headers: dict[str, str], advice: str
) -> None:
    """As with other APIs: only a rate limit says that nothing was done."""
    name, double, agent = known_server
    for status, said in ((503, advice), (429, "is rate limiting. Nothing was done; try again in")):
        double.answer = Response(status_code=status, headers=headers)
        async with place.room.client(agent) as client:
            told = await place.call(client, f"{name}_add", SUM)
        assert told.is_error
        assert said in text(told)
