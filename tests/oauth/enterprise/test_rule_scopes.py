"""The scopes that a company's rule means for an account."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vault import company_access
from vault.upstream import UpstreamPolicy

ACCOUNT = UpstreamPolicy(
    "notes",
    covers={"notes": frozenset({"notes.read", "notes.write"})},
    always_granted=frozenset({"openid"}),
    reading=frozenset({"notes.read", "mail.read"}),
    own=frozenset({"own:export", "own:purge"}),
)
HELD = frozenset({"notes", "notes.read", "notes.write"})


@pytest.mark.parametrize(
    ("words", "is_remote", "expected"),
    [
        ("all", False, HELD),
        ("all ask", False, HELD),
        ("all own:export", False, HELD | {"own:export"}),
        ("all own:export mail.read", True, {"own:export"}),
        ("read", False, {"notes.read"}),
        ("read", True, set[str]()),
        ("read own:export", False, {"notes.read", "own:export"}),
        ("notes", False, HELD),
        ("notes.write mail.read openid", False, {"notes.write"}),
        ("notes own:purge", True, {"own:purge"}),
        ("ask", False, set[str]()),
    ],
)
def test_a_rule_gives_no_more_than_it_names_and_the_account_holds(
    words: str, is_remote: bool, expected: set[str]
) -> None:
    policy = replace(ACCOUNT, is_remote=is_remote)
    granted = frozenset({"notes", "openid"})
    assert company_access.scopes_of(frozenset(words.split()), granted=granted, policy=policy) == expected
