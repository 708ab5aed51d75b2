"""Tools that an operator left out, and earlier decisions: what a review shows of them, and what accepting requires."""

from __future__ import annotations

from server.remote import servers
from server.remote.tool_reviews import review_of
from tests.mcp.remote.remote_room import RemoteRoom
from tests.support.doubles.mcp_double import ADD, NOTE


async def test_who_accepts_all_that_is_new_accepts_nothing_that_was_left_out(place: RemoteRoom) -> None:
    name, double = await place.add()
    await place.look(name, await place.room.agent())
    assert await place.accept(name, leaves=["note"]) == ("add",)
    double.tools = [ADD, NOTE, {**ADD, "name": "more"}]
    await place.look(name, await place.room.agent())
    assert {one.name: one.state for one in servers.changes_of(await place.read_server(name))} == {
        "more": "new",
        "note": "left",
    }
    assert await place.accept(name, trusts=True) == ("more",)
    assert place.deployment.tool(f"{name}_note") is None
    assert await place.accept(name, names=["note"]) == ("note",)
    assert place.deployment.tool(f"{name}_note") is not None


async def test_a_tool_that_was_left_out_and_is_gone_needs_no_look(place: RemoteRoom) -> None:
    name, double = await place.add()
    agent = await place.room.agent()
    await place.look(name, agent)
    await place.accept(name, leaves=["note"])
    for tools in ([ADD], [ADD, NOTE]):
        double.tools = tools
        await place.look(name, agent)
        await place.accept(name)
        state = servers.state_of(place.deployment, await place.read_server(name))
        assert (state["usable"], state["held"], state["absent"], state["left"]) == (1, 0, 0, len(tools) - 1)
        assert len(review_of(await place.read_server(name))) == len(tools)
    double.tools = [ADD, {**NOTE, "description": "Other."}]
    await place.look(name, agent)
    assert servers.state_of(place.deployment, await place.read_server(name))["held"] == 1


async def test_a_review_tells_of_a_decision_only_while_it_counts(place: RemoteRoom) -> None:
    one = {"type": "object", "properties": {"a": {"const": 1}}}
    name, double = await place.add(tools=[{**ADD, "inputSchema": one}, {**NOTE, "inputSchema": one}])
    await place.look(name, await place.room.agent())
    await place.accept(name, reads=["add", "note"])
    true = {"type": "object", "properties": {"a": {"const": True}}}  # not equal to 1, although Python says so
    double.tools = [{**ADD, "inputSchema": true}, {**NOTE, "description": "Other.", "inputSchema": one}]
    await place.look(name, await place.room.agent())
    stored = await place.read_server(name)
    assert {one.name: one.decision for one in servers.changes_of(stored)} == {"add": "", "note": "read, no approval"}
    assert [(one.name, [part.name for part in one.parts]) for one in review_of(stored)] == [
        ("add", ["arguments"]),
        ("note", ["description"]),
    ]
    await place.accept(name)
    decided = {one.name: (one.effect, one.asks) for one in place.deployment.catalog.remote[name].tools}
    assert decided == {"add": ("delete", True), "note": ("read", False)}
