"""`providers list | show | new | test | schema`, and services that are described only in settings."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from providers.check.live import live_test
from providers.check.trial import at_simulator
from providers.definitions.catalog import (
    ProviderFileRefused,
    ProviderOverrides,
    check_file,
    load_catalog,
    read_provider,
)
from providers.definitions.discovery import DiscoveryFailed, find_endpoints, generic_provider, read_configuration
from providers.definitions.inputs import examples, with_inputs
from providers.definitions.model import Provider, Registration
from providers.oauth.client import OAuthUpstream
from providers.oauth.token_responses import account_of
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.simulator import Simulator, consent, running_simulator
from providers.simulator.accounts import CLIENT_ID, CLIENT_SECRET
from server.app import open_deployment
from server.settings import SettingsRefused, load_settings
from tests.support.commands import content, run
from tests.support.doubles.scripted_server import Arrival, Reply, json_reply, scripted_server
from tests.support.processes import ROOT, Place
from vault.upstream import Account


async def test_all_services_are_listed_with_how_sure_their_files_are(place: Place) -> None:
    rows = await content(place, "providers", "list")
    assert isinstance(rows, list)
    found = {row["name"]: row for row in rows}
    assert len(found) >= 500
    for row in found.values():
        assert row["checked"] + row["cited"] + row["unsure"] + row["unknown"] in (
            8,
            9,
            10,
        )  # a key, a key that narrows, OAuth
        assert row["read"] >= "2026-11-25"
        assert (row["configured"], row["live_tested"]) == (False, "never")
        assert row["draft"] is False
    head = (await run(place, "providers", "list")).stdout.splitlines()[0]
    assert re.search(r"checked +cited +unsure +unknown +live tested$", head.rstrip())
    assert found["clickup"]["refresh_tokens"] == "never"
    assert found["asana"]["redirect_uri"] == f"{place.url}/connect/callback/asana"


async def test_a_service_is_shown_with_who_says_so(place: Place) -> None:
    shown = await content(place, "providers", "show", "clickup")
    assert isinstance(shown, dict)
    assert shown["facts"]["endpoints"]["status"] == "cited"
    assert any("providers.yaml" in source for source in shown["facts"]["endpoints"]["sources"])
    for fact in shown["facts"].values():
        assert bool(fact["sources"]) == (fact["status"] != "unknown")
        assert all(re.search(r" \(20\d\d-\d\d-\d\d\)$", source) for source in fact["sources"])
    words = await run(place, "providers", "show", "clickup")
    assert "Issues no refresh tokens" in words.stdout and "endpoints: cited NangoHQ/nango" in words.stdout
    assert (await run(place, "providers", "show", "nobody")).exit_code == 1


async def test_a_file_is_tested_and_each_step_is_told(place: Place) -> None:
    rows = await content(place, "providers", "test", "asana")
    assert isinstance(rows, list)
    assert [row["step"] for row in rows][:3] == ["consent", "partial consent", "refresh"]
    assert {row["outcome"] for row in rows} == {"ok", "skipped"}
    table = await run(place, "providers", "test", "asana")
    assert table.exit_code == 0 and "consent" in table.stdout


async def test_a_file_that_is_wrong_fails_its_test(place: Place, tmp_path: Path) -> None:
    text = (ROOT / "providers" / "services" / "close.toml").read_text(encoding="utf-8")
    wrong = tmp_path / "close.toml"
    wrong.write_text(text.replace("client_secret_post", "client_secret_basic"), encoding="utf-8")
    failed = await run(place, "providers", "test", str(wrong))
    assert failed.exit_code == 1 and "failed" in failed.stdout
    wrong.write_text(text, encoding="utf-8")
    assert (await run(place, "providers", "test", str(wrong))).exit_code == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "pass one provider or file, or --all"),
        (("asana", "--all"), "pass one provider or file, or --all"),
        (("nobody",), "no provider 'nobody'"),
        (("asana", "--mode", "weather"), "no mode 'weather'"),
        (("--all", "--live"), "use --live with one provider"),
        (("nobody", "--live"), "no provider 'nobody'"),
    ],
)
async def test_a_test_of_nothing_is_refused(place: Place, words: tuple[str, ...], expected: str) -> None:
    refused = await run(place, "providers", "test", *words)
    assert refused.exit_code == 1 and expected in refused.stderr


async def test_the_schema_is_printed(place: Place) -> None:
    printed = await run(place, "providers", "schema")
    assert json.loads(printed.stdout)["title"] == "Provider file"


THREE = (
    "--title", "Tickets", "--authorize-url", "https://tickets.example/a", "--token-url", "https://tickets.example/t",
    "--userinfo-url", "https://tickets.example/me", "--api", "https://api.tickets.example", "--scope", "read",
    "--scope", "write",
)  # fmt: skip


async def test_a_new_file_is_written_and_read_from_then_on(place: Place) -> None:
    made = await content(place, "providers", "new", "tickets", *THREE)
    assert isinstance(made, dict)
    path = Path(made["file"])
    assert path == place.data / "providers" / "tickets.toml" and check_file(path) == []
    provider = read_provider(path)
    assert (provider.title, provider.apis) == ("Tickets", {"main": "https://api.tickets.example"})
    assert (provider.scope.default, provider.rotation.mode.value) == ({"read", "write"}, "revokes")
    rows = await content(place, "providers", "list")
    assert isinstance(rows, list)
    assert {row["name"] for row in rows if row["draft"]} == {"tickets"}
    listed = (await run(place, "providers", "list")).stdout.splitlines()
    assert listed[0].split()[-1] == "draft"
    assert [line.split()[0] for line in listed if line.split()[-1] == "yes"] == ["tickets"]
    assert "Draft: this provider file has no sources" in (await run(place, "providers", "show", "tickets")).stdout
    said = '[facts]\nendpoints = { status = "cited", sources = ["us"] }\n'
    said += '[sources]\nus = { name = "we", date = 2026-11-25 }\n'
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{said}", encoding="utf-8")
    named = (await run(place, "providers", "show", "tickets")).stdout
    assert "Draft:" not in named
    assert "endpoints: unsure we (2026-11-25)" in named
    again = await run(place, "providers", "new", "tickets", *THREE)
    assert again.exit_code == 1 and "already exists" in again.stderr


async def test_what_nobody_can_be_asked_has_to_be_given(place: Place) -> None:
    refused = await run(place, "providers", "new", "tickets", *THREE[:-6])
    assert refused.exit_code == 1 and "can't ask without a terminal" in refused.stderr
    wrong = await run(
        place, "providers", "new", "tickets", *THREE[:2], *THREE[4:], "--authorize-url", "http://x.example"
    )
    assert wrong.exit_code == 1 and "hosts.authorize_url: not https" in wrong.stderr
    assert not (place.data / "providers" / "tickets.toml").exists()


async def test_the_walk_through_works_as_it_is_written(place: Place) -> None:
    page = (ROOT / "docs" / "guides/add-a-provider.md").read_text(encoding="utf-8")
    blocks = [block.replace("\\\n", " ") for block in re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)]
    by_addresses = next(block for block in blocks if "--userinfo-url" in block)
    assert (await run(place, *shlex.split(by_addresses)[1:])).exit_code == 0
    written = place.data / "providers" / "tickets.toml"
    for line in next(block for block in blocks if "providers check" in block).splitlines():
        words = [str(written) if word.endswith("tickets.toml") else word for word in shlex.split(line)[1:]]
        result = await run(place, *words)
        assert result.exit_code == 0, result.output
    shown = await run(place, "providers", "show", "tickets")
    assert f"{place.url}/connect/callback/tickets" in shown.stdout


# Without a file


def write_config(place: Place, simulator: Simulator, *lines: str) -> None:
    text = "\n".join(lines).format(url=simulator.url)
    config = place.data / "config.toml"
    config.write_text(
        f"[server]\nport = {place.port}\n[sandbox]\nloopback_upstreams = true\n{text}\n", encoding="utf-8"
    )


async def test_an_issuer_is_enough(place: Place) -> None:
    async with running_simulator() as simulator:
        write_config(
            place, simulator, "[providers.corp]", 'issuer = "{url}/google"', 'client_id = "x"', 'scopes = ["profile"]'
        )
        settings = load_settings(data=place.data)
        async with open_deployment(settings, data=place.data) as deployment:
            corp = deployment.catalog.provider("corp")
            assert corp.hosts.token_url == f"{simulator.url}/google/token"
            assert corp.scope.default == {"profile"} and "openid" in corp.scope.identity
            assert deployment.vault.policies["corp"].operator_scopes == {"profile"}
    async with open_deployment(settings, data=place.data) as deployment:  # the issuer is gone: use stored metadata
        assert deployment.catalog.provider("corp").hosts == corp.hosts
    shutil.rmtree(place.data / "issuers")
    with pytest.raises(SettingsRefused, match=r"^providers\.corp\.issuer: [^\n]+$"):
        async with open_deployment(settings, data=place.data):
            pass


async def test_a_file_from_an_issuer_is_complete(place: Place) -> None:
    async with running_simulator() as simulator:
        write_config(place, simulator)
        made = await content(
            place, "providers", "new", "corp", "--title", "Corp", "--issuer", f"{simulator.url}/google",
            "--api", f"{simulator.url}/api", "--scope", "profile",
        )  # fmt: skip
    assert isinstance(made, dict)
    assert read_provider(Path(made["file"])).identity.id == "{sub}"


def asked_by(provider: Provider, scopes: frozenset[str]) -> list[str]:
    """The scopes in the URL that a person's browser is sent to."""
    upstream = OAuthUpstream(provider, Outbound())
    url = upstream.authorization_url(redirect_uri="https://v.example", state="s", scopes=scopes, code_verifier="v" * 43)
    return parse_qs(urlsplit(url).query).get("scope", [""])[0].split()


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ([], ["email", "openid", "profile"]),
        (["openid", "profile"], ["openid", "profile"]),
    ],
)
def test_an_issuer_is_asked_only_for_scopes_that_it_may_have(published: list[str], expected: list[str]) -> None:
    whole = {f"{name}_endpoint": f"https://x.example/{name}" for name in ("authorization", "token", "userinfo")}
    endpoints = read_configuration(
        "https://x.example",
        {**whole, "scopes_supported": published, "id_token_signing_alg_values_supported": ["RS256"]},
    )
    provider = generic_provider("corp", endpoints, title=None, scopes=(), apis={})
    assert asked_by(provider.with_registration(Registration("x")), provider.scope.default) == expected


