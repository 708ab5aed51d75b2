"""What a key can't do although its rules allow every path: fetch credentials, or make changes with GET.

Twins differ only in that.
"""

from __future__ import annotations

import pytest

from providers.api.rules import Call, Payload, allows, is_credential_in_query, of_path
from providers.definitions.catalog import KEYS, load_catalog
from providers.definitions.unruled_calls import EVERYTHING

READ, WRITE = frozenset({"read"}), frozenset({"read", "write"})
PROVIDER = load_catalog().provider("apify")


def call(target: str, method: str = "GET") -> Call:
    path, _, query = target.partition("?")
    pairs = dict(one.split("=") for one in query.split("&") if one)
    return Call("main", method, path, pairs, Payload(frozenset(pairs)))


@pytest.mark.parametrize(
    ("closed", "open_"),
    [
        ("/v1/users/7/oauth_access_tokens/oauth_google", "/v1/users/7/emails"),
        ("/v3/configs/config/secret", "/v3/configs/config/secretary"),
        ("/v2/projects/7/connection_uri", "/v2/projects/7/connections"),
        ("/v2/roles/7/reveal_password", "/v2/roles/7"),
        ("/v1/apps/7/keys", "/v1/apps/7/keywords"),
        ("/v1/goals/7/shared-key", "/v1/goals/7/key-results"),
        ("/v1/messages/list_tokens", "/v1/messages/count_tokens"),
        ("/v1/apps/7/apiKey", "/v1/apps/7/api"),
        ("/v1/me/API_KEY.json", "/v1/me/keyboard.json"),
        ("/v1/services/7/env-vars", "/v1/services/7/environments"),
        ("/v1/s%C3%A9cret/%EF%BD%94oken", "/v1/tokenize"),
        ("/v1/accountSecrets/7", "/v1/accounts/7"),
    ],
)
def test_a_path_that_sounds_like_a_credential_is_closed(closed: str, open_: str) -> None:
    for method in ("GET", "POST"):
        assert {rule.tells_secrets for rule in of_path(PROVIDER, api="main", method=method, path=closed)} <= {True}
        assert [rule.tells_secrets for rule in of_path(PROVIDER, api="main", method=method, path=open_)] == [False]


@pytest.mark.parametrize(
    ("closed", "open_"),
    [
        ("/v1/accounts/7?include_credentials=true", "/v1/accounts/7?include_credentials=false"),
        ("/v1/accounts/7?showToken=1", "/v1/accounts/7?pageToken=1"),
        ("/v1/accounts/7?fields=id,secret_key", "/v1/accounts/7?fields=id,name"),
        ("/v1/accounts/7?reveal=1", "/v1/accounts/7?limit=1"),
    ],
)
def test_a_parameter_that_asks_for_a_credential_is_closed(closed: str, open_: str) -> None:
    assert not allows(PROVIDER, call(closed), WRITE)
    assert allows(PROVIDER, call(open_), READ)


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("/v3/jobs?name=x&delete=1", "/v3/jobs?name=x&delete=0"),
        ("/v3/jobs?restart=1", "/v3/jobs?start=1"),
        ("/v3/jobs?action=remove", "/v3/jobs?action=summary"),
        ("/v3/jobs/7/cancel", "/v3/jobs/7/cancellations"),
        ("/v3/deleteJob", "/v3/deletedJobs"),
        ("/v3/job.delete", "/v3/job.list"),
        ("/v2/acts/7/run-sync", "/v2/acts/7/runs"),
    ],
)
def test_a_get_that_changes_something_needs_the_scope_for_changes(change: str, read: str) -> None:
    assert not allows(PROVIDER, call(change), READ)
    assert allows(PROVIDER, call(change), WRITE)
    assert allows(PROVIDER, call(read), READ)


def test_a_service_that_takes_keys_in_headers_gets_none_in_the_query() -> None:
    for name in ("apiKey", "api_key", "api-key", "token", "key", "circle-token", "user_key"):
        assert is_credential_in_query(PROVIDER, name), name
        assert not is_credential_in_query(load_catalog().provider("github"), name), name
    for name in ("keyword", "pageToken", "tokens"):
        assert not is_credential_in_query(PROVIDER, name), name


def test_rules_that_a_file_names_go_before_names() -> None:
    provider = load_catalog().provider("token-metrics")
    [rule] = of_path(provider, api="main", method="GET", path="/v2/tokens")
    assert not rule.tells_secrets
    [rule] = of_path(provider, api="main", method="GET", path="/v2/access/tokens")
    assert rule.tells_secrets


def test_no_service_with_unread_rules_lets_a_fetch_of_pages_pass_for_a_read() -> None:
    for name in ("scrapfly", "scrapingbee", "zenrows", "diffbot"):
        provider = load_catalog().provider(name)
        assert not any(scope.reads for scope in provider.scopes.values()), name
    for path in KEYS.glob("*.toml"):
        provider = load_catalog().provider(path.stem)
        for rule in provider.rules:
            if rule.path == EVERYTHING and "GET" not in rule.method:
                assert not any(provider.scopes[scope].reads for scope in rule.scopes), provider.name
