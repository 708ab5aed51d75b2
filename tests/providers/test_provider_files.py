"""The provider files that come with the program.

All of them make sense, name their sources, and are read only when needed.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from providers.api.rules import Call, allows
from providers.definitions.catalog import (
    SHELF,
    ProviderFileRefused,
    ProviderOverrides,
    check_file,
    load_catalog,
    read_provider,
    schema,
    shipped_files,
)
from providers.definitions.model import Provider
from providers.definitions.unruled_calls import ANY_CALL, ANY_READ
from providers.definitions.unruled_rules import unruled_problem, with_unruled_calls
from providers.oauth.client import OAuthUpstream
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from tests.providers.test_providers_catalog import GOOD, write_file
from vault.upstream import Downscope

FILES = shipped_files()
EVERYTHING = load_catalog().all_providers()


def test_every_file_makes_sense() -> None:
    assert [problem for path in FILES for problem in check_file(path)] == []
    assert len(FILES) >= 100
    assert [provider.name for provider in EVERYTHING] == sorted(path.stem for path in FILES)


def test_every_file_says_who_says_where_its_endpoints_are() -> None:
    assert [provider.name for provider in EVERYTHING if provider.is_draft] == []
    for provider in EVERYTHING:
        used = {source for fact in provider.facts.values() for source in fact.sources}
        assert used <= set(provider.sources), provider.name
        assert sum(provider.tally.values()) == len(provider.fact_names) >= len(provider.facts)


def test_every_file_has_two_sources_and_few_are_unsure_where_to_ask() -> None:
    assert [provider.name for provider in EVERYTHING if len(provider.sources) < 2] == []
    unsure = {provider.name for provider in EVERYTHING if provider.facts["endpoints"].level == "unsure"}
    assert unsure == {"fitbit"}  # closed by its vendor


def test_what_two_sources_say_is_said_by_two_projects() -> None:
    for provider in EVERYTHING:
        for name, fact in provider.facts.items():
            read = {provider.sources[source].name.casefold() for source in fact.sources}
            projects = {"nango" if text.startswith("nango") else text for text in read}
            assert fact.level != "cited" or len(projects) > 1, f"{provider.name}: {name}"


def test_each_service_is_usable_by_its_rules_or_where_an_operator_allows_calls_without() -> None:
    unruled = [provider for provider in EVERYTHING if not provider.rules]
    assert len(EVERYTHING) - len(unruled) >= 450
    for provider in unruled:
        call, own = Call(next(iter(provider.apis)), "GET", "/things"), frozenset(provider.scopes)
        assert not allows(provider, call, own), provider.name
        assert unruled_problem(provider, "any") is None, provider.name
        opened = with_unruled_calls(provider, "any")
        assert allows(opened, call, frozenset({ANY_READ, ANY_CALL})), provider.name
        assert not allows(opened, call, own), provider.name


# Scopes of services with several hosts that no rule names, because no call needs them.
AT_NO_ADDRESS = {
    "box": {"base_upload", "item_preview", "item_rename", "item_share"},  # of what Box shows in a browser
    "docusign": {"openid"},  # identifies the account
}


def scopes_without_address(provider: Provider) -> set[str]:
    """The scopes that no rule reaches if the service has several hosts: nothing says at which they work. With one host,
    it is that one."""
    if len({urlsplit(address).netloc for address in provider.apis.values()}) == 1:
        return set()
    ruled = {scope for rule in provider.rules for scope in rule.scopes | rule.needs}
    own = provider.scopes.keys() - provider.always_granted
    return {scope for scope in own if ruled.isdisjoint({scope, *provider.covers.get(scope, ())})}


def test_every_scope_that_can_be_connected_works_at_some_address() -> None:
    found = {provider.name: strays for provider in EVERYTHING if (strays := scopes_without_address(provider))}
    assert found == AT_NO_ADDRESS
    google = load_catalog().provider("google")
    lacking = google.model_copy(update={"rules": [rule for rule in google.rules if rule.api != "people"]})
    assert scopes_without_address(lacking) == {
        f"https://www.googleapis.com/auth/{x}" for x in ("contacts", "contacts.readonly")
    }
    one_host = lacking.model_copy(update={"apis": {"people": google.apis["people"]}})
    assert scopes_without_address(one_host) == set()


def test_no_name_or_alias_is_used_twice() -> None:
    names = [name for provider in EVERYTHING for name in (provider.name, *provider.aliases)]
    assert len(names) == len(set(names))


def test_what_a_service_does_not_issue_is_nowhere_described() -> None:
    for provider in EVERYTHING:
        if provider.refresh_tokens == "never":
            assert provider.downscope.mode is Downscope.NONE, provider.name
            assert not provider.scope.offline or provider.name == "stack-exchange", provider.name


def test_the_published_schema_is_that_of_the_model() -> None:
    committed = Path(SHELF.parent, "provider.schema.json").read_text(encoding="utf-8")
    made = json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
    assert committed == made, "token-vault providers schema > providers/provider.schema.json"
    for path in FILES:
        above = "../" * len(path.parent.relative_to(SHELF.parent).parts)
        assert path.read_text(encoding="utf-8").startswith(f"#:schema {above}provider.schema.json\n"), path.name
    known = schema()["properties"]
    assert isinstance(known, dict)
    assert {key for path in FILES for key in tomllib.loads(path.read_text(encoding="utf-8"))} <= set(known)


def test_a_file_is_read_when_somebody_asks_for_it() -> None:
    catalog = load_catalog()
    assert catalog.names == ("google", "slack")
    asana = catalog.provider("asana")
    assert asana is catalog.get("asana") and catalog.names == ("google", "slack")
    assert catalog.resolve("onedrive") == (catalog.provider("microsoft"), frozenset({"Files.Read"}))
    assert catalog.get("nobody") is None
    assert catalog.all_providers() == catalog.all_providers()


def test_a_provider_that_is_set_up_is_there_from_the_start() -> None:
    catalog = load_catalog(overrides={"asana": ProviderOverrides(client_id="x", client_secret="y")})
    assert catalog.names == ("asana", "google", "slack")


# The 84 services in the survey of providers, by their names here.
SURVEY = (
    "gmail google-calendar google-drive google-docs google-sheets google-contacts google-tasks google-chat "
    "youtube google-analytics google-bigquery google-ads outlook microsoft-teams onedrive sharepoint power-bi "
    "microsoft slack github-oauth-app github gitlab bitbucket jira confluence linear notion asana clickup monday "
    "airtable trello salesforce hubspot pipedrive zoho attio zendesk intercom front gong zoom calendly cal-com "
    "dropbox box figma miro canva discord x linkedin facebook instagram reddit tiktok spotify stripe-apps "
    "stripe-connect shopify quickbooks xero square paypal docusign mailchimp pagerduty sentry snowflake todoist "
    "webflow typeform surveymonkey servicenow okta twitch strava basecamp klaviyo posthog outreach salesloft "
    "wrike harvest"
)
# What Auth0's Token Vault connects to, except for `oauth2` and `oidc`, which settings alone describe.
AUTH0 = (
    "google microsoft github bitbucket slack box dropbox basecamp figma digitalocean hugging-face salesforce amazon "
    "discord fitbit freshbooks paypal snapchat spotify stripe-connect tumblr twitch x"
)


def test_the_services_of_the_survey_and_of_auth0_are_there() -> None:
    catalog = load_catalog()
    survey = SURVEY.split()
    assert len(set(survey)) == 84
    assert [name for name in (*survey, *AUTH0.split()) if catalog.get(name) is None] == []


def test_a_client_id_that_every_call_wants_is_in_its_headers() -> None:
    registered = load_catalog(overrides={"twitch": ProviderOverrides(client_id="ours", client_secret="s")})
    assert registered.provider("twitch").headers == {"Client-Id": "ours"}
    assert load_catalog().provider("twitch").headers == {"Client-Id": "{client_id}"}


def test_a_secret_that_every_call_wants_is_needed_even_without_client_authentication() -> None:
    unset = load_catalog(overrides={"etsy": ProviderOverrides(client_id="ours")}).provider("etsy")
    assert unset.needs_secret and not OAuthUpstream(unset, Outbound(AddressPolicy())).is_configured
    known = load_catalog(overrides={"etsy": ProviderOverrides(client_id="ours", client_secret="hush")}).provider("etsy")
    assert known.headers == {"x-api-key": "ours:hush"} and "hush" not in repr(known)
    assert OAuthUpstream(known, Outbound(AddressPolicy())).is_configured
    assert not load_catalog().provider("posthog").needs_secret


INPUT = """
[inputs.shop]
title = "the name of the shop"
example = "acme"
"""


def with_input(text: str) -> str:
    return text.replace("[scope]", INPUT + "\n[scope]", 1).replace("https://api.", "https://{shop}.", 1)


def at(folder: Path, **inputs: str) -> Provider:
    overrides = {"example": ProviderOverrides(client_id="x", client_secret="y", inputs=inputs)}
    return load_catalog([folder], overrides).provider("example")


def test_an_input_is_filled_into_the_addresses(tmp_path: Path) -> None:
    path = write_file(tmp_path, with_input(GOOD))
    assert check_file(path) == []
    assert at(tmp_path, shop="corner").apis == {"main": "https://corner.example.com/v1"}
    write_file(tmp_path, with_input(GOOD).replace('example = "acme"', 'example = "acme"\ndefault = "main"'))
    assert at(tmp_path).apis == {"main": "https://main.example.com/v1"}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, "inputs.shop: missing; set it to the name of the shop, for example acme"),
        ({"shop": "evil.example/"}, "inputs.shop: 'evil.example/' doesn't have the form of the name of the shop"),
        ({"shop": "x@evil"}, "doesn't have the form of the name of the shop"),
        ({"shop": "a..b"}, "doesn't have the form of the name of the shop"),
        ({"shop": ""}, "doesn't have the form of the name of the shop"),
        ({"shop": "corner", "town": "x"}, "inputs.town: Example has no such input; known: shop"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(tmp_path: Path, inputs: dict[str, str], expected: str) -> None:
    write_file(tmp_path, with_input(GOOD))
    with pytest.raises(ProviderFileRefused) as caught:
        at(tmp_path, **inputs)
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    assert at(tmp_path, shop="corner").name == "example"


def test_a_wide_pattern_lets_no_value_leave_its_place(tmp_path: Path) -> None:
    write_file(tmp_path, with_input(GOOD).replace('example = "acme"', "example = \"acme\"\npattern = '.*'"))
    for value in ("evil.example/x", "a:1", "x@y", "a b", "a#b", "a?b", "-a", "a\nb"):
        with pytest.raises(ProviderFileRefused):
            at(tmp_path, shop=value)
    assert at(tmp_path, shop="a.b-c_d").apis["main"] == "https://a.b-c_d.example.com/v1"


SOURCES = """
[sources.page]
name = "docs.example.com"
date = 2026-11-25

