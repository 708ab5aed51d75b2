"""For each field that a provider file may have, a wrong value is found.

Either here, or by running the file as tests/providers/test_provider_check.py does. The schema itself says which fields
exist, including nested ones.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import pytest_asyncio
from pydantic import BaseModel

from providers.api.api import UpstreamAPI
from providers.api.rules import Call, allows
from providers.definitions.catalog import KEYS, SHELF, check_file
from providers.definitions.model import Provider
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.outbound.json_values import is_array, is_object
from tests.providers.test_provider_check import MUTATIONS, PUBLIC, change_value
from tests.support.doubles.scripted_server import ScriptedServer, json_reply, scripted_server

Content = dict[str, Any]
OWN_API: Content = tomllib.loads("""
name = "brokerage"
title = "Brokerage"
audience = "https://brokerage.example"
[apis]
main = "https://brokerage.example/v1"
[scopes.read]
title = "See what you own"
""")
# `rotation` and `downscope` of the app without a secret repeat the tables with the same name
SAID_AGAIN = ("public_client.rotation", "public_client.downscope")

# field, file, path in it, wrong value; refused when the file is read. With several entries, the path is the first
# one's.
FORM: list[tuple[str, str, str, object]] = [
    ("title", "asana", "title", ""),
    ("audience", "brokerage", "audience", "brokerage"),
    ("hosts.authorize_url", "asana", "hosts.authorize_url", "http://app.asana.com/-/oauth_authorize"),
    ("hosts.issuer", "asana", "hosts.issuer", "http://app.asana.com"),
    ("hosts.token_url", "asana", "hosts.token_url", "app.asana.com/-/oauth_token"),
    ("long_lived.url", "facebook", "long_lived.url", "https://{nothing}/oauth/access_token"),
    ("identity.url", "asana", "identity.url", "//app.asana.com"),
    ("identity.api", "slack", "identity.api", "nothing"),
    ("identity.path", "slack", "identity.path", None),
    ("expires.testing", "google", "expires.testing", 60),
    ("rotation.grace", "asana", "rotation.grace", -1),
    ("inputs.*.title", "shopify", "inputs.shop.title", ""),
    ("inputs.*.pattern", "shopify", "inputs.shop.pattern", "[a-z"),
    ("inputs.*.example", "shopify", "inputs.shop.example", "not/one/part"),
    ("inputs.*.default", "gitea", "inputs.host.default", "not/one/part"),
    ("facts.*.status", "asana", "facts.endpoints.status", "sure"),
    ("facts.*.sources", "asana", "facts.endpoints.sources", ["nobody"]),
    ("sources.*.name", "asana", "sources.nango.name", ""),
    ("sources.*.date", "asana", "sources.nango.date", "lately"),
    ("scopes.*.title", "asana", "scopes.openid.title", ""),
    ("scopes.*.covers", "asana", "scopes.openid.covers", ["no-such-scope"]),
    ("rules.*.api", "github", "rules.0.api", "nothing"),
    ("rules.*.method", "github", "rules.0.method", "FETCH"),
    ("rules.*.path", "github", "rules.0.path", "user"),
    ("rules.*.scopes", "github", "rules.0.scopes", ["no-such-scope"]),
    ("rules.*.where", "github", "rules.0.where", {"q": "("}),
    ("rules.*.target", "aws", "rules.0.target", "("),
    ("rules.*.inseparable", "github", "rules.0.inseparable", ["no-such-scope"]),
    ("rules.*.needs", "github", "rules.0.needs", ["no-such-scope"]),
    ("rules.*.query", "microsoft", "rules.0.query", ["$top"]),
    ("rules.*.body", "github", "rules.0.body", ["a b"]),
    ("rules.*.exact", "github", "rules.0.exact", "perhaps"),
    ("rules.*.json_fields", "github", "rules.0.json_fields", ["a b"]),
    ("query", "github", "query", ["a b"]),
    ("overrides.parameters", "salesforce", "overrides.parameters", ["a b"]),
    ("overrides.headers", "microsoft", "overrides.headers", ["Not A Header"]),
    ("overrides.sources", "github", "overrides.sources", ["nobody"]),
    ("rules.*.tells_secrets", "github", "rules.0.tells_secrets", "perhaps"),
    ("retired", "fitbit", "retired", ""),
    ("nested_names", "stripe", "nested_names", "perhaps"),
    ("masked.*.members", "microsoft", "masked.0.members", []),
    ("masked.*.paths", "microsoft", "masked.0.paths", ["me/drive"]),
    ("masked.*.shown_to", "stripe", "masked.0.shown_to", ["no-such-scope"]),
    ("masked.*.only_query", "github", "masked.1.only_query", "perhaps"),
    ("masked.*.files", "github", "masked.1.files", ["Raw"]),
    ("rules_from", "google", "rules_from", ["no-such-file"]),
    ("console.url", "asana", "console.url", "asana"),
    ("console.steps", "asana", "console.steps", [""]),
    ("trailing_slash", "sentry", "trailing_slash", "perhaps"),
    ("credential.session.sign_in.method", "bluesky", "credential.session.sign_in.method", "GET"),
    ("credential.session.sign_in.fields", "bluesky", "credential.session.sign_in.fields", {"a b": "x"}),
    ("credential.session.sign_in.headers", "bluesky", "credential.session.sign_in.headers", {"X": "{nobody}"}),
    ("credential.session.renew.method", "bluesky", "credential.session.renew.method", "GET"),
    ("credential.session.renew.fields", "bluesky", "credential.session.renew.fields", {"a b": "x"}),
    ("credential.session.renew.headers", "bluesky", "credential.session.renew.headers", {"X": "{nobody}"}),
    ("credential.session.sign_out.method", "bluesky", "credential.session.sign_out.method", "GET"),
    ("credential.session.sign_out.fields", "bluesky", "credential.session.sign_out.fields", {"a b": "x"}),
    ("credential.session.sign_out.headers", "bluesky", "credential.session.sign_out.headers", {"X": "{nobody}"}),
    ("certificate_bound", "asana", "certificate_bound", "perhaps"),
    ("live_tested", "asana", "live_tested", "lately"),
    ("proxied.headers", "github", "proxied.headers", ["Not A Header"]),
    ("proxied.preferences", "github", "proxied.preferences", ["Return"]),
    ("proxied.credentials", "github", "proxied.credentials", "key"),
    ("proxied.links", "github", "proxied.links", "perhaps"),
    ("git.api", "github", "git.api", "nothing"),
    ("git.user", "github", "git.user", "with:colon"),
    ("authorization.header", "asana", "authorization.header", "Content-Type"),
    ("authorization.scheme", "asana", "authorization.scheme", "two words"),
    ("scopes.*.reads", "asana", "scopes.default.reads", "perhaps"),
    ("revoke.pages", "microsoft", "revoke.pages", {"Anybody": "http://microsoft.example"}),
    ("revoke.probe.access_token", "okta", "revoke.probe.access_token", "ask"),
    ("revoke.probe.refresh_token", "okta", "revoke.probe.refresh_token", "identity"),
    ("revoke.probe.url", "okta", "revoke.probe.url", "http://acme.okta.com/oauth2/v1/introspect"),
    ("proxied.paths", "github", "proxied.paths", {"/v1": "nothing"}),
    ("proxied.upload_session", "github", "proxied.upload_session", "upload id"),
    ("proxied.downloads", "github", "proxied.downloads", ["*.com"]),
    ("errors.by_status", "notion", "errors.by_status", {"403 Forbidden": "restricted_resource"}),
    ("errors.file_apis", "slack", "errors.file_apis", ["no-such-api"]),
    ("unruled.unsafe_reads", "slack", "unruled.unsafe_reads", ["no path"]),
    ("unruled.closed", "instagram", "unruled.closed", ["access_token"]),
    ("unruled.sources", "slack", "unruled.sources", ["nobody"]),
    ("credential.kind", "stripe", "credential.kind", "password"),
    ("credential.title", "stripe", "credential.title", ""),
    ("credential.fields.*.title", "stripe", "credential.fields.key.title", ""),
    ("credential.fields.*.pattern", "stripe", "credential.fields.key.pattern", "(sk"),
    ("credential.fields.*.example", "stripe", "credential.fields.key.example", "pk_live_0000000000000000"),
    ("credential.fields.*.secret", "datadog", "credential.fields.site.secret", True),
    ("credential.fields.*.optional", "stripe", "credential.fields.key.optional", "perhaps"),
    ("credential.fields.*.default", "mailgun", "credential.fields.region.default", "api.us"),
    ("credential.fields.*.choices", "datadog", "credential.fields.site.choices", ["not a site"]),
    ("credential.fields.*.many", "aws", "credential.fields.region.many", "perhaps"),
    ("credential.send.headers", "stripe", "credential.send.headers", {"Authorization": "Bearer {token}"}),
    ("credential.send.query", "stripe", "credential.send.query", {"key": "{token}"}),
    ("credential.send.basic.user", "twilio", "credential.send.basic.user", "{sid}"),
    ("credential.send.basic.password", "twilio", "credential.send.basic.password", ""),
    ("credential.send.aws.access_key_id", "aws", "credential.send.aws.access_key_id", "{nobody}"),
    ("credential.send.aws.secret_access_key", "aws", "credential.send.aws.secret_access_key", "secret"),
    ("credential.send.aws.session_token", "aws", "credential.send.aws.session_token", ""),
    ("credential.send.aws.region", "aws", "credential.send.aws.region", "{nowhere}"),
    ("credential.send.aws.services", "aws", "credential.send.aws.services", {"s3": "s3"}),
    ("credential.send.certificate.file", "teller", "credential.send.certificate.file", "nobody"),
    ("credential.send.certificate.passphrase", "teller", "credential.send.certificate.passphrase", "nobody"),
    ("credential.fields.*.lines", "github-app", "credential.fields.private_key.lines", "perhaps"),
    ("credential.fields.*.members", "google-service-account", "credential.fields.key_file.members", {"key": "("}),
    ("credential.fields.*.by_admin", "google-service-account", "credential.fields.subject.by_admin", "perhaps"),
    ("credential.signed_token.algorithm", "github-app", "credential.signed_token.algorithm", "HS256"),
    ("credential.signed_token.key", "github-app", "credential.signed_token.key", "app_id"),
    ("credential.signed_token.passphrase", "snowflake-key-pair", "credential.signed_token.passphrase", "user"),
    ("credential.signed_token.header", "app-store-connect", "credential.signed_token.header", {"kid": "{key}"}),
    ("credential.signed_token.claims", "github-app", "credential.signed_token.claims", {"iss": "{private_key}"}),
    ("credential.signed_token.lifetime", "github-app", "credential.signed_token.lifetime", 36_000),
    ("credential.signed_token.backdated", "github-app", "credential.signed_token.backdated", 600),
    ("credential.signed_token.sent", "github-app", "credential.signed_token.sent", "somewhere"),
    ("credential.signed_token.operations", "app-store-connect", "credential.signed_token.operations", {"all": []}),
    ("credential.dead", "datadog", "credential.dead", [200]),
    ("credential.alive", "stripe", "credential.alive", [500]),
    ("credential.alive_texts", "openai", "credential.alive_texts", ["short"]),
    ("credential.rotate_days", "stripe", "credential.rotate_days", 0),
    ("enterprise.id_jag.audience", "company", "enterprise.id_jag.audience", "not an issuer"),
    ("enterprise.id_jag.resource", "company", "enterprise.id_jag.resource", "not an address"),
    ("enterprise.id_jag.scopes", "company", "enterprise.id_jag.scopes", ["no-such-scope"]),
]
# found in what the API answers
ERRORS: list[tuple[str, object]] = [
    ("errors.unauthorized", []),
    ("errors.insufficient_scope", []),
    ("errors.code", ["fault"]),
    ("errors.message", ["fault"]),
    ("errors.ok_flag", None),
    ("errors.words", {}),
]


def inner_model(annotation: object) -> tuple[type[BaseModel], bool] | None:
    """The table that a field contains, and whether it contains several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    several = get_origin(annotation) is tuple or (
        isinstance(origin := get_origin(annotation), type) and issubclass(origin, Mapping)
    )
    for part in get_args(annotation):
        if (found := inner_model(part)) is not None:
            return found[0], found[1] or several
    return None


