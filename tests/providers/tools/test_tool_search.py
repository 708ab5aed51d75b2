"""What people write finds the matching tools. Half of the requests were never used to tune the search."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from providers.definitions.catalog import load_catalog
from providers.tools.builtin import builtin_tools
from providers.tools.search import ToolIndex
from tests.generating.shipped_tools import shipped_tools
from tests.support.toolset_cases import CASES

REQUESTS = Path(__file__).parents[2] / "mcp" / "tool_requests.toml"
SPECS = (*builtin_tools(), *shipped_tools().values())
NAMES = frozenset(spec.name for spec in SPECS)
USUAL = frozenset(spec.name for spec in SPECS if spec.provider in {case.provider for case in CASES.values()})
FIRST = 5
FOUND = {False: 30, True: 29}  # of 30 each; the key says whether they are held out


@dataclass(frozen=True)
class Request:
    text: str
    tools: frozenset[str]
    held_out: bool


def requests() -> list[Request]:
    content = tomllib.loads(REQUESTS.read_text(encoding="utf-8"))["request"]
    return [Request(one["text"], frozenset(one["tools"]), one.get("held_out", False)) for one in content]


@pytest.fixture(scope="module")
def index() -> ToolIndex:
    catalog = load_catalog()
    providers = {spec.provider for spec in SPECS if spec.provider is not None}
    return ToolIndex(SPECS, titles={name: catalog.provider(name).title for name in providers})


def test_the_requests_name_tools_that_exist() -> None:
    assert len(requests()) == 60
    assert all(request.tools and request.tools <= NAMES for request in requests())
    assert len({tool for request in requests() for tool in request.tools}) >= 50  # nearly every tool is wanted


@pytest.mark.parametrize(
    ("held_out", "among", "least"),
    [(False, USUAL, FOUND[False]), (True, USUAL, FOUND[True]), (False, NAMES, 27), (True, NAMES, 26)],
    ids=["tuned", "held out", "tuned, every service", "held out, every service"],
)
def test_a_tool_that_serves_a_request_is_among_the_first_five(
    index: ToolIndex, *, held_out: bool, among: frozenset[str], least: int
) -> None:
    asked = [request for request in requests() if request.held_out is held_out]
    found = [
        request
        for request in asked
        if request.tools & {spec.name for spec in index.find(request.text, among=among, limit=FIRST)}
    ]
    assert len(asked) == 30
    assert len(found) >= least, [request.text for request in asked if request not in found]


def test_each_tool_is_found_by_its_own_title(index: ToolIndex) -> None:
    for spec in SPECS:
        assert spec in index.find(spec.title, among=NAMES, limit=FIRST), spec.name


def test_only_the_tools_of_the_caller_are_found(index: ToolIndex) -> None:
    everything = index.find("send a message", among=NAMES, limit=20)
    left = NAMES - {everything[0].name}
    assert index.find("send a message", among=left, limit=19) == everything[1:]
    assert index.find("send a message", among=frozenset(), limit=5) == ()


def test_words_of_no_tool_find_nothing(index: ToolIndex) -> None:
    assert index.find("zzz the of", among=NAMES, limit=5) == ()
    assert index.find("", among=NAMES, limit=5) == ()
    assert index.find("zzz slack", among=NAMES, limit=5) != ()