[facts]
endpoints = { status = "checked", sources = ["page"] }
"""


@pytest.mark.parametrize(
    ("text", "expected", "fix"),
    [
        ('[rotation]\nmode = "none"\n', "rotation.mode: facts.rotation is unknown", "rotation"),
        ('[downscope]\nmode = "refresh_scope"\n', "downscope.mode: facts.narrowing is unknown", "narrowing"),
        ("[revoke]\nends_grant = true\n", "revoke.ends_grant: facts.revocation is unknown", "revocation"),
    ],
)
def test_what_nobody_says_is_taken_in_the_strictest_way(tmp_path: Path, text: str, expected: str, fix: str) -> None:
    path = write_file(tmp_path, f"{GOOD}\n{text}\n{SOURCES}")
    assert any(expected in problem for problem in check_file(path))
    write_file(tmp_path, f'{GOOD}\n{text}\n{SOURCES}{fix} = {{ status = "cited", sources = ["page"] }}\n')
    assert check_file(path) == []


def test_a_fact_of_one_source_is_unsure(tmp_path: Path) -> None:
    other = "\n[sources.other]\nname = 'a library'\ndate = 2026-11-27\n"
    one = 'lifetimes = { status = "cited", sources = ["page"] }\n'
    found = read_provider(write_file(tmp_path, f"{GOOD}{SOURCES}{one}{other}"))
    assert found.tally == {"checked": 1, "cited": 0, "unsure": 1, "unknown": 8}
    assert str(found.read_on) == "2026-11-27"
    two = one.replace('["page"]', '["page", "other"]')
    assert read_provider(write_file(tmp_path, f"{GOOD}{SOURCES}{two}{other}")).tally["cited"] == 1
    differing = two.replace("cited", "unsure")
    assert read_provider(write_file(tmp_path, f"{GOOD}{SOURCES}{differing}{other}")).tally["unsure"] == 1
    assert str(read_provider(write_file(tmp_path, GOOD)).read_on) == "2026-11-26"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SOURCES.replace('["page"]', '["pgae"]'), "facts.endpoints.sources: 'pgae' isn't under [sources]; add it"),
        (SOURCES.replace(', sources = ["page"]', ""), "facts.endpoints: a fact has sources unless it's unknown"),
        (SOURCES.replace("checked", "unknown"), "facts.endpoints: a fact has sources unless it's unknown"),
        (SOURCES.replace("checked", "sure"), "facts.endpoints.status: input should be"),
        (SOURCES.replace("endpoints", "weather"), "facts.weather"),
    ],
)
def test_a_fact_names_who_says_so(tmp_path: Path, text: str, expected: str) -> None:
    path = write_file(tmp_path, GOOD + text)
    assert any(expected in problem for problem in check_file(path)), check_file(path)
    write_file(tmp_path, GOOD + SOURCES)
    assert check_file(path) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD.replace("https://example.com/me", "https://{x}.example.com"), "identity.url: {x} isn't an input"),
        (GOOD + "[inputs.a]\ntitle='A'\nexample='x'\npattern='('", "inputs.a.pattern: not a regular expression"),
        (GOOD + "[inputs.a]\ntitle='A'\nexample='x y'", "inputs.a.example: 'x y' does not match its own pattern"),
        (
            GOOD.replace("[scope]", 'revoke_url = "https://example.com/{token}"\n[scope]', 1),
            'revoke.token_in: "path" and {token} in hosts.revoke_url belong together',
        ),
        ('refresh_tokens = "never"\n' + GOOD + "[params]\nrefresh = { a = 'b' }", "refresh_tokens: never, but"),
        ('refresh_tokens = "access_token"\n' + GOOD, "refresh_tokens: access_token needs long_lived"),
        ('refresh_tokens = "access_token"\n' + GOOD, "rotation.mode: with refresh_tokens access_token"),
        (GOOD.replace('url = "https://example.com/me"', 'source = "answer"\nurl = "https://x.example"'), "remove them"),
        (GOOD + "[response]\naccess_token = 'a b'", "response.access_token: 'a b' isn't a path"),
        (GOOD + "[expires]\npath = 'a-b'", "expires.path: 'a-b' isn't a path"),
        (GOOD.replace("[scope]", "[scope]\nresponse_separator = ', '"), "scope.response_separator: must be one"),
    ],
)
def test_what_does_not_fit_together_is_said(tmp_path: Path, text: str, expected: str) -> None:
    path = write_file(tmp_path, text)
    assert any(expected in problem for problem in check_file(path)), check_file(path)
