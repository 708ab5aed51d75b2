"""What an argument of a declared tool can reach: one place in one request, and nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import suppress
from urllib.parse import parse_qsl, urlsplit

import pytest
from pydantic import ValidationError

from providers.api.api import RuleRefused, UpstreamRefused
from providers.tools import declarations
from providers.tools.builtin import builtin_tools
from providers.tools.spec import ToolSpec
from tests.generating.shipped_tools import shipped_tools
from tests.support.doubles.scripted_server import Arrival
from tests.support.tool_bench import Bench
from tests.support.toolset_cases import CASES
from tests.support.usual_arguments import texts_of, usual_arguments

SPECS = {name: spec for name, spec in shipped_tools().items() if name in CASES}
NASTY = (
    *("../../admin", "..", "%2e%2e%2f", "a/b", "a?admin=true", "a#b", "a&admin=true", "a\r\nX-Evil: 1", "a\x00b"),
    *(
        "https://evil.example/",
        "//evil.example",
        "@evil.example",
        "a b",
        '"}, "admin": {"x": "y',
        "' or '1'='1",
        "${x}{x}",
    ),
    *("\u202eevil", "é", "x" * 300),
)


def payloads() -> Iterator[str]:
    yield from NASTY
    chance = random.Random(158)
    for _ in range(12):
        yield "".join(chance.choice("/%.?#&=:@\\\r\n\0 {}[]\"';,aZ9é\u2028") for _ in range(chance.randint(1, 20)))


def parts(arrival: Arrival) -> Mapping[str, object]:
    """All parts of a request by their place."""
    split = urlsplit(arrival.target)
    query = parse_qsl(split.query, keep_blank_values=True, strict_parsing=bool(split.query))
    assert len({name for name, _ in query}) == len(query)
    found: dict[str, object] = {"method": arrival.method}
    found |= {f"path {number}": segment for number, segment in enumerate(split.path.split("/"))}
    found |= {f"query {name}": value for name, value in query}
    found |= {f"header {name}": value for name, value in arrival.headers.items() if name != "content-length"}
    found |= dict(leaves("body", json.loads(arrival.body))) if arrival.body else {}
    return found


def leaves(at: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield from leaves(f"{at}.{name}", one)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from leaves(f"{at}.{number}", one)
    else:
        yield at, value


async def sent_request(bench: Bench, spec: ToolSpec, arguments: Mapping[str, object]) -> Mapping[str, object]:
    """The only request that a call makes."""
    bench.server.arrivals.clear()
    parsed = spec.input.model_validate(arguments)
    with suppress(UpstreamRefused):  # the tool can't use the scripted answer, but only the request matters here
        await spec.call(bench.api(spec), parsed, bench._progress)
    (arrival,) = bench.server.arrivals
    return parts(arrival)


@pytest.mark.requirement("S-158")
@pytest.mark.parametrize("name", sorted(SPECS))
async def test_an_argument_changes_one_place_of_the_request_and_nothing_else(bench: Bench, name: str) -> None:
    spec = SPECS[name]
    good = usual_arguments(spec)
    usual = await sent_request(bench, spec, good)
    for argument in texts_of(spec):
        places: set[str] = set()
        for payload in payloads():
            value = [payload] if isinstance(good[argument], list) else payload
            try:
                made = await sent_request(bench, spec, {**good, argument: value})
            except (ValidationError, RuleRefused):
                assert bench.server.arrivals == []
                continue
            assert made.keys() == usual.keys(), (argument, payload)
            places |= {place for place in made if made[place] != usual[place]}
        assert len(places) <= 1, argument
        assert not any(place.startswith(("method", "header")) for place in places)


def test_what_stands_in_a_path_has_a_pattern_of_its_own() -> None:
    for path in sorted(declarations.BUILT_IN.glob("*.toml")):
        for tool in declarations.read_tool_file(path).tool:
            for name in tool.request.placeholders:
                argument = tool.arguments[name]
                assert argument.pattern is not None or argument.type == "integer", (tool.name, name)


def test_calendar_tools_default_to_the_persons_own_calendar_and_name_times_alike() -> None:
    tools = {tool.name: tool for tool in (*builtin_tools(), *shipped_tools().values())}
    for name in ("calendar_list", "calendar_create", "calendar_update", "calendar_delete"):
        schema = tools[name].input_schema
        assert schema["properties"]["calendar_id"]["default"] == "primary", name
        assert "calendar_id" not in schema.get("required", []), name
    for name in ("calendar_list", "outlook_events"):
        assert {"time_min", "time_max"} <= tools[name].input_schema["properties"].keys()
    for name in ("calendar_create", "calendar_update", "outlook_event_create"):
        assert {"start", "end"} <= tools[name].input_schema["properties"].keys()