async def test_three_addresses_are_enough() -> None:
    addresses = {
        "authorize_url": "https://t.example/a",
        "token_url": "https://t.example/t",
        "userinfo_url": "https://t.example/me",
    }
    scopes = frozenset({"read"})
    catalog = load_catalog(overrides={"tickets": ProviderOverrides(client_id="x", scopes=scopes, **addresses)})
    tickets = catalog.provider("tickets")
    assert (tickets.identity_url, tickets.scope.default) == ("https://t.example/me", {"read"})
    assert asked_by(tickets, scopes) == ["read"]  # a service without OpenID Connect refuses openid: invalid_scope
    assert account_of(tickets, {"id": 7, "login": "ann"}) == Account("7", "ann")
    for named, expected in ((None, []), (["openid", "email", "read"], ["email", "openid", "read"])):
        limit = None if named is None else frozenset(named)
        other = load_catalog(overrides={"tickets": ProviderOverrides(client_id="x", scopes=limit, **addresses)})
        provider = other.provider("tickets")
        assert asked_by(provider, provider.scope.default) == expected
    for missing in addresses:
        with pytest.raises(ProviderFileRefused, match="no provider file of that name"):
            load_catalog(overrides={"tickets": ProviderOverrides(**{**addresses, missing: None})})
    with pytest.raises(ProviderFileRefused, match="not https"):
        load_catalog(overrides={"tickets": ProviderOverrides(**{**addresses, "token_url": "http://t.example"})})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"token_endpoint": None}, "has no token_endpoint"),
        ({"authorization_endpoint": None}, "has no authorization_endpoint"),
    ],
)
def test_a_discovery_document_that_lacks_an_endpoint_is_refused(change: dict[str, object], expected: str) -> None:
    whole: dict[str, object] = {
        "authorization_endpoint": "https://x.example/a",
        "token_endpoint": "https://x.example/t",
        "userinfo_endpoint": "https://x.example/u",
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
    }
    assert read_configuration("https://x.example", whole).client_auth == "client_secret_post"
    with pytest.raises(DiscoveryFailed, match=expected):
        read_configuration("https://x.example", {**whole, **change})


