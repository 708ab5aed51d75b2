"""The model of ending a grant keeps its promises, and finds any broken rule."""

from __future__ import annotations

import pytest

from tests.support.models.ending_model import ALIVE, DEAD, UNPROVEN, Provider, Rules, explore

PROVIDERS = [
    Provider(ends_grant=ends, rotates=rotates, lies=lies) for ends in (True, False) for rotates in (True, False)
    for lies in (0, 1, 9)
] + [Provider(ends_grant=False, ends_access_only=True), Provider(rotates=True, refuses=True)]  # fmt: skip
ALWAYS_LYING = [one for one in PROVIDERS if one.lies == 9]


@pytest.mark.parametrize("provider", PROVIDERS, ids=str)
def test_every_interleaving_ends_with_one_true_receipt(provider: Provider) -> None:
    found = explore(provider)
    assert found.broken == {}
    assert found.states > 500


def test_an_honest_provider_is_verified_and_a_liar_never_is() -> None:
    assert DEAD in explore(Provider()).results
    assert UNPROVEN in explore(Provider(ends_grant=False)).results
    for liar in ALWAYS_LYING:
        assert DEAD not in explore(liar).results
        assert ALIVE in explore(liar).results


@pytest.mark.parametrize(
    ("provider", "rules", "promise"),
    [
        (Provider(rotates=True, lies=1), Rules(refresh_probe=True), "said dead, and lives"),
        (Provider(ends_grant=False, lies=1), Rules(refresh_probe=True), "said dead, and lives"),
        (Provider(ends_grant=False, ends_access_only=True), Rules(implies=True), "said dead, and lives"),
        (Provider(lies=9), Rules(cleans_up=False, minted_is_alive=False), "said dead, and lives"),
        (Provider(), Rules(is_fenced=False), "two receipts"),
        (Provider(), Rules(is_one_commit=False), "no receipt"),
        (Provider(rotates=True, lies=9), Rules(knows_age=False), "said dead, and lives"),
        (Provider(rotates=True, refuses=True), Rules(heeds_refusal=False), "said dead, and lives"),
        (Provider(), Rules(awaits_refresh=False), "said dead, and lives"),
    ],
)
def test_each_broken_rule_is_noticed(provider: Provider, rules: Rules, promise: str) -> None:
    assert promise in explore(provider, rules).broken
    assert promise not in explore(provider).broken
