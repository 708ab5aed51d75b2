"""`providers test`: every file agrees with the independent description of its service; every wrong value is found.

The simulator takes nothing but addresses from a file. So each field that describes a service's behavior has a mutation
here that must fail; tests/providers/test_provider_fields.py has the mutations of the other fields, and checks against
the schema that none is missing.
"""

from __future__ import annotations

import tomllib
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from pydantic import ValidationError

from providers.check.check import STEPS, examine, examine_all, findings_of
from providers.check.trial import PLAIN as PLAIN_MODE
from providers.check.trial import StepResult, mode_for
from providers.definitions.catalog import SHELF, load_catalog
from providers.definitions.model import Provider
from providers.definitions.validation import problems_of
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.simulator import Simulator, running_simulator
from providers.simulator.modes import SERVED

Content = dict[str, Any]


@pytest.mark.timeout(180)  # all of them in one process within three minutes
async def test_every_file_agrees_with_the_description_of_its_service(bench: Bench) -> None:
    everything = [one for one in load_catalog().all_providers() if one.credential is None]
    for provider, _, findings in await examine_all(everything):
        bench.of_files[provider.name] = failures_of(findings)
    assert {name: failures for name, failures in bench.of_files.items() if failures} == {}
    assert all(mode_for(provider) != PLAIN_MODE for provider in everything)


def failures_of(findings: Iterable[StepResult]) -> list[str]:
    return [f"{one.step}: {one.note}" for one in findings if one.outcome == "failed"]


@dataclass
class Bench:
    """One simulator for all mutations. `of_files`: the failures of files that have been checked, by name."""

    simulator: Simulator
    outbound: Outbound
    of_files: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    async def first_failure(self, content: Content, *, mode: str, public: bool = False) -> str | None:
        """What is wrong with a file first, by checking the file or by running it against the simulator."""
        try:
            provider = Provider.model_validate(content)
        except ValidationError as error:
            return str(error)
        for problem in problems_of(provider, stem=provider.name):
            return problem
        provider = provider.as_public_client() if public else provider
        async with aclosing(findings_of(provider, self.simulator, self.outbound, mode=mode)) as findings:
            async for one in findings:
                if one.outcome == "failed":
                    return f"{one.step}: {one.note}"
        return None

    async def is_sound(self, name: str) -> bool:
        """Whether a shipped file has no failure, also as an app without a secret."""
        if name not in self.of_files:
            ((_, _, findings),) = await examine_all([load_catalog().provider(name)])
            self.of_files[name] = failures_of(findings)
        return not self.of_files[name]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bench() -> AsyncGenerator[Bench]:
    async with running_simulator() as simulator, Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        yield Bench(simulator, outbound)


def content_of(name: str) -> Content:
    content = tomllib.loads((SHELF / f"{name}.toml").read_text(encoding="utf-8"))
    content.pop("rules", None)
    content.pop("rules_from", None)
    return content


PLAIN: Content = tomllib.loads("""
name = "plain"
title = "Plain"
[hosts]
authorize_url = "https://plain.example/authorize"
token_url = "https://plain.example/token"
revoke_url = "https://plain.example/revoke"
[scope]
default = ["read", "write"]
[rotation]
mode = "none"
[identity]
url = "https://plain.example/me"
id = "{sub}"
label = "{email}"
[scopes]
read = { title = "Read" }
write = { title = "Change" }
""")


def change_value(content: Content, path: str, value: object) -> Content:
    """The file with another value at a dotted path; None removes the path."""
    content = deepcopy(content)
    place = content
    *parents, last = path.split(".")
    for name in parents:
        place = place.setdefault(name, {})
    if value is None:
        place.pop(last, None)
    else:
        place[last] = value
    return content


