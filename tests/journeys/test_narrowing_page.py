"""The page on narrowing agrees with the provider files."""

from __future__ import annotations

from providers.definitions.catalog import load_catalog
from tests.generating.documented import ROOT
from vault.upstream import Downscope, ItemLimit, UpstreamPolicy

PAGE = (ROOT / "docs" / "concepts/narrowing.md").read_text(encoding="utf-8")
EVERYTHING = load_catalog().all_providers()
_WAYS = {Downscope.REFRESH_SCOPE: "on refresh", Downscope.NATIVE: "scoped token", Downscope.EXCHANGE: "RFC 8693"}


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def narrows(policy: UpstreamPolicy) -> bool:
    return policy.narrows_by is not Downscope.NONE


def test_the_page_lists_exactly_the_providers_that_narrow_upstream_each_with_its_way() -> None:
    listed = {name.strip(" `"): row for row in rows("Upstream") for name in row[0].split(",")}
    narrowing = {provider.name: provider for provider in EVERYTHING if narrows(provider.policy())}
    assert set(listed) == set(narrowing)
    for name, provider in narrowing.items():
        way = "signed token" if provider.credential is not None else _WAYS[provider.downscope.mode]
        assert way in listed[name][1]
        if provider.downscope.items is ItemLimit.REQUIRED:
            assert "one" in listed[name][2]


def test_the_page_lists_exactly_the_providers_that_could_narrow_but_must_not() -> None:
    harmed = {
        provider.name
        for provider in EVERYTHING
        if provider.downscope.mode is not Downscope.NONE and provider.policy().downscope_is_destructive
    }
    assert {row[0] for row in rows("Never narrowed")} == harmed
