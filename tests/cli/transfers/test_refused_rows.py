"""Rows that can't be imported, each next to one that differs only in the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.administration.account_imports.accounts import ImportedAccount
from server.administration.account_imports.transfers import NEW, NOBODY, ImportRules, judge
from server.administration.actor import Actor
from tests.cli.transfers.configured_vault import SCOPES, ConfiguredVault

UNSAID = "the file doesn't identify the account"
ROW = ImportedAccount(1, ("somebody new",), "google", account="4711", refresh_token="rt")
RULES = ImportRules(scopes=SCOPES, creates_people=True)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (ROW, NEW),
        (replace(ROW, account=""), UNSAID),
        (replace(ROW, access_is_lasting=True), UNSAID),
        (replace(ROW, access_is_lasting=True, account_is_ours=True), NEW),
        (replace(ROW, provider="slack"), UNSAID),  # its account ID joins two values
        (replace(ROW, provider="slack", account_is_ours=True), NEW),
        (replace(ROW, people=()), NOBODY),
    ],
)
async def test_a_row_says_whose_account_it_is_and_which(
    place: ConfiguredVault, row: ImportedAccount, said: str
) -> None:
    (judged,) = await judge(Actor(place.deployment, None, "command_line"), [row], RULES)
    assert judged.outcome == said


async def test_people_are_made_only_where_the_operator_says_so(place: ConfiguredVault) -> None:
    operator = Actor(place.deployment, None, "command_line")
    for creates, said in ((False, NOBODY), (True, NEW)):
        (judged,) = await judge(operator, [ROW], replace(RULES, creates_people=creates))
        assert judged.outcome == said
