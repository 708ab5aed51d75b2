"""Tools as data: what a file may contain, what becomes of it, and a declared tool end to end with the simulator."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from mcp_types import CallToolResult
from typer.testing import CliRunner

from providers.definitions.catalog import load_catalog
from providers.outbound.json_values import is_object
from providers.tools import declarations
from providers.tools.builtin import builtin_tools
from providers.tools.declarations import ToolFileRefused, read_tool_file
from providers.tools.declared_tools import data_tools
from providers.tools.spec import ToolSpec
from server.cli import app
from server.mcp.offer import connections_spec
from server.mcp.offer.registry import hidden_tools, load_tools
from server.mcp.offer.tool_list import size_of
from server.settings import SettingsRefused, load_settings
from tests.generating.documentation import DOCS, section
from tests.support.rooms.mcp_room import Agent, Room, connect_agent, room, text_of
from tests.support.tool_bench import Bench

POST = """
provider = "slack"

[[tool]]
name = "announce"
title = "Announce"
description = "Post an announcement to a channel."
scopes = ["chat:write"]
effect = "create"

[tool.request]
api = "web"
method = "POST"
path = "/chat.postMessage"
body = { unfurl_links = false }

[tool.arguments.channel]
description = "Channel id"
pattern = "^[A-Z0-9#a-z_-]+$"

[tool.arguments.words]
description = "What to announce"
as = "text"
template = "Announcement: {}"
max = 200

[tool.result]
fields = { channel = { path = "channel", type = "word" }, ts = { path = "ts", type = "word" } }
line = "Announced in {channel} at {ts}."
"""
LIST = """
provider = "slack"

[[tool]]
name = "rooms"
title = "Rooms"
description = "List channels."
scopes = ["channels:read"]
effect = "read"

[tool.request]
api = "web"
method = "GET"
path = "/conversations.list"
query = { exclude_archived = true }

[tool.arguments.limit]
type = "integer"
description = "How many"
required = false
default = 100
min = 1
max = 200

[tool.arguments.cursor]
description = "`next_cursor` of an earlier answer"
required = false

[tool.result]
items = "channels"
next = "response_metadata.next_cursor"
line = "{id} {name} ({members})"

