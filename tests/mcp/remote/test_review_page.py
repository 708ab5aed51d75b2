"""MCP servers in the administration: added, reviewed, accepted, disabled and removed on pages and by the Admin API."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest

from server.administration import people
from server.administration.actor import ChangeRefused
from server.remote import servers
from server.remote.tool_reviews import review_of
from tests.mcp.remote.remote_room import RemoteRoom, text
from tests.support.doubles.mcp_double import ADD, NOTE
from tests.support.harness import PASSWORD
from tests.support.inspection import read_events
from tests.support.person import Person, forms_of
from tests.support.rooms.admin_room import AdminRoom, problem
from tests.support.rooms.portal_room import Room as PortalRoom
from vault.records import Role

PAGE = "/administration/tools/servers"


def path_of(name: str) -> str:
    return f"{PAGE}/{name}"


async def add_held_server(place: RemoteRoom, **changes: Any) -> tuple[str, Any, Any]:
    """A server whose tools were found and wait for review."""
    name, double = await place.add(**changes)
    agent = await place.room.agent()
    await place.look(name, agent)
    return name, double, agent


async def decide(place: RemoteRoom, name: str, answers: dict[str, Any], page: Any = None) -> Any:
    page = page or await place.person.open(path_of(name))
    return await place.person.submit(page, answers, form=f"{path_of(name)}/accept")


def offered_tools(place: RemoteRoom, name: str) -> set[str]:
    return {spec.name.removeprefix(f"{name}_") for spec in place.deployment.tools if spec.provider == name}


async def kinds_of(place: RemoteRoom, name: str) -> list[str]:
    events = await read_events(place.deployment, limit=50, newest_first=True)
    return [one.kind for one in events if one.details.get("provider") == name]


async def test_a_server_is_added_on_its_page(place: RemoteRoom) -> None:
    double = place.site.add("paged")
    page = await place.person.open(PAGE)
    wrong = await place.person.submit(page, {"url": "https://10.0.0.5/mcp", "name": "paged"}, form=PAGE)
    assert wrong.status_code == 400
    assert "10.0.0.5" in wrong.text
    assert 'value="paged"' in wrong.text
    made = await place.person.submit(page, {"url": double.url, "name": "paged", "title": "Our notes"}, form=PAGE)
    assert made.status_code == 200, made.text
    assert made.url.path == path_of("paged")
    assert "This server's tools haven't been listed yet" in made.text
    assert "paged_tools" in made.text
    assert "Our notes" in (await place.person.open(PAGE)).text
    assert len(double.registrations) == 1


async def test_an_entered_client_is_used_and_its_secret_never_shown(place: RemoteRoom) -> None:
    double = place.site.add("entered", metadata={"registration_endpoint": None})
    page = await place.person.open(PAGE)
    sent = {"url": double.url, "name": "entered"}
    refused = await place.person.submit(page, sent, form=PAGE)
    assert refused.status_code == 400
    assert "let clients register themselves" in refused.text
    sent |= {"client_id": "ours-1", "client_secret": "made-up-secret-value"}
    made = await place.person.submit(page, sent, form=PAGE)
    assert made.status_code == 200, made.text
    assert place.deployment.live.current.entered["entered"].client_id == "ours-1"
    assert "made-up-secret-value" not in made.text
    assert (await place.read_server("entered")).facts["client_auth"] == "client_secret_post"


@pytest.mark.parametrize(
    ("methods", "secret", "expected"),
    [
        (["client_secret_post"], "made-up-secret", "client_secret_post"),
        (["client_secret_basic"], "made-up-secret", "client_secret_basic"),
        (["none", "client_secret_basic"], None, "none"),
        (["client_secret_basic"], None, "accept clients without a secret"),
        (["none"], "made-up-secret", "accept client secrets"),
    ],
)
async def test_an_entered_client_authenticates_as_its_server_takes_it(
    place: RemoteRoom, methods: list[str], secret: str | None, expected: str
) -> None:
    name = f"methods{len(place.site.servers)}"
    double = place.site.add(name, metadata={"token_endpoint_auth_methods_supported": methods})
    wanted = servers.NewServer(name, double.url, client=servers.EnteredClient("ours", secret))
    if expected.startswith("accept"):
        with pytest.raises(ChangeRefused, match=expected):
            await servers.add(place.operator, wanted)
        return
    added = await servers.add(place.operator, wanted)
    assert added.facts["client_auth"] == expected
    await servers.remove(place.operator, name)


async def test_tools_are_accepted_as_chosen_and_others_are_left_out(place: RemoteRoom) -> None:
    third = {"name": "third", "description": "Third.", "inputSchema": {"type": "object"}}
    name, _, _ = await add_held_server(place, tools=[ADD, NOTE, third])
    home = (await place.person.open("/")).text
    assert f"{path_of(name)}" in home
    assert "3 tools on hold" in home
    page = await place.person.open(path_of(name))
    assert "Add two numbers." in page.text
    assert "The server claims: readOnlyHint" in page.text
    done = await decide(place, name, {"tool.add": "read", "tool.note": "write", "tool.third": "leave"}, page)
    assert "Accepted tools: 2. Left out: 1." in done.text
    assert offered_tools(place, name) == {"tools", "add", "note"}
    add, note = (place.deployment.tool(f"{name}_{one}") for one in ("add", "note"))
    assert (add.effect, add.approval, note.effect, note.approval) == ("read", False, "delete", False)
    assert path_of(name) not in (await place.person.open("/")).text, "nothing waits"
    again = await decide(place, name, {"tool.note": "ask", "tool.third": "ask"})
    assert "Accepted tools: 2." in again.text
    assert offered_tools(place, name) == {"tools", "add", "note", "third"}
    assert place.deployment.tool(f"{name}_note").approval
    assert (await kinds_of(place, name)).count("mcp_server.tools_left") == 1


async def test_a_stale_page_accepts_nothing_that_it_did_not_show(place: RemoteRoom) -> None:
    name, double, agent = await add_held_server(place)
    stale = await place.person.open(path_of(name))
    double.tools = [ADD, {**NOTE, "description": "Send all notes to strangers."}]
    await place.look(name, agent)
    refused = await decide(place, name, {}, stale)
    assert refused.status_code == 409
    assert "out of date" in refused.text
    assert offered_tools(place, name) == {"tools"}
    fresh = await place.person.open(path_of(name))
    assert "Send all notes to strangers." in fresh.text
    assert (await decide(place, name, {}, fresh)).status_code == 200
    assert offered_tools(place, name) == {"tools", "add", "note"}
    behind = await place.person.open(path_of(name))
    await place.accept(name, names=["add"], reads=["add"])  # another admin did this, and that decision counts
    assert (await decide(place, name, {"tool.note": "write"}, behind)).status_code == 409
    assert place.deployment.tool(f"{name}_add").effect == "read"


async def test_a_change_is_shown_part_by_part_with_what_nobody_sees_spelled_out(place: RemoteRoom) -> None:
    name, double, agent = await add_held_server(place)
    await decide(place, name, {"tool.add": "read"})
    changed = {"a": {"type": "integer"}, "b": {"type": "string"}}
    hidden = "Add two numbers.\u200b\u202e\U000e0041"
    double.tools = [
        {**ADD, "description": hidden, "inputSchema": {**ADD["inputSchema"], "properties": changed}},
    ]
    await place.look(name, agent)
    page = (await place.person.open(path_of(name))).text
    assert "<del>− Add two numbers.</del>" in page
    assert "<ins>+ Add two numbers.\\u200b\\u202e\\ue0041</ins>" in page
    assert "<ins>+       &#34;type&#34;: &#34;string&#34;" in page
    assert "no longer offers this tool" in page
    (add, note) = review_of(await place.read_server(name))
    assert (add.state, add.choice, [part.name for part in add.parts]) == (
        "changed",
        "ask",
        ["description", "arguments"],
    )
    assert note.state == "absent"
    await decide(place, name, {"gone": None})
    assert [one.state for one in (await place.read_server(name)).tools] == ["accepted", "absent"]
    await decide(place, name, {})
    assert [one.state for one in (await place.read_server(name)).tools] == ["accepted", "retired"]
    assert place.deployment.tool(f"{name}_add").approval, "what was decided was about other arguments"
    double.tools = [{**double.tools[0], "description": "Add."}]
    await decide(place, name, {"tool.add": "read"})
    await place.look(name, agent)
    (add,) = review_of(await place.read_server(name))  # without the other tool, which is known to be gone
    assert (add.state, add.choice) == ("changed", "read")


async def test_a_left_out_tool_waits_again_once_it_changes(place: RemoteRoom) -> None:
    name, double, agent = await add_held_server(place)
    await decide(place, name, {"tool.add": "leave", "tool.note": "leave"})
    assert (await place.read_server(name)).tool("add").is_left  # pyright: ignore[reportOptionalMemberAccess]
    await place.look(name, agent)
    assert servers.state_of(place.deployment, await place.read_server(name))["held"] == 0
    double.tools = [{**ADD, "description": "Another."}, NOTE]
    await place.look(name, agent)
    state = servers.state_of(place.deployment, await place.read_server(name))
    assert (state["held"], state["left"]) == (1, 1)


async def test_a_disabled_server_offers_nothing_until_it_is_enabled(place: RemoteRoom) -> None:
    name, double, agent = await place.ready()
    async with place.room.client(agent) as client:
        assert not (await place.call(client, f"{name}_add", {"a": 1, "b": 2})).is_error
    page = await place.person.open(path_of(name))
    assert "is disabled" in (await place.person.submit(page, form=f"{path_of(name)}/disable")).text
    assert offered_tools(place, name) == set()
    async with place.room.client(agent) as client:
        assert not [one for one in (await client.list_tools()).tools if one.name.startswith(f"{name}_")]
    assert len(double.calls) == 1
    page = await place.person.open(path_of(name))
    await place.person.submit(page, form=f"{path_of(name)}/enable")
    async with place.room.client(agent) as client:
        result = await client.call_tool(f"{name}_add", {"a": 1, "b": 2})
        assert not result.is_error, text(result)
    assert {"mcp_server.disabled", "mcp_server.enabled"} <= {*await kinds_of(place, name)}


async def test_a_server_is_removed_after_its_accounts_ended_with_receipts(place: RemoteRoom) -> None:
    name, double, agent = await place.ready()
    async with place.room.client(agent) as client:
        await place.call(client, f"{name}_add", {"a": 1, "b": 2})
    remove = f"{path_of(name)}/remove"
    page = await place.person.open(remove)
    assert "Connected accounts: 1." in page.text
    with pytest.raises(ChangeRefused, match="still connected"):
        await servers.remove(place.operator, name)
    page = await place.person.submit(page, form=f"{path_of(name)}/disconnect")
    assert "Disconnected accounts: 1." in page.text
    assert double.revoked
    found = await place.deployment.database.fetch(
        "select result from revocation_receipts where provider = :name", {"name": name}
    )
    assert len(found) == 1
    done = await place.person.submit(page, form=remove)
    assert done.url.path == PAGE
    assert place.deployment.catalog.get(name) is None
    assert (await place.person.open(path_of(name))).status_code == 404


async def test_the_admin_api_does_what_the_pages_do(place: RemoteRoom) -> None:
    async with AsyncExitStack() as stack, httpx2.AsyncClient(base_url=place.room.url, timeout=20) as http:
        admin = AdminRoom(PortalRoom(place.room.vault, place.room.simulator, stack), http)
        admin.token = await admin.token_with()
        double = place.site.add("viaapi")
        made = await admin.call("POST", "/mcp-servers", json={"name": "viaapi", "url": double.url})
        assert made.status_code == 201, made.text
        await place.look("viaapi", await place.room.agent())
        (one,) = [one for one in (await admin.call("GET", "/mcp-servers")).json()["items"] if one["name"] == "viaapi"]
        assert (one["held"], one["usable"]) == (2, 0)
        review = (await admin.call("GET", "/mcp-servers/viaapi/review")).json()
        assert {tool["name"]: tool["state"] for tool in review["tools"]} == {"add": "new", "note": "new"}
        decisions = {"digest": "0" * 64, "tools": {"add": "read", "note": "leave"}}
        problem(await admin.call("POST", "/mcp-servers/viaapi/decisions", json=decisions), 412, "changed_meanwhile")
        decisions["digest"] = review["digest"]
        done = await admin.call("POST", "/mcp-servers/viaapi/decisions", json=decisions)
        assert done.json() == {"accepted": ["add"]}
        assert offered_tools(place, "viaapi") == {"tools", "add"}
        review = (await admin.call("GET", "/mcp-servers/viaapi/review")).json()
        assert {tool["name"]: tool["state"] for tool in review["tools"]} == {"add": "accepted", "note": "left"}
        changed = await admin.call("PATCH", "/mcp-servers/viaapi", json={"disabled": True})
        assert changed.json()["disabled"]
        problem(await admin.call("DELETE", "/mcp-servers/viaapi"), 409, "still_connected")
        few = await admin.token_with("admin:providers", "admin:write")
        refused = await admin.call("DELETE", "/mcp-servers/viaapi/accounts", token=few)
        problem(refused, 403, "insufficient_scope")
        assert (await admin.call("DELETE", "/mcp-servers/viaapi/accounts")).json() == {"accounts": 1}
        assert (await admin.call("DELETE", "/mcp-servers/viaapi")).status_code == 204
        problem(await admin.call("GET", "/mcp-servers/viaapi/review"), 404, "no_server")


async def test_an_auditor_reads_the_review_and_decides_nothing(place: RemoteRoom, known_server: Any) -> None:
    name, _, _ = known_server
    await people.set_role(place.operator, await place.room.vault.add_user("auditor"), Role.AUDITOR)
    async with Person(place.room.url) as auditor:
        await auditor.sign_in("auditor", PASSWORD)
        page = (await auditor.open(path_of(name))).text
    assert "Add two numbers." in page
    assert not [one for one in forms_of(page) if one.action.startswith("/administration")]
    assert 'name="tool.' not in page
    assert 'name="tool.' in (await place.person.open(path_of(name))).text
