"""Provider files: what is built in, what is refused and how, and what an operator may override."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from providers.definitions.catalog import SHELF, ProviderFileRefused, ProviderOverrides, check_file, load_catalog
from providers.tools.builtin import builtin_tools
from vault.upstream import Downscope, RotationMode

GOOD = """
name = "example"
title = "Example"

[hosts]
authorize_url = "https://example.com/authorize"
token_url = "https://example.com/token"

[scope]
default = ["read"]

[identity]
url = "https://example.com/me"
id = "{id}"
label = "{name}"

[apis]
main = "https://api.example.com/v1"

[scopes]
read = { title = "Read things" }
write = { title = "Change things", covers = ["read"] }

[sources]
docs = { name = "example.com/docs", date = 2026-11-26 }

[overrides]
parameters = []
sources = ["docs"]

[[rules]]
api = "main"
method = "GET"
path = "/things/{}"
scopes = ["read"]
"""


def write_file(folder: Path, text: str, *, name: str = "example.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_built_in_files_have_no_problem() -> None:
    catalog = load_catalog()
    assert catalog.names == ("google", "slack")
    for name in catalog.names:
        assert check_file(SHELF / f"{name}.toml") == []


def test_slack_is_the_person_and_rotates_strictly() -> None:
    slack = load_catalog().provider("slack")
    policy = slack.policy()
    assert (policy.rotation, policy.downscope) == (RotationMode.STRICT, Downscope.NONE)
    assert slack.scope.param == "user_scope"
    assert slack.identity_url == "https://slack.com/api/auth.test"
    assert policy.always_granted == frozenset()


def test_google_narrows_by_refresh_and_its_scopes_form_a_hierarchy() -> None:
    google = load_catalog().provider("google")
    policy = google.policy()
    assert (policy.rotation, policy.downscope, policy.revoke_ends_grant) == (
        RotationMode.NONE,
        Downscope.REFRESH_SCOPE,
        True,
    )
    prefix = "https://www.googleapis.com/auth/"
    assert f"{prefix}calendar.events.readonly" in policy.covers[f"{prefix}calendar"]  # over two steps
    assert f"{prefix}calendar.events.readonly" in policy.covers[f"{prefix}calendar.readonly"]
    assert f"{prefix}calendar.events" not in policy.covers[f"{prefix}calendar.readonly"]
    assert policy.always_granted == {"openid", "email", f"{prefix}userinfo.email"}
    assert "include_granted_scopes" not in google.params.authorize


def test_an_alias_is_the_provider_with_scopes_of_its_own() -> None:
    catalog = load_catalog()
    provider, scopes = catalog.resolve("google-calendar")
    assert provider is catalog.provider("google") is catalog.get("google-calendar")
    assert scopes and all("calendar" in scope for scope in scopes)
    assert catalog.get("nothing") is None
    assert [each.name for each in catalog] == list(catalog.names)
    with pytest.raises(KeyError):
        catalog.resolve("nothing")


def test_every_tool_asks_for_scopes_that_its_provider_can_say_in_words() -> None:
    catalog = load_catalog()
    for tool in builtin_tools():
        assert tool.provider is not None
        provider = catalog.provider(tool.provider)
        assert tool.scopes <= set(provider.scopes)
        words = provider.words(tool.scopes)
        assert len(words) == len(tool.scopes) and not any("googleapis" in word or ":" in word for word in words)


def test_identity_scopes_are_not_shown_as_permissions() -> None:
    google = load_catalog().provider("google")
    assert google.words(frozenset({"openid", "email"})) == ()
    assert google.words(frozenset({"unheard-of"})) == ("unheard-of",)


BAD = [
    ("isn't valid TOML", GOOD + "\n[", "isn't valid TOML"),
    ("missing", GOOD.replace('title = "Example"\n', "", 1), "title: missing; add it"),
    ("unknown field", GOOD + '\n[hosts.extra]\na = "b"', "hosts.extra: no such field"),
    ("wrong word", GOOD.replace("[scope]", 'pkce = "plain"\n[scope]', 1), "hosts.pkce: no such field"),
    ("bad pkce", 'pkce = "plain"\n' + GOOD, "pkce: input should be 'S256' or 'off'; correct it"),
    ("file name", GOOD.replace('name = "example"', 'name = "other"'), "rename the file to 'other'.toml"),
    ("name syntax", GOOD.replace('name = "example"', 'name = "Ex ample"'), "name: string should match pattern"),
    ("http", GOOD.replace("https://example.com/token", "http://example.com/token"), "hosts.token_url: not https"),
    (
        "private",
        GOOD.replace("https://example.com/token", "https://10.0.0.1/"),
        "token_url: not a public address",
    ),
    ("relative", GOOD.replace("https://example.com/me", "/me"), "identity.url: not a plain absolute URL"),
    ("userinfo", GOOD.replace("https://api.", "https://api.example.com@"), "apis.main: contains a user name"),
    ("query", GOOD.replace("/v1", "/v1?a=b"), "apis.main: has a query or fragment; remove it"),
    ("mixed hosts", GOOD.replace("https://api.example.com", "http://localhost:1"), "override all of them or none"),
    ("default", GOOD.replace('default = ["read"]', 'default = ["raed"]'), "scope.default: unknown scope 'raed'"),
    ("covers", GOOD.replace('covers = ["read"]', 'covers = ["raed"]'), "scopes.write.covers: unknown scope 'raed'"),
    ("circle", GOOD.replace('title = "Read things"', 'title = "R", covers = ["write"]'), "covers itself in a loop"),
    ("rule scope", GOOD.replace('scopes = ["read"]', 'scopes = ["raed"]'), "rules.0.scopes: unknown scope 'raed'"),
    ("rule without scope", GOOD.replace('scopes = ["read"]', "scopes = []"), "rules.0.scopes: "),
    ("rule api", GOOD.replace('api = "main"', 'api = "mian"'), "rules.0.api: unknown API 'mian'"),
    ("rule path", GOOD.replace('path = "/things/{}"', 'path = "things/../x"'), "rules.0.path: string should match"),
    ("rule method", GOOD.replace('method = "GET"', 'method = "FETCH"'), "rules.0.method.0: "),
    ("rule pattern", GOOD + 'where = { kind = "(" }', "rules.0.where.kind: not a regular expression"),
    ("exact", GOOD + 'query = "any"\nexact = true', "rules.0.exact: `query` allows any parameter; list them"),
    ("identity", GOOD.replace('url = "https://example.com/me"\n', ""), "identity: use either url, or api and path"),
    (
        "identity api",
        GOOD.replace('url = "https://example.com/me"', 'api = "x"\npath = "/me"'),
        "identity.api: unknown",
    ),
    ("identity id", GOOD.replace('id = "{id}"', 'id = "me"'), "identity.id: needs a {path}"),
    ("separator", GOOD.replace("[scope]", '[scope]\nseparator = ", "'), "scope.separator: must be one character"),
    ("header", GOOD + '\n[headers]\nX-Version = "1\\r2"', "headers.X-Version: a header has printable ASCII characters"),
    ("operation", GOOD + '\n[headers]\nX-Amz-Target = "A.B"', "headers.X-Amz-Target: names an operation"),
    ("header name", GOOD + '\n[headers]\n"X Version" = "1"', "headers.X Version: a header has printable"),
    ("keep", GOOD + '\n[response]\nkeep = { team = "a b" }', "response.keep.team: 'a b' isn't a path"),
    ("alias scope", "aliases = { short = ['x'] }\n" + GOOD, "aliases.short: unknown scope 'x'"),
    ("secret", "client_secret = 'x'\n" + GOOD, "client_secret: no such field"),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_file_is_refused_with_one_line_that_says_the_fix(tmp_path: Path, text: str, expected: str) -> None:
    path = write_file(tmp_path, text)
    problems = check_file(path)
    assert any(expected in problem for problem in problems), problems
    assert all("\n" not in problem and problem.startswith("example.toml: ") for problem in problems)
    with pytest.raises(ProviderFileRefused, match=r"^example.toml: [^\n]+$"):
        load_catalog([tmp_path])
    write_file(tmp_path, GOOD)
    assert check_file(path) == []
    assert load_catalog([tmp_path]).names == ("example", "google", "slack")


def test_an_unreadable_file_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    assert "can't be read" in check_file(tmp_path / "gone.toml")[0]
    (tmp_path / "example.toml").write_bytes(b"\xff\xfe")
    assert "UTF-8" in check_file(tmp_path / "example.toml")[0]
    with pytest.raises(ProviderFileRefused, match="no such folder"):
        load_catalog([tmp_path / "gone"])


def test_an_operators_file_takes_the_place_of_a_built_in_one(tmp_path: Path) -> None:
    write_file(tmp_path, GOOD.replace('name = "example"', 'name = "slack"'), name="slack.toml")
    assert load_catalog([tmp_path]).provider("slack").title == "Example"


def test_an_alias_that_is_taken_is_refused(tmp_path: Path) -> None:
    write_file(tmp_path, "aliases = { slack = ['read'] }\n" + GOOD)
    with pytest.raises(ProviderFileRefused, match=r"aliases\.slack: already means slack"):
        load_catalog([tmp_path])
    write_file(tmp_path, "aliases = { quick = ['read'] }\n" + GOOD)
    assert load_catalog([tmp_path]).resolve("quick")[1] == {"read"}


def test_addresses_and_registration_come_from_the_operator() -> None:
    loopback = "http://127.0.0.1:8123"
    overrides = ProviderOverrides(
        client_id="id",
        client_secret="hush",
        authorize_url=f"{loopback}/a",
        token_url=f"{loopback}/t",
        revoke_url=f"{loopback}/r",
        apis={"web": f"{loopback}/api"},
        scopes=frozenset({"chat:write"}),
    )
    slack = load_catalog(overrides={"slack": overrides}).provider("slack")
    assert (slack.hosts.token_url, slack.apis["web"]) == (f"{loopback}/t", f"{loopback}/api")
    assert slack.identity_url == f"{loopback}/api/auth.test"
    assert slack.registration.client_id == "id"
    assert slack.policy().operator_scopes == {"chat:write"}
    assert "hush" not in repr(slack) + repr(overrides) + repr(slack.registration)
    assert load_catalog().provider("slack").registration.client_id is None


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("slcak", ProviderOverrides(client_id="x"), "providers.slcak: no provider file of that name"),
        (
            "slack",
            ProviderOverrides(apis={"wbe": "https://x.example"}),
            "slack.apis.wbe: no such API",
        ),
        ("slack", ProviderOverrides(token_url="http://slack.example/"), "providers.slack: hosts.token_url: not https"),
        ("slack", ProviderOverrides(token_url="http://127.0.0.1/"), "override all of them or none"),
        ("slack", ProviderOverrides(long_lived_url="https://x.example"), "long_lived_url: its file has no such step"),
        ("slack", ProviderOverrides(scopes=frozenset({"x"})), "providers.slack.scopes: unknown scope 'x'"),
        (
            "google",
            ProviderOverrides(userinfo_url="nonsense"),
            "google: identity.url: not a plain",
        ),
    ],
)
def test_an_override_that_makes_no_sense_is_refused(name: str, overrides: ProviderOverrides, expected: str) -> None:
    with pytest.raises(ProviderFileRefused) as caught:
        load_catalog(overrides={name: overrides})
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_step_to_a_long_lived_token_moves_with_the_other_addresses() -> None:
    base = "http://127.0.0.1:8123"
    moved = ProviderOverrides(
        authorize_url=f"{base}/a",
        token_url=f"{base}/t",
        revoke_url=f"{base}/r",
        userinfo_url=f"{base}/me",
        apis={"main": f"{base}/api"},
    )
    with pytest.raises(ProviderFileRefused, match="override all of them or none"):
        load_catalog(overrides={"facebook": moved})
    facebook = load_catalog(overrides={"facebook": replace(moved, long_lived_url=f"{base}/longer")}).provider(
        "facebook"
    )
    assert facebook.long_lived is not None
    assert facebook.long_lived.url == f"{base}/longer"
