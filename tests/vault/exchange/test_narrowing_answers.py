"""What an answer to a request for a narrower token proves; anything that it doesn't say counts as unknown."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from providers.definitions.catalog import load_catalog
from providers.definitions.model import Registration
from providers.oauth.narrowing import (
    NarrowTokenRequest,
    exchange_answer,
    exchange_parameters,
    item_of,
    scoped_answer,
    scoped_fields,
)
from providers.oauth.token_requests import narrowing_parameter
from providers.oauth.token_responses import ResponseContext
from providers.outbound.messages import OutboundResponse
from vault.records import ConnectionState
from vault.refresh.leases import ConnectionFacts
from vault.refresh.narrowing import is_good_parent
from vault.upstream import NotSent, Refusal, Silent, TokenAnswer, UpstreamPolicy

GITHUB, BOX = load_catalog().provider("github"), load_catalog().provider("box")
REPOSITORY = item_of(GITHUB, "https://api.github.com/repos/octo/hello")
FOLDER = item_of(BOX, "https://api.box.com/2.0/folders/12")
READ = NarrowTokenRequest(frozenset({"issues:read"}))
NOW = 1_800_000_000


def answer(content: object, status: int = 200, **headers: str) -> OutboundResponse:
    return OutboundResponse(status, headers, json.dumps(content).encode())


def github(**changes: object) -> dict[str, object]:
    installation = {
        "permissions": {"issues": "read", "metadata": "read"},
        "repository_selection": "selected",
        "account": {"login": "Octo"},
    }
    return {"token": "ghu_new", "expires_at": "2027-01-15T09:00:00Z", "installation": installation, **changes}


def box(*scopes: str, **thing: str) -> dict[str, object]:
    entry = {"object": thing} if thing else {}
    limits = [{"scope": scope, **entry} for scope in scopes]
    return {"access_token": "new", "expires_in": 300, "restricted_to": limits}


def make_context() -> ResponseContext:
    return ResponseContext(is_refresh=False, secrets=(), now=NOW)


# Items


@pytest.mark.parametrize(
    "address",
    [
        "https://api.github.com/repos/octo",
        "https://api.github.com/repos/octo/hello/issues",
        "https://api.github.com/repos/octo/..",
        "https://api.github.com/repos/octo/he%2Fllo",
        "https://api.github.com/repos/octo/hello?x=1",
        "https://api.github.com.evil.example/repos/octo/hello",
        "http://api.github.com/repos/octo/hello",
    ],
)
def test_an_address_that_is_not_plainly_one_thing_of_the_provider_is_none(address: str) -> None:
    assert item_of(GITHUB, address) is None
    assert REPOSITORY is not None
    assert REPOSITORY.parts == {"owner": "octo", "repo": "hello"}


# GitHub


def test_a_scoped_token_is_asked_for_with_permissions_and_one_repository() -> None:
    request = NarrowTokenRequest(frozenset({"issues:read", "issues:write", "contents:read"}), REPOSITORY)
    assert scoped_fields(request, "ghu_old") == {
        "access_token": "ghu_old",
        "target": "octo",
        "repositories": ["hello"],
        "permissions": {"contents": "read", "issues": "write"},
    }
    assert "target" not in scoped_fields(READ, "ghu_old")


def test_a_scoped_token_counts_for_the_permissions_that_the_answer_names() -> None:
    made = scoped_answer(answer(github()), replace(READ, item=REPOSITORY), now=NOW)
    assert isinstance(made, TokenAnswer)
    assert made.scopes == {"issues:read", "metadata:read"}
    assert made.expires_in == 1_800_003_600 - NOW


@pytest.mark.parametrize(
    "installation",
    [
        None,
        {"permissions": None},
        {"permissions": {"issues": "read"}, "repository_selection": "all", "account": {"login": "octo"}},
        {"permissions": {"issues": "read"}, "repository_selection": "selected", "account": {"login": "other"}},
        {"permissions": {"issues": "read"}, "repository_selection": "selected"},
    ],
)
def test_an_answer_about_something_else_confirms_no_scope(installation: object) -> None:
    made = scoped_answer(answer(github(installation=installation)), replace(READ, item=REPOSITORY), now=NOW)
    assert isinstance(made, TokenAnswer)
    assert made.scopes is None


def test_an_end_that_nobody_can_read_is_not_said() -> None:
    for end in (None, "soon", 5):
        made = scoped_answer(answer(github(expires_at=end)), READ, now=NOW)
        assert isinstance(made, TokenAnswer)
        assert made.expires_in is None


@pytest.mark.parametrize(
    ("status", "code"), [(404, "invalid_token"), (401, "invalid_client"), (422, "invalid_scope"), (418, "status_418")]
)
def test_github_s_refusals_by_their_status(status: int, code: str) -> None:
    assert scoped_answer(answer({"message": "no"}, status), READ, now=NOW) == Refusal(
        code, scoped_answer(answer({"message": "no"}, status), READ, now=NOW).description, ends_grant=False
    )


def test_what_is_no_answer_is_silence_and_asking_for_patience_is_not() -> None:
    assert isinstance(scoped_answer(answer({}, 502), READ, now=NOW), Silent)
    assert isinstance(scoped_answer(answer({}, 503), READ, now=NOW), Silent)
    assert scoped_answer(answer({}, 503, **{"retry-after": "9"}), READ, now=NOW) == NotSent(
        "the provider is unavailable", retry_after=9
    )
    assert isinstance(scoped_answer(OutboundResponse(200, {}, b"<html>"), READ, now=NOW), Silent)
    assert scoped_answer(answer({}, 403, **{"retry-after": "9"}), READ, now=NOW) == NotSent(
        "the provider is rate limiting", retry_after=9, is_limited=True
    )
    assert isinstance(scoped_answer(answer({}, 429), READ, now=NOW), NotSent)
    assert isinstance(scoped_answer(answer({}, 403), READ, now=NOW), Refusal)


# RFC 8693 at Box


def test_an_exchange_names_token_scopes_and_item() -> None:
    fields = exchange_parameters(BOX, NarrowTokenRequest(frozenset({"base_explorer", "item_download"}), FOLDER), "old")
    assert fields["scope"] == "base_explorer item_download"
    assert fields["resource"] == "https://api.box.com/2.0/folders/12"
    assert "resource" not in exchange_parameters(BOX, READ, "old")


@pytest.mark.parametrize(
    ("content", "wanted", "scopes"),
    [
        (box("base_explorer"), NarrowTokenRequest(frozenset({"base_explorer"})), frozenset({"base_explorer"})),
        (
            box("base_explorer", type="folder", id="12"),
            NarrowTokenRequest(frozenset(), FOLDER),
            frozenset({"base_explorer"}),
        ),
        (box("base_explorer", type="folder", id="13"), NarrowTokenRequest(frozenset(), FOLDER), None),
        (box("base_explorer", type="file", id="12"), NarrowTokenRequest(frozenset(), FOLDER), None),
        (box("base_explorer"), NarrowTokenRequest(frozenset(), FOLDER), None),
        (box(), NarrowTokenRequest(frozenset(), FOLDER), None),
        (box() | {"scope": "base_explorer"}, NarrowTokenRequest(frozenset(), FOLDER), None),
        (box() | {"scope": "base_explorer"}, NarrowTokenRequest(frozenset()), frozenset({"base_explorer"})),
        (box(), NarrowTokenRequest(frozenset()), None),
    ],
)
def test_an_exchanged_token_counts_for_what_the_answer_limits_it_to(
    content: dict[str, object], wanted: NarrowTokenRequest, scopes: frozenset[str] | None
) -> None:
    made = exchange_answer(BOX, answer(content), wanted, make_context())
    assert isinstance(made, TokenAnswer)
    assert made.scopes == scopes
    assert made.refresh_token is None


def test_a_dead_subject_token_is_told_from_a_refusal_of_the_request() -> None:
    def code(error: str) -> str:
        refused = exchange_answer(BOX, answer({"error": error}, 400), READ, make_context())
        assert isinstance(refused, Refusal)
        assert not refused.ends_grant
        return refused.code

    assert code("invalid_grant") == code("invalid_token") == "invalid_token"
    assert code("invalid_scope") == "invalid_scope"
    assert isinstance(exchange_answer(BOX, answer({}, 500), READ, make_context()), Silent)


# Refreshes


def test_a_narrowing_refresh_asks_in_the_words_of_the_provider() -> None:
    def asks(name: str, *scopes: str) -> object:
        return narrowing_parameter(load_catalog().provider(name), frozenset(scopes))

    assert asks("dropbox", "files.metadata.read") == {"scope": "files.metadata.read"}
    assert asks("square", "PAYMENTS_READ", "ITEMS_READ") == {"scopes": ["ITEMS_READ", "PAYMENTS_READ"]}
    assert asks("microsoft", "Mail.Read") == {"scope": "Mail.Read offline_access"}


def test_a_registration_hides_its_secret() -> None:
    assert "shh" not in repr(GITHUB.with_registration(Registration("id", "shh")).registration)


# The token from which another is derived


def _row(**changes: object) -> ConnectionFacts:
    row = ConnectionFacts(
        connection_id="c",
        user_id="u",
        provider="box",
        account="a",
        label="l",
        scopes=frozenset(),
        state=ConnectionState.ACTIVE,
        reason=None,
        generation=1,
        fence=0,
        access_generation=1,
        narrowed_generation=0,
        access_expires_at=NOW + 3600,
        lease_owner=None,
        lease_until=None,
        sent_at=None,
        is_ended=False,
        refresh_sealed=b"r",
        access_sealed=b"a",
        refreshed_at=NOW,
        wrapped=b"w",
    )
    return replace(row, **changes)


def test_a_token_is_made_of_one_that_has_some_time_left() -> None:
    box, github = UpstreamPolicy("box"), UpstreamPolicy("github", refresh_ends_access_token=True)
    for policy in (box, github):
        assert is_good_parent(_row(), policy=policy, now=NOW)
        assert is_good_parent(_row(access_expires_at=None), policy=policy, now=NOW)
        assert not is_good_parent(_row(access_sealed=None), policy=policy, now=NOW)
        assert not is_good_parent(_row(), policy=policy, now=NOW + 3599)
    # It is refreshed a minute before its end, so that the new token lasts, but not where that ends tokens in use.
    for policy, left in ((box, 60), (github, 5)):
        for more, is_good in ((0, False), (1, True)):
            assert is_good_parent(_row(), policy=policy, now=NOW + 3600 - left - more) is is_good