async def test_an_issuer_is_found_by_rfc_8414_alone() -> None:
    """Its OpenID URL gets the same answer as any unknown URL."""

    def answer(arrival: Arrival) -> Reply:
        if arrival.path == "/.well-known/oauth-authorization-server/tenant":
            endpoints = {"authorization_endpoint": f"{server.url}/a", "token_endpoint": f"{server.url}/t"}
            return json_reply({"issuer": f"{server.url}/tenant", **endpoints, "scopes_supported": ["read"]})
        return unknown[0]

    unknown = [json_reply({}, status=404)]
    async with scripted_server(answer) as server, Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        for unknown[0] in (json_reply({}, status=401), Reply(200, b"<html>"), json_reply({"error": 1}), Reply(404)):
            found = await find_endpoints(f"{server.url}/tenant", outbound)
            assert (found.token_url, found.is_openid, found.userinfo_url) == (f"{server.url}/t", False, None)
        provider = generic_provider("corp", found, title=None, scopes=["read"], apis={})
        assert (provider.identity.source, asked_by(provider.with_registration(Registration("x")), {"read"})) == (
            "none",
            ["read"],
        )
        unknown[0] = json_reply({"issuer": "https://other.example"})
        with pytest.raises(DiscoveryFailed):  # metadata of another issuer is never skipped
            await find_endpoints(f"{server.url}/tenant", outbound)


