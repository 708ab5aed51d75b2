"""The page that says what each provider was tested against agrees with the tests."""

from __future__ import annotations

import re

from providers.tools.builtin import builtin_tools
from tests.generating import tested_against
from tests.generating.documentation import DOCS
from tests.generating.shipped_tools import shipped_tools
from tests.journeys.foreign import test_foreign_services
from tests.support import toolset_cases
from tests.support.foreign import emulated_services

ROOT = DOCS.parent
PAGE = (DOCS / "evidence/tested-against.md").read_text(encoding="utf-8")


def quoted_words(cell: str) -> frozenset[str]:
    return frozenset(re.findall(r"`([^`]+)`", cell))


def against(words: str) -> tuple[str, ...]:
    (found,) = [row for row in tested_against.rows() if words in row[1]]
    return found


def test_each_row_names_tests_that_exist() -> None:
    found = list(tested_against.rows())
    assert len(found) >= 6
    for row in found:
        assert quoted_words(row[3])
        assert all((ROOT / path).is_file() for path in quoted_words(row[3])), row


def test_the_providers_of_each_row_are_those_of_its_tests() -> None:
    rows_of_tools = ("the simulator's doubles", "the sandbox", "OpenAPI documents")
    assert frozenset().union(*(quoted_words(against(words)[0]) for words in rows_of_tools)) == {
        case.provider for case in toolset_cases.CASES.values()
    }
    assert quoted_words(against("`emulate`")[0]) == set(emulated_services.NAMES)


def test_every_tool_of_a_service_that_emulate_plays_ran_there_or_is_named_as_lacking() -> None:
    providers = {spec.name: spec.provider for spec in (*builtin_tools(), *shipped_tools().values())}
    of_emulate = {name for name, provider in providers.items() if provider in emulated_services.NAMES}
    assert of_emulate == set(test_foreign_services.CASES) | set(test_foreign_services.LACKING)


def test_the_page_says_that_nothing_here_is_proof_about_the_live_services() -> None:
    assert "Nothing here ran against a live service" in PAGE