# field of the schema, file, wrong value; a third word names a mode other than the file's own
MUTATIONS: list[tuple[str, str, object]] = [
    ("client_auth", "asana", "client_secret_basic"),
    ("client_auth", "reddit", "client_secret_post"),
    ("client_auth", "stripe-apps", "client_secret_basic"),
    ("client_auth", "posthog", "client_secret_post"),
    ("body", "notion", "form"),
    ("body", "asana", "json"),
    ("body", "asana", "query"),
    ("pkce", "airtable", "off"),
    ("pkce", "hubspot", "S256"),
    ("state_at_token", "dropbox-sign", False),
    ("refresh_tokens", "clickup", "issued"),
    ("refresh_tokens", "asana", "never"),
    ("hosts.revoke_url", "asana", None),
    ("hosts.revoke_url", "outreach", "https://api.outreach.io/revoke"),
    ("hosts.refresh_url", "figma", None),
    ("hosts.refresh_url", "asana", "https://app.asana.com/-/refresh"),
    ("scope.param", "slack", "scope"),
    ("scope.separator", "linear", " "),
    ("scope.separator", "asana", ","),
    ("scope.default", "asana", ["no-such-scope"]),
    ("scope.offline", "x", []),
    ("scope.identity", "reddit", []),
    ("scope.synonyms", "microsoft", {}),
    ("scope.response_separator", "github-oauth-app", None),
    ("scope.app_level", "zoom", False),
    ("scope.app_level", "asana", True),
    ("params.authorize", "atlassian", {"prompt": "consent"}),
    ("params.token", "shopify", {}),
    ("params.refresh", "zendesk", {}),
    ("rename.authorize", "tiktok", {}),
    ("rename.token", "tiktok", {}),
    ("headers", "klaviyo", {}),
    ("headers", "etsy", {"x-api-key": "{client_id}"}),
    ("authorization.header", "shopify", "Authorization"),
    ("long_lived.grant_type", "facebook", "ig_exchange_token"),
    ("long_lived.token_param", "facebook", "access_token"),
    ("long_lived", "threads", None),
    ("response.root", "slack", None),
    ("response.access_token", "asana", "accessToken"),
    ("response.refresh_token", "asana", "refreshToken"),
    ("response.scope", "bitbucket", "scope.x y"),
    ("response.scope", "asana", "scopes"),
    ("response.error", "asana", "fault"),
    ("response.error_description", "asana", "a b"),
    ("response.ok_flag", "slack", None),
    ("response.keep", "slack", {"team_id": "workspace.id"}),
    ("response.grant_expires", "tiktok", None),
    ("expires.path", "strava", "expires_in"),
    ("expires.unit", "strava", "seconds"),
    ("expires.unit", "asana", "milliseconds"),
    ("expires.default", "salesforce", 86_400),
    ("expires.grant", "spotify", None),
    ("expires.grant", "asana", 86_400 * 30),
    ("expires.idle", "airtable", 86_400 * 365),
    ("expires.idle", "box", None),
    ("rotation.mode", "plain-known", "strict"),
    ("rotation.mode", "google", "strict"),
    ("rotation.mode", "calendly", "none"),
    ("rotation.mode", "calendly", "strict"),
    ("rotation.mode", "slack", "revokes"),
    ("rotation.ends_access_token", "gitlab", False),
    ("rotation.ends_access_token", "calendly", True),
    ("downscope.mode", "google", "none"),
    ("downscope.mode", "asana", "refresh_scope"),
    ("downscope.mode", "box", "native"),
    ("downscope.destructive", "gitlab", False),
    ("downscope.destructive", "google", True),
    ("downscope.param", "square", "scope"),
    ("downscope.array", "square", False),
    ("downscope.path", "github", "/applications/{client_id}/token"),
    ("downscope.api", "github", "nothing"),
    ("downscope.items", "github", "none"),
    ("downscope.item", "github", ["/repos/{owner}"]),
    ("downscope.told_path", "square", "/oauth2/token"),
    ("downscope.scopes_at", "square", "scope"),
    ("revoke.method", "mollie", "POST"),
    ("revoke.token_in", "slack", "form"),
    ("revoke.token_in", "notion", "form"),
    ("revoke.token_in", "zoho", "form"),
    ("revoke.param", "webflow", "token"),
    ("revoke.tokens", "asana", ["access_token", "refresh_token"]),
    ("revoke.tokens", "zoom", ["refresh_token"]),
    ("revoke.each", "slack", False),
    ("revoke.account", "stripe-connect", None),
    ("revoke.account", "stripe-connect", "account"),
    ("revoke.client_auth", "stripe-connect", True),
    ("revoke.client_auth", "asana", False),
    ("revoke.client_auth", "github-oauth-app", True),
    ("revoke.ends_grant", "google", False),
    ("revoke.ends_grant", "hubspot", True),
    ("identity.source", "notion", "endpoint"),
    ("identity.source", "asana", "none"),
    ("identity.method", "linear", "GET"),
    ("identity.body", "linear", None),
    ("identity.id", "asana", "{data.id}"),
    ("identity.label", "asana", "{data.gid}"),
    ("errors.ends_grant", "zoho", ["invalid_grant"]),
    ("errors.busy", "slack", []),
    ("errors.unknown_outcome", "slack", []),
    ("apis", "box", {}),
    ("scopes", "asana", {}),
    ("inputs", "shopify", {}),
    ("facts", "asana", {"endpoints": {"status": "cited", "sources": ["nobody"]}}),
    ("sources", "asana", {}),
    ("name", "asana", "Asana"),
    ("aliases", "microsoft", {"onedrive": ["no-such-scope"]}),
]

# for the app without a secret
PUBLIC: list[tuple[str, str, object]] = [
    ("public_client.pkce", "slack", "off"),
    ("public_client.grant", "slack", 86_400),
    ("public_client.idle", "square", None),
    ("public_client.rotation", "square", None),
    ("public_client.downscope", "square", None),
]


@pytest.mark.parametrize(
    ("path", "name", "wrong"), MUTATIONS, ids=[f"{p}-{n}-{i}" for i, (p, n, _) in enumerate(MUTATIONS)]
)
async def test_a_wrong_value_is_noticed(bench: Bench, path: str, name: str, wrong: object) -> None:
    if name.endswith("-known"):
        content, mode = PLAIN, "plain"
        assert await bench.first_failure(content, mode=mode) is None
    else:
        content = content_of(name)
        mode = mode_for(Provider.model_validate(content))
        assert await bench.is_sound(name)
    assert await bench.first_failure(change_value(content, path, wrong), mode=mode) is not None