def leaves(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every field; `*` stands for each of several entries."""
    for name, field in model.model_fields.items():
        here = f"{path}{name}"
        inner = None if here in SAID_AGAIN else inner_model(field.annotation)
        if inner is None:
            yield here
        else:
            yield from leaves(inner[0], f"{here}{'.*' if inner[1] else ''}.")


def test_every_field_of_the_schema_has_a_wrong_value_that_is_noticed() -> None:
    tried = {path for path, *_ in (*MUTATIONS, *PUBLIC, *FORM, *ERRORS)}
    assert [path for path in leaves(Provider) if path not in tried] == []


def content_of(name: str) -> Content:
    if name == "brokerage":
        return OWN_API
    if name == "company":
        facts = {"audience": "https://asana.example", "resource": "https://asana.example/api", "scopes": ["default"]}
        return {**content_of("asana"), "enterprise": {"id_jag": facts}}
    path = next(one for one in (SHELF / f"{name}.toml", KEYS / f"{name}.toml") if one.is_file())
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _with(content: Content, place: str, wrong: object) -> Content:
    """Like `change_value`, but also within a list."""
    if not place.startswith(("rules.", "masked.")):
        return change_value(content, place, wrong)
    table, at, name = place.split(".")
    entries = [dict(entry) for entry in content[table]]
    entries[int(at)][name] = wrong
    return {**content, table: entries}


def problems(content: Content, folder: Path) -> list[str]:
    """What is wrong with a file, by reading it as the program does."""
    path = folder / f"{content['name']}.toml"
    path.write_text(_toml(content), encoding="utf-8")
    rules = folder / "rules"
    if not rules.exists():
        own = KEYS if (KEYS / path.name).is_file() else SHELF
        rules.symlink_to(own / "rules", target_is_directory=True)
    return check_file(path)


def _toml(content: Content) -> str:
    """A table as TOML: JSON values are valid in TOML except for tables, which are written inline."""

    def to_toml(value: object) -> str:
        if is_object(value):
            return "{" + ", ".join(f"{json.dumps(key)} = {to_toml(one)}" for key, one in value.items()) + "}"
        if is_array(value):
            return "[" + ", ".join(map(to_toml, value)) + "]"
        return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | int | str) else str(value)

    return "".join(f"{json.dumps(key)} = {to_toml(value)}\n" for key, value in content.items())


@pytest.mark.parametrize(("field", "name", "place", "wrong"), FORM, ids=[field for field, *_ in FORM])
def test_a_wrong_value_is_refused_when_the_file_is_read(
    tmp_path: Path, field: str, name: str, place: str, wrong: object
) -> None:
    assert re.fullmatch(re.escape(field).replace(r"\*", "[^.]+"), place)
    content = content_of(name)
    assert problems(content, tmp_path) == []
    found = problems(_with(content, place, wrong), tmp_path)
    assert len(found) >= 1
    assert any(place.partition(".")[0] in line for line in found), found


# What an API's errors mean, according to the file


@pytest_asyncio.fixture
async def server() -> AsyncGenerator[ScriptedServer]:
    async with scripted_server(lambda _: json_reply({"ok": True})) as running:
        yield running


Said = tuple[str, str, str]  # the exception, its code, its text


async def outcome(server: ScriptedServer, content: Content, answer: Mapping[str, object]) -> Said:
    """What a call results in when the API answers this."""
    content = {**content, "apis": {"web": f"{server.url}/web"}}
    content["hosts"] = {name: f"{server.url}/{name}" for name in content["hosts"]}
    server.answer = lambda _: json_reply(dict(answer))
    async with Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        provider = Provider.model_validate(content)
        api = UpstreamAPI(provider, outbound, token="upstream-token-canary", scopes=frozenset({"chat:write"}), now=0)
        try:
            await api.post("web", "/chat.postMessage", body={"channel": "C1", "text": "hello"})
        except Exception as error:  # noqa: BLE001 -- whatever it is, its kind is compared
            return type(error).__name__, str(getattr(error, "code", "")), str(error)
    return "", "", ""


_POST = {"api": "web", "method": "POST", "path": "/chat.postMessage", "scopes": ["chat:write"]}
_SLACK = {**content_of("slack"), "rules": [_POST]}
_TALKING = change_value(_SLACK, "errors.message", ["detail"])


@pytest.mark.parametrize(
    ("field", "content", "answer"),
    [
        ("errors.unauthorized", _SLACK, {"ok": False, "error": "token_revoked"}),
        ("errors.insufficient_scope", _SLACK, {"ok": False, "error": "missing_scope"}),
        ("errors.code", _SLACK, {"ok": False, "error": "channel_not_found"}),
        ("errors.message", _TALKING, {"ok": False, "error": "odd", "detail": "The channel is closed today."}),
        ("errors.ok_flag", _SLACK, {"ok": False, "error": "channel_not_found"}),
        ("errors.words", _SLACK, {"ok": False, "error": "channel_not_found"}),
    ],
    ids=[field for field, _ in ERRORS],
)
async def test_a_wrong_value_changes_what_an_error_of_the_api_means(
    server: ScriptedServer, field: str, content: Content, answer: Mapping[str, object]
) -> None:
    right = await outcome(server, content, answer)
    assert right[0] != ""
    wrong = change_value(content, field, dict(ERRORS)[field])
    assert await outcome(server, wrong, answer) != right


# What a rule lets through, according to the file


RULE = {"api": "main", "method": "GET", "path": "/things/{}", "scopes": ["read"], "where": {"view": "short"}}
RULED: Content = {**OWN_API, "rules": [RULE]}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("api", "other"),
        ("method", "POST"),
        ("path", "/things/{}/parts"),
        ("scopes", ["write"]),
        ("where", {"view": "long"}),
        ("inseparable", ["write"]),
    ],
)
def test_a_wrong_value_in_a_rule_lets_another_call_through(name: str, wrong: object) -> None:
    call = Call("main", "GET", "/things/1", {"view": "short"})
    content = change_value(
        change_value(RULED, "scopes.write", {"title": "Change it"}), "apis.other", "https://brokerage.example"
    )

    def lets(said: Content) -> bool:
        provider = Provider.model_validate(said)
        return allows(provider, call, frozenset({"read"}), granted=frozenset({"read", "write"}))

    assert lets(content)
    assert not lets(_with(content, f"rules.0.{name}", wrong))