[tool.result.fields]
id = { path = "id", type = "word" }
name = { path = "name" }
members = { path = "num_members", type = "integer" }
"""


def load_tool_file(tmp_path: Path, content: str) -> tuple[ToolSpec, ...]:
    file = tmp_path / "tools.toml"
    file.write_text(content)
    return data_tools([(file, read_tool_file(file))], load_catalog())


def test_a_declared_tool_has_schemas_annotations_and_the_least_scopes(tmp_path: Path) -> None:
    (announce,) = load_tool_file(tmp_path, POST)
    assert announce.scopes == {"chat:write"}
    assert (announce.read_only, announce.destructive, announce.idempotent) == (False, False, False)
    properties = announce.input_schema["properties"]
    assert is_object(properties)
    assert set(properties) == {"account", "channel", "words"}
    assert announce.input.model_json_schema()["properties"]["words"]["maxLength"] == 200
    assert announce.input_schema["required"] == ["channel", "words"]
    assert announce.input_schema["additionalProperties"] is False
    (rooms,) = load_tool_file(tmp_path, LIST)
    assert (rooms.read_only, rooms.destructive, rooms.idempotent) == (True, False, True)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('provider = "slack"', 'provider = "slakc"', "no provider slakc"),
        ('scopes = ["chat:write"]', 'scopes = ["chat:wriet"]', "no scope chat:wriet"),
        ('scopes = ["chat:write"]', 'scopes = ["channels:read"]', "no request rule of slack"),
        ('scopes = ["chat:write"]', "scopes = []", "scopes"),
        ('path = "/chat.postMessage"', 'path = "/admin.users.remove"', "no request rule of slack"),
        ('path = "/chat.postMessage"', 'path = "/chat/{message}"', "needs a required argument"),
        ('path = "/chat.postMessage"', 'path = "/../chat"', "no request rule of slack"),
        ("unfurl_links = false", 'username = "Boss"', "knows username in the query or body"),
        ('as = "text"', 'as = "metadata.event_type"', "knows metadata in the query or body"),
        ('path = "/chat.postMessage"', 'path = "https://elsewhere.example"', "path"),
        ('api = "web"', 'api = "wbe"', "no API 'wbe'"),
        ('effect = "create"', 'effect = "raed"', "effect"),
        ('method = "POST"', 'method = "GET"', "doesn't match effect"),
        ('pattern = "^[A-Z0-9#a-z_-]+$"', 'pattern = "[A-Z]"', "start the pattern with"),
        ('as = "text"', 'as = "a b"', "as"),
        ('as = "text"', 'place = "path"', "has no place for"),
        ('as = "text"', 'as = "x-team"\nplace = "header"', "slack takes no header x-team of a call"),
        ('as = "text"', 'as = "content-type"\nplace = "header"', "the vault sends its own"),
        ("max = 200", "default = 'x'", "isn't required"),
        ("[tool.arguments.words]", "[tool.arguments.account]", "every tool already"),
        ('line = "Announced in {channel} at {ts}."', 'line = "{other}"', "isn't a field"),
        ("[tool.arguments.words]", "[tool.arguments.cursor]", "paging needs both"),
        ("max = 200", 'send = "integer"', "needs a text with a pattern"),
        ('line = "Ann', 'more = "has_more"\nline = "Ann', "name both"),
        ('name = "announce"', 'name = "Announce!"', "name"),
        (
            'title = "Announce"',
            'title = "Announce"\nsurprise = 1',
            "surprise: there is no such key. Valid ones: name, title, ",
        ),
        ("[tool.result]", "[tool.result", "isn't valid TOML"),
    ],
)
def test_a_file_that_does_not_make_sense_is_refused_in_one_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert load_tool_file(tmp_path, POST)  # the twin
    assert old in POST
    with pytest.raises(ToolFileRefused) as refused:
        load_tool_file(tmp_path, POST.replace(old, new, 1))
    assert says in str(refused.value)
    assert str(refused.value).count("\n") == 0
    assert "tools.toml" in str(refused.value)


def test_which_tools_there_are_is_the_operators_choice(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(POST)

    def names(**tools: object) -> list[str]:
        settings = load_settings(overrides={"tools": {"folders": [str(tmp_path)], **tools}})
        return [spec.name for spec in load_tools(settings, load_catalog())]

    everything = names()
    assert everything[-1] == "announce"
    assert "slack_post" in everything
    assert names(enable=["slack_*"]) == [name for name in everything if name.startswith("slack_")]
    assert names(disable=["slack_*", "announce"]) == [
        name for name in everything if not name.startswith("slack_") and name != "announce"
    ]
    for wrong in ({"enable": ["slakc_*"]}, {"disable": ["slakc_post"]}):
        with pytest.raises(SettingsRefused, match="no tool "):
            names(**wrong)
    settings = load_settings(overrides={"tools": {"clients": {"agent": {"enable": ["calendar_*"]}}}})
    specs = load_tools(settings, load_catalog())
    assert {spec.name for spec in specs} - hidden_tools(settings, specs)["agent"] == {
        spec.name for spec in specs if spec.name.startswith("calendar_")
    }


def test_what_stands_in_a_path_may_have_a_default_but_cannot_be_left_out(tmp_path: Path) -> None:
    branch = """
provider = "github"

[[tool]]
name = "tree"
title = "Files"
description = "List files."
scopes = ["contents:read"]
effect = "read"

[tool.request]
api = "rest"
method = "GET"
path = "/repos/alice/garden/git/trees/{ref}"

[tool.arguments.ref]
description = "Branch"
required = false
default = "HEAD"

