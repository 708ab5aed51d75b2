"""The page on narrowing agrees with the provider files."""

from __future__ import annotations

import re

from providers.definitions.catalog import load_catalog
from tests.generating.documentation import ROOT
from vault.upstream import Downscope, ItemLimit, UpstreamPolicy

PAGE = (ROOT / "docs" / "concepts/narrowing.md").read_text(encoding="utf-8")
EVERYTHING = load_catalog().all_providers()
_WAYS = {Downscope.REFRESH_SCOPE: "on refresh", Downscope.NATIVE: "scoped token", Downscope.EXCHANGE: "RFC 8693"}


def ways(heading: str) -> dict[str, str]:
    """What the bullets and paragraphs of a section that begin with providers' names say about them."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0].replace("\n  ", " ")
    lines = re.findall(r"(?m)^(?:- )?((?:`[a-z0-9-]+`(?:, )?)+)([^`:]*: .*)", section)
    return {name: way for names, way in lines for name in re.findall(r"`([^`]+)`", names)}


def narrows(policy: UpstreamPolicy) -> bool:
    return policy.narrows_by is not Downscope.NONE


def test_the_page_lists_exactly_the_providers_that_narrow_upstream_each_with_its_way() -> None:
    listed = ways("Upstream")
    narrowing = {provider.name: provider for provider in EVERYTHING if narrows(provider.policy())}
    assert set(listed) == set(narrowing)
    for name, provider in narrowing.items():
        way = "signed token" if provider.credential is not None else _WAYS[provider.downscope.mode]
        assert way in listed[name]
        if provider.downscope.items is ItemLimit.REQUIRED:
            assert "one" in listed[name]


def test_the_page_lists_exactly_the_providers_that_could_narrow_but_must_not() -> None:
    harmed = {
        provider.name
        for provider in EVERYTHING
        if provider.downscope.mode is not Downscope.NONE and provider.policy().downscope_is_destructive
    }
    assert set(ways("Never narrowed")) == harmed