@pytest.mark.parametrize(("path", "name", "wrong"), PUBLIC)
async def test_a_wrong_value_for_the_app_without_a_secret_is_noticed(
    bench: Bench, path: str, name: str, wrong: object
) -> None:
    content = content_of(name)
    mode = f"{mode_for(Provider.model_validate(content))}-pkce"
    assert await bench.is_sound(name)
    assert await bench.first_failure(change_value(content, path, wrong), mode=mode, public=True) is not None


# single peculiarities, each with the file that fits it
FITTING: list[tuple[str, dict[str, object]]] = [
    ("plain", {}),
    ("grace", {"rotation.mode": "grace", "rotation.grace": 60}),
    ("strict", {"rotation.mode": "strict"}),
    ("reuse-revokes", {"rotation.mode": "revokes"}),
    ("ends-access", {"rotation.mode": "strict", "rotation.ends_access_token": True}),
    ("no-refresh", {"refresh_tokens": "never"}),
    ("pkce-required", {}),
    ("pkce-ignored", {"pkce": "off"}),
    ("pkce-refused", {"pkce": "off"}),
    ("basic-only", {}),
    ("post-only", {"client_auth": "client_secret_post"}),
    ("public", {"client_auth": "none"}),
    ("json-body", {"body": "json"}),
    ("query-body", {"body": "query"}),
    ("comma-scopes", {"scope.separator": ","}),
    ("user-scope", {"scope.separator": ",", "scope.param": "user_scope", "scope.response_separator": " "}),
    (
        "client-key",
        {
            "client_auth": "client_secret_post",
            "rename.token": {"client_id": "client_key"},
            "rename.authorize": {"client_id": "client_key"},
        },
    ),
    ("access-type", {"params.authorize": {"access_type": "offline"}}),
    ("offline-access", {"scope.offline": ["offline_access"], "scopes.offline_access": {"title": "Stay"}}),
    ("needs-audience", {"params.authorize": {"audience": "api.example"}}),
    ("under-root", {"response.root": "data.token"}),
    ("ok-flag", {"response.ok_flag": "ok"}),
    ("camel-case", {"response.access_token": "accessToken", "response.refresh_token": "refreshToken"}),
    ("expires-text", {}),
    ("expires-milliseconds", {"expires.unit": "milliseconds"}),
    ("expires-iso", {"expires.unit": "iso", "expires.path": "expires_at"}),
    ("expires-epoch", {"expires.unit": "epoch", "expires.path": "expires_at"}),
    ("expires-unsaid", {}),
    ("scope-array", {}),
    ("scope-unsaid", {}),
    ("revoke-unsupported", {"hosts.revoke_url": None}),
    (
        "revoke-delete",
        {
            "hosts.revoke_url": "https://plain.example/revoke/{token}",
            "revoke.method": "DELETE",
            "revoke.token_in": "path",
            "revoke.each": True,
        },
    ),
    ("revoke-bearer", {"revoke.token_in": "header", "revoke.tokens": ["access_token"], "revoke.client_auth": False}),
    ("revoke-query", {"revoke.method": "GET", "revoke.token_in": "query"}),
    ("identity-post", {"identity.method": "POST"}),
]


def apply_changes(changes: dict[str, object]) -> Content:
    content = PLAIN
    for path, value in changes.items():
        content = change_value(content, path, value)
    return content


@pytest.mark.parametrize(("mode", "changes"), FITTING, ids=[mode for mode, _ in FITTING])
async def test_a_file_can_say_each_way_in_which_services_differ(
    bench: Bench, mode: str, changes: dict[str, object]
) -> None:
    assert mode in SERVED
    assert await bench.first_failure(apply_changes(changes), mode=mode) is None
    if changes:
        assert await bench.first_failure(PLAIN, mode=mode) is not None or mode == "pkce-ignored"


async def test_a_grace_that_is_too_long_is_noticed(bench: Bench) -> None:
    wrong = apply_changes({"rotation.mode": "grace", "rotation.grace": 600})
    failure = await bench.first_failure(wrong, mode="grace")
    assert failure is not None
    assert "rotation.mode" in failure


async def test_a_file_costs_a_moment_and_every_step_is_told(bench: Bench) -> None:
    slack = load_catalog().provider("slack")
    findings = await examine(slack, bench.simulator, bench.outbound, mode="known-slack")
    assert [one.step for one in findings] == [name for name, _ in STEPS]
    assert StepResult("narrow", "skipped", "the vault's own rules limit the scopes") in findings


async def test_a_file_with_a_certificate_is_tried_with_a_secret_and_says_so(bench: Bench) -> None:
    by_secret = load_catalog().provider("asana")
    by_certificate = by_secret.model_copy(update={"client_auth": "tls_client_auth"})
    for provider, steps in ((by_certificate, ["certificate"]), (by_secret, [])):
        findings = await examine(provider, bench.simulator, bench.outbound, mode="known-asana")
        assert [one.step for one in findings] == [*steps, *(name for name, _ in STEPS)]
        assert not [one for one in findings if one.outcome == "failed"]