[tool.result]
line = "{sha}"
fields = { sha = { path = "sha" } }
"""
    (spec,) = load_tool_file(tmp_path, branch)
    assert spec.input.model_validate({}).model_dump()["ref"] == "HEAD"
    with pytest.raises(ToolFileRefused, match="or default"):
        load_tool_file(tmp_path, branch.replace('default = "HEAD"', ""))


REFUND = """
provider = "stripe-connect"

[[tool]]
name = "refund"
title = "Refund"
description = "Refund a part of a charge."
scopes = ["read_write"]
effect = "delete"

[tool.request]
api = "main"
method = "POST"
path = "/refunds"
headers = { content-type = "application/x-www-form-urlencoded" }
body = { reason = "duplicate" }

[tool.arguments.amount]
type = "integer"
description = "In cents"

[tool.result]
line = "Done."
"""


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "Application/X-WWW-Form-URLEncoded",
        "application/x-www-form-urlencoded;charset=utf-8",
    ],
)
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('type = "integer"', 'type = "number"', "can't send the number amount"),
        ('type = "integer"', 'type = "texts"', "can't send the list amount"),
        ('type = "integer"', 'as = "amount.value"', "can't send amount.value, a member"),
        ("reason =", '"reason.code" =', "can't send reason.code, a member"),
    ],
)
def test_a_form_has_only_values_that_it_can_send(tmp_path: Path, kind: str, old: str, new: str, says: str) -> None:
    form = REFUND.replace("application/x-www-form-urlencoded", kind)
    assert load_tool_file(tmp_path, form)
    with pytest.raises(ToolFileRefused, match=re.escape(says)):
        load_tool_file(tmp_path, form.replace(old, new, 1))
    json_body = REFUND.replace("application/x-www-form-urlencoded", "application/json")
    assert load_tool_file(tmp_path, json_body.replace(old, new, 1))


@pytest.mark.parametrize("new", ['type = "texts"\nseparator = ","', 'type = "number"\ntemplate = "{} EUR"'])
def test_a_form_takes_what_becomes_a_text(tmp_path: Path, new: str) -> None:
    assert load_tool_file(tmp_path, REFUND.replace('type = "integer"', new, 1))


def test_a_body_is_json_or_a_form(tmp_path: Path) -> None:
    for kind, is_taken in (("multipart/form-data", False), ("text/plain;x=json", False), ("application/v1+json", True)):
        content = REFUND.replace("application/x-www-form-urlencoded", kind)
        if is_taken:
            assert load_tool_file(tmp_path, content)
            continue
        with pytest.raises(ToolFileRefused, match="JSON or as a form"):
            load_tool_file(tmp_path, content)


def test_a_cursor_is_a_text(tmp_path: Path) -> None:
    assert load_tool_file(tmp_path, LIST)
    with pytest.raises(ToolFileRefused, match="`cursor` must be one"):
        load_tool_file(tmp_path, LIST.replace("[tool.arguments.cursor]", '[tool.arguments.cursor]\ntype = "integer"'))


async def test_a_list_in_the_query_repeats_its_name_or_is_joined(tmp_path: Path, bench: Bench) -> None:
    async def ignore(done: int, total: int | None, message: str) -> None:
        pass

    kinds = '[tool.arguments.teams]\ntype = "texts"\ndescription = "Teams"\nas = "team_id"\n'
    for more, sent in (("", ["T1", "T2"]), ('separator = ","\n', ["T1,T2"])):
        bench.server.arrivals.clear()
        (spec,) = load_tool_file(
            tmp_path, LIST.replace("[tool.arguments.cursor]", f"{kinds}{more}\n[tool.arguments.cursor]")
        )
        arguments = spec.input.model_validate({"teams": ["T1", "T2"]})
        await spec.call(bench.api(spec), arguments, ignore)
        (arrival,) = bench.server.arrivals
        assert parse_qs(urlsplit(arrival.target).query)["team_id"] == sent


@pytest.mark.parametrize("place", ['template = "<{}>"', 'escape = "_"', 'place = "header"', 'place = "choice"'])
def test_a_list_that_must_become_a_text_has_a_separator(tmp_path: Path, place: str) -> None:
    alone = POST.replace('as = "text"', f'as = "text"\ntype = "texts"\n{place}').replace(
        'template = "Announcement: {}"', ""
    )
    with pytest.raises(ToolFileRefused, match="give the list a separator"):
        load_tool_file(tmp_path, alone)
    joined = alone.replace('type = "texts"', 'type = "texts"\nseparator = ","')
    try:
        assert load_tool_file(tmp_path, joined)
    except ToolFileRefused as refused:  # Slack takes neither
        assert "takes no header" in str(refused) or "several values" in str(refused)


@pytest.mark.parametrize(("header", "is_taken"), [("git-protocol", True), ("x-github-api-version", False)])
def test_a_header_that_the_vault_sends_itself_is_no_argument(tmp_path: Path, header: str, *, is_taken: bool) -> None:
    asking = f"""
