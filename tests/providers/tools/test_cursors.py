"""Paging: the `next_cursor` of an answer is accepted as `cursor`, and sent as the service wrote it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import BaseModel, ValidationError

from providers.outbound.json_values import at, put
from providers.tools.declarations import BUILT_IN, Tool, read_tool_file
from tests.generating.shipped_tools import shipped_tools
from tests.support.doubles.scripted_server import Arrival, json_reply, providers_at
from tests.support.tool_bench import Bench, open_bench
from tests.support.usual_arguments import usual_arguments

SPECS = shipped_tools()
PAGED: Mapping[str, tuple[str, Tool]] = {
    tool.name: (path.stem, tool)
    for path in sorted(BUILT_IN.glob("*.toml"))
    for tool in read_tool_file(path).tool
    if tool.result.next is not None
}
NUMBER, TEXT = 1643332803000, "QVFIUm9-cGFnZTI6_w.x"


@pytest.fixture(scope="module")
async def bench() -> AsyncGenerator[Bench]:
    async with open_bench() as opened:
        opened.providers |= providers_at(sorted({service for service, _ in PAGED.values()}), opened.server.url)
        yield opened


def page(tool: Tool, cursor: int | str, *, has_more: bool = True) -> dict[str, object]:
    """An answer of the service with an item and a cursor."""
    answer: dict[str, object] = {"ok": True}
    items: list[object] = [{}]
    put(answer, tool.result.items or "", items)
    if tool.result.more is not None:
        put(answer, tool.result.more, has_more)
    for path, value in tool.result.expect.items():
        put(answer, path, value)
    if tool.result.needs is not None and at(answer, tool.result.needs) is None:
        put(answer, tool.result.needs, {})
    put(answer, tool.result.next or "", cursor)
    return answer


def sent_cursor(tool: Tool, arrival: Arrival) -> object:
    """The cursor in a request."""
    name = tool.arguments["cursor"].name or "cursor"
    query = parse_qs(urlsplit(arrival.target).query)
    return query[name][0] if name in query else at(json.loads(arrival.body), name)


async def ask(bench: Bench, name: str, answer: dict[str, object], **more: object) -> tuple[BaseModel, Arrival]:
    async def ignore(done: int, total: int | None, message: str) -> None:
        pass

    spec = SPECS[name]
    bench.server.arrivals.clear()
    bench.server.answer = lambda _: json_reply(answer)
    usual = {key: value for key, value in usual_arguments(spec).items() if key != "cursor"}
    output = await spec.call(bench.api(spec), spec.input.model_validate({**usual, **more}), ignore)
    (arrival,) = bench.server.arrivals
    return output, arrival


@pytest.mark.parametrize("name", PAGED)
async def test_the_next_cursor_of_an_answer_gets_the_next_page(bench: Bench, name: str) -> None:
    _, tool = PAGED[name]
    is_number = tool.arguments["cursor"].send == "integer"
    for cursor in (NUMBER,) if is_number else (NUMBER, TEXT):
        first, _ = await ask(bench, name, page(tool, cursor))
        following: object = first.model_dump()["next_cursor"]
        assert following == str(cursor)
        _, arrival = await ask(bench, name, page(tool, cursor), cursor=following)
        assert sent_cursor(tool, arrival) == (cursor if is_number else str(cursor))


@pytest.mark.parametrize("name", [name for name, (_, tool) in PAGED.items() if tool.result.more is not None])
async def test_after_the_last_page_there_is_no_cursor(bench: Bench, name: str) -> None:
    _, tool = PAGED[name]
    for has_more in (True, False):
        found, _ = await ask(bench, name, page(tool, NUMBER, has_more=has_more))
        assert (found.model_dump()["next_cursor"] is not None) is has_more
        assert ("There are more" in str(found)) is has_more


@pytest.mark.parametrize("cursor", ["12a", "-1", "1.5", "", "1" * 17])
def test_a_cursor_that_is_no_number_is_refused_where_the_service_takes_one(cursor: str) -> None:
    with pytest.raises(ValidationError):
        SPECS["tiktok_videos"].input.model_validate({"cursor": cursor})
    assert SPECS["tiktok_videos"].input.model_validate({"cursor": str(NUMBER)})
