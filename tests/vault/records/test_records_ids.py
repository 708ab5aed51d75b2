"""IDs are random, and work as command-line arguments."""

from __future__ import annotations

import secrets

import pytest

from vault.records import new_id


def test_ids_differ() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000


def test_an_id_never_looks_like_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["-looks-like-an-option", "fine"])
    monkeypatch.setattr(secrets, "token_urlsafe", lambda _: next(drawn))
    assert new_id() == "fine"