async def test_a_document_of_another_issuer_is_refused() -> None:
    async with running_simulator() as simulator, Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        assert (await find_endpoints(f"{simulator.url}/google", outbound)).token_url == f"{simulator.url}/google/token"
        other = simulator.url.replace("127.0.0.1", "localhost")
        with pytest.raises(DiscoveryFailed, match="publishes no OpenID configuration"):
            await find_endpoints(f"{other}/google", outbound)


# At the service


def at_service(simulator: Simulator, name: str) -> Provider:
    """The provider as registered in settings, with the simulator as the service."""
    provider = load_catalog().provider(name)
    there = at_simulator(with_inputs(provider, examples(provider)), f"{simulator.url}/families/known-{name}")
    return there.with_registration(Registration(CLIENT_ID, CLIENT_SECRET))


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("asana", {"consent": "ok", "refresh": "ok", "narrow": "skipped", "revoke": "ok"}),
        ("webflow", {"consent": "ok", "refresh": "skipped", "revoke": "ok"}),
        ("clickup", {"consent": "ok", "refresh": "skipped", "revoke": "skipped"}),
    ],
)
async def test_the_life_at_the_service_is_gone_through_with_a_person(name: str, steps: dict[str, str]) -> None:
    async with running_simulator() as simulator, Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        seen = await live_test(
            at_service(simulator, name), redirect_uri="http://127.0.0.1:1/cb", ask=consent, outbound=outbound
        )
    told = {one.step: one.outcome for one in seen}
    assert {step: told[step] for step in steps} == steps


async def test_a_person_who_brings_another_address_gets_nothing() -> None:
    async def elsewhere(url: str) -> str:
        return "http://127.0.0.1:1/cb?state=other&code=x"

    async with running_simulator() as simulator, Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        provider = at_service(simulator, "asana")
        seen = await live_test(provider, redirect_uri="http://127.0.0.1:1/cb", ask=elsewhere, outbound=outbound)
        assert [(one.step, one.outcome) for one in seen] == [("consent", "failed")]
        unset = provider.with_registration(Registration())
        seen = await live_test(unset, redirect_uri="http://127.0.0.1:1/cb", ask=elsewhere, outbound=outbound)
        assert "providers setup asana" in seen[0].note
