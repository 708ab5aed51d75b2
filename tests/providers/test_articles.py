"""The article before a service's title."""

from __future__ import annotations

import pytest

from providers.definitions.articles import with_article


@pytest.mark.parametrize(
    "title", ["Stripe", "Eurostat", "Unity", "USPS", "Utility API", "HubSpot", "LINE", "One Drive"]
)
def test_a_title_that_begins_with_a_consonants_sound_has_a(title: str) -> None:
    assert with_article(title) == f"a {title}"


@pytest.mark.parametrize("title", ["Asana", "eBay", "Uber", "Unsplash", "HMRC", "AWS", "X", "Intercom", "8x8", "osu!"])
def test_a_title_that_begins_with_a_vowels_sound_has_an(title: str) -> None:
    assert with_article(title) == f"an {title}"