provider = "github"

[[tool]]
name = "me"
title = "Me"
description = "Who it is."
scopes = ["metadata:read"]
effect = "read"

[tool.request]
api = "rest"
method = "GET"
path = "/user"

[tool.arguments.version]
description = "Version"
place = "header"
as = "{header}"

[tool.result]
line = "{{login}}"
fields = {{ login = {{ path = "login" }} }}
"""
    if is_taken:
        assert load_tool_file(tmp_path, asking)
        return
    with pytest.raises(ToolFileRefused, match="the vault sends its own"):
        load_tool_file(tmp_path, asking)


def test_the_page_says_how_much_a_client_is_shown() -> None:
    text = " ".join(section(DOCS / "guides/tools.md", "Offer fewer tools").text.split())
    said = re.search(r"The (\d+) that .* about ([\d,]+) char.* set up, (\d+) are about ([\d,]+)\.", text)
    assert said is not None
    always, most = (int(said[1]), int(said[2].replace(",", ""))), (int(said[3]), int(said[4].replace(",", "")))
    with_tools = {path.stem for path in declarations.BUILT_IN.glob("*.toml")} | {
        one.provider for one in builtin_tools()
    }
    everywhere = {"providers": {name: {"client_id": "x"} for name in with_tools if name is not None}}
    for overrides, (count, characters) in (({}, always), (everywhere, most)):
        offered = (*load_tools(load_settings(overrides=overrides), load_catalog()), connections_spec.SPEC)
        assert len(offered) == count
        assert abs(size_of(offered) / characters - 1) < 0.06  # the text gives two digits


def test_an_empty_page_before_the_last_one_and_a_cut_one_say_how_to_go_on(tmp_path: Path) -> None:
    (rooms,) = load_tool_file(tmp_path, LIST)
    item = {"id": "C1", "name": "general", "members": 3}

    def text(items: list[object], *, cursor: str | None = None, is_cut: bool = False) -> str:
        return str(rooms.output.model_validate({"items": items, "next_cursor": cursor, "is_cut": is_cut}))

    assert text([]) == "Nothing was found."
    assert text([], cursor="c") == "Nothing was found here.\nThere are more: call again with `cursor`."
    assert text([item], cursor="c").endswith("There are more: call again with `cursor`.")
    assert text([item], is_cut=True).endswith(
        "Some items were left out because of the size limit: ask for fewer at a time."
    )
    assert "\n" not in text([item]).partition("C1")[2]


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(POST.replace('name = "announce"', 'name = "slack_post"'))
    with pytest.raises(ToolFileRefused, match="slack_post"):
        load_tools(load_settings(overrides={"tools": {"folders": [str(tmp_path)]}}), load_catalog())


def test_the_schema_for_editors_says_what_each_field_means() -> None:
    printed = CliRunner().invoke(app, ["tools", "schema"])
    assert printed.exit_code == 0, printed.output
    described = json.loads(printed.stdout)
    assert described["title"] == "Tool file"
    assert "expect" in described["$defs"]["Result"]["properties"]
    assert described["$defs"]["Argument"]["properties"]["as"]["description"].startswith("Its name in the request")


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    folder = tmp_path_factory.mktemp("tool-files")
    (folder / "post.toml").write_text(POST)
    (folder / "list.toml").write_text(LIST)
    async with room(tmp_path_factory.mktemp("vault"), tools={"folders": [str(folder)]}) as opened:
        yield opened


async def call(place: Room, agent: Agent, tool: str, **arguments: object) -> CallToolResult:
    async with place.client(agent) as client:
        return await client.call_tool(tool, arguments)


def calls(place: Room) -> list[dict[str, object]]:
    return place.simulator.books()["api_calls"]


async def test_a_declared_write_goes_out_as_declared(place: Room) -> None:
    agent = await connect_agent(place)
    done = await call(place, agent, "announce", channel="#general", words="lunch")
    assert not done.is_error, text_of(done)
    assert done.structured_content is not None
    assert set(done.structured_content) == {"_vault", "channel", "ts"}
    posted = place.simulator.books()["posts"][-1]
    assert posted["text"] == "Announcement: lunch"
    assert "Announced in" in text_of(done)


async def test_a_declared_list_is_paged_and_marked_as_data(place: Room) -> None:
    agent = await connect_agent(place)
    first = await call(place, agent, "rooms", limit=1)
    assert first.structured_content is not None
    assert len(first.structured_content["items"]) == 1
    assert "written by other people" in text_of(first)
    again = await call(place, agent, "rooms", limit=1, cursor=first.structured_content["next_cursor"])
    assert again.structured_content is not None
    assert again.structured_content["items"] != first.structured_content["items"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"channel": "../x", "words": "a"},
        {"channel": "C1", "words": "x" * 201},
        {"channel": "C1", "words": ""},
        {"channel": "C1"},
        {"channel": "C1", "words": "a", "unfurl_links": True},
    ],
)
async def test_arguments_that_do_not_fit_are_refused_before_anything_is_sent(
    place: Room, arguments: dict[str, object]
) -> None:
    agent = await connect_agent(place)
    before = len(calls(place))
    assert (await call(place, agent, "announce", **arguments)).is_error
    assert len(calls(place)) == before


async def test_a_scope_that_the_person_did_not_give_is_asked_for(place: Room) -> None:
    agent = await connect_agent(place, delegated=frozenset({"channels:read"}))
    before = len(calls(place))
    refused = await call(place, agent, "announce", channel="#general", words="lunch")
    assert refused.is_error
    assert "/connect/" in text_of(refused)
    assert len(calls(place)) == before
    assert not (await call(place, agent, "rooms")).is_error  # the twin: only arguments that were given


async def test_a_busy_provider_is_said_to_be_busy(place: Room) -> None:
    agent = await connect_agent(place)
    place.simulator.fault("slack.api.conversations.list", "rate_limited", retry_after=11)
    assert "11 s" in text_of(await call(place, agent, "rooms"))
    assert not (await call(place, agent, "rooms")).is_error


async def test_an_agent_gets_only_the_tools_that_the_operator_leaves_it(place: Room) -> None:
    agent = await connect_agent(place)
    hidden = place.vault.deployment.offer.hidden
    assert isinstance(hidden, dict)
    hidden[agent.principal.client_id] = frozenset({"announce"})
    async with place.client(agent) as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        assert "announce" not in listed
        assert "rooms" in listed
        with pytest.raises(Exception, match="Unknown tool"):
            await client.call_tool("announce", {"channel": "#general", "words": "lunch"})
    hidden.clear()
    assert not (await call(place, agent, "announce", channel="#general", words="lunch")).is_error  # the twin
