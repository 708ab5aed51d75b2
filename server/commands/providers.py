"""`providers list | show | check | new | test | schema`: what the vault knows of services; whether a file is right."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.context import Setup, command, fail, note, say
from server.commands.registering import providers_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from providers.check.live import LiveStep
    from providers.check.trial import StepResult
    from providers.definitions.discovery import Endpoints
    from providers.definitions.model import Provider, Source
    from server.settings import Settings

LIVE_TESTS = "live-tests.json"  # in the data directory: provider -> the day on which `--live` last went through


@command(providers_app, "list")
def list_providers(setup: Setup) -> None:
    """List the services this vault knows, which are set up, and how sure the file of each is."""
    settings, catalog = setup.settings(), setup.catalog()
    tested = _live_tests(setup)
    rows = [_row(settings, provider, tested=tested) for provider in catalog.all_providers()]
    columns = ("name", "title", "configured", "narrowing", "checked", "cited", "unknown", "live_tested")
    drafts = ("draft",) if any(row["draft"] for row in rows) else ()
    setup.show(rows, columns=(*columns, *drafts), empty="There are no providers.")


def _row(settings: Settings, provider: Provider, *, tested: dict[str, str]) -> dict[str, object]:
    registration = provider.registration
    has_secret = bool(registration.client_secret) or provider.client_auth == "none"
    days = [
        day for day in (tested.get(provider.name), provider.live_tested and provider.live_tested.isoformat()) if day
    ]
    return {
        "name": provider.name,
        "title": provider.title,
        "configured": provider.audience is not None or (bool(registration.client_id) and has_secret),
        "aliases": sorted(provider.aliases),
        "narrowing": provider.policy().narrows_by.value if provider.audience is None else "minted",
        "refresh_tokens": provider.refresh_tokens,
        **provider.tally,
        "draft": provider.audience is None and provider.is_draft,
        "live_tested": max(days, default="never"),
        **(
            {"redirect_uri": f"{settings.public_url}/connect/callback/{provider.name}"}
            if provider.audience is None
            else {"audience": provider.audience}
        ),
    }


def _live_tests(setup: Setup) -> dict[str, str]:
    try:
        found: object = json.loads((setup.directory() / LIVE_TESTS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return {str(name): str(day) for name, day in found.items()} if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- our own file


@command(providers_app, "show")
def show_provider(setup: Setup, name: Annotated[str, typer.Argument(help="The provider.", show_default=False)]) -> None:
    """Show one service: its scopes, the redirect URI to enter where you register the vault with it, and its sources."""
    settings, catalog = setup.settings(), setup.catalog()
    found = catalog.get(name)
    if found is None:
        fail(f"there is no provider {name!r}: token-vault providers list")
    row = _row(settings, found, tested=_live_tests(setup))
    scopes = [(scope, about.title) for scope, about in found.scopes.items()]
    facts = {
        fact: {"status": known.status, "sources": [_source_text(found.sources[source]) for source in known.sources]}
        for fact, known in found.facts.items()
    }
    if setup.as_json:
        setup.show_json(row | {"scopes": dict(scopes), "facts": facts})
        return
    setup.show_fields(row)
    if row["draft"]:
        say("A draft: nobody is named who says where its endpoints are. Name them under [facts] and [sources].")
    if found.refresh_tokens == "never":
        say("Issues no refresh tokens: the vault holds the access token itself, and connecting again renews it.")
    for scope, title in scopes:
        say(f"  {scope}: {title}")
    for fact, known in facts.items():
        say(f"  {fact}: {known['status']} {', '.join(known['sources'])}".rstrip())


def _source_text(source: Source) -> str:
    """Who says so, and when that was read or named."""
    return f"{source.name} ({source.date})"


@command(providers_app, "check")
def check_provider(
    setup: Setup, file: Annotated[Path, typer.Argument(help="A provider file (TOML).", show_default=False)]
) -> None:
    """Check a provider file; every problem on its own line."""
    from providers.definitions.catalog import check_file

    problems = check_file(file)
    if setup.as_json:
        setup.show_json({"file": str(file), "problems": problems})
    elif not problems:
        say(f"{file}: no problem found")
    else:
        for problem in problems:
            say(problem)
    if problems:
        raise typer.Exit(1)


@command(providers_app, "schema")
def print_schema(setup: Setup) -> None:
    """Print the JSON Schema of provider files, for editors that check and complete TOML."""
    from providers.definitions.catalog import schema

    setup.show_json(schema())


@command(providers_app, "new")
def new_provider(
    setup: Setup,
    name: Annotated[str, typer.Argument(help="What it is called in settings and tools.", show_default=False)],
    *,
    title: Annotated[str | None, typer.Option("--title", help="Its name on pages.", show_default=False)] = None,
    issuer: Annotated[
        str | None,
        typer.Option("--issuer", help="OpenID Connect: its issuer; the rest is asked there.", show_default=False),
    ] = None,
    authorize_url: Annotated[
        str | None, typer.Option("--authorize-url", help="Where people are sent to.", show_default=False)
    ] = None,
    token_url: Annotated[
        str | None, typer.Option("--token-url", help="Its token endpoint.", show_default=False)
    ] = None,
    userinfo_url: Annotated[
        str | None, typer.Option("--userinfo-url", help="Where the account is told.", show_default=False)
    ] = None,
    api: Annotated[str | None, typer.Option("--api", help="Base URL of its API.", show_default=False)] = None,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="A scope to ask for; may be repeated.", show_default=False)
    ] = None,
) -> None:
    """Write a provider file into the data directory; asks for what is not given."""
    from providers.definitions.catalog import check_file
    from server.app import OWN_FILES, prepare_data_directory

    path = prepare_data_directory(setup.directory()) / OWN_FILES / f"{name}.toml"
    if path.exists():
        fail(f"{path} is there already")
    if issuer is not None:
        endpoints = _discover(setup, issuer)
    else:
        endpoints = _endpoints(
            _answer(authorize_url, "Authorization URL"), _answer(token_url, "Token URL"), userinfo_url
        )
    title = _answer(title, "Title")
    scopes = scope or _answer(None, "Scopes, with spaces between").split()
    api = _answer(api, "Base URL of the API")
    path.parent.mkdir(exist_ok=True, mode=0o700)
    path.write_text(
        _new_file(name, endpoints, title=title, scopes=scopes, api=api, is_openid=issuer is not None), encoding="utf-8"
    )
    problems = check_file(path)
    if problems:
        path.unlink()
        fail(problems[0])
    row: dict[str, object] = {"file": str(path), "name": name}
    setup.show_one(row, sentence=f"Written to {path}. Next: token-vault providers test {path}")


def _answer(given: str | None, question: str) -> str:
    if given is not None:
        return given
    if not sys.stdin.isatty():
        fail(f"nobody can be asked here: give the {question.split(',')[0].lower()} as an option")
    return str(typer.prompt(question, err=True)).strip()


def _discover(setup: Setup, issuer: str) -> Endpoints:
    from providers.definitions.discovery import DiscoveryFailed, discover
    from providers.outbound.addresses import AddressPolicy
    from providers.outbound.client import Outbound

    async def ask() -> Endpoints:
        loopback = setup.settings().sandbox.loopback_upstreams
        async with Outbound(AddressPolicy(allow_loopback=loopback)) as outbound:
            return await discover(issuer, outbound)

    try:
        return setup.run(ask())
    except DiscoveryFailed as error:
        fail(str(error))


def _endpoints(authorize_url: str, token_url: str, userinfo_url: str | None) -> Endpoints:
    from providers.definitions.discovery import Endpoints

    return Endpoints(authorize_url, token_url, _answer(userinfo_url, "Userinfo URL"))


def _new_file(name: str, endpoints: Endpoints, *, title: str, scopes: Sequence[str], api: str, is_openid: bool) -> str:
    """The text of a new file, in the order of the built-in ones."""
    from providers.definitions.discovery import content_of

    content = content_of(name, endpoints, title=title, scopes=scopes, is_openid=is_openid)
    content["apis"] = {"main": api}
    lines = ["# What is not said here is taken in the strictest way. See `token-vault providers schema`."]
    lines += [f"{key} = {json.dumps(value)}" for key, value in content.items() if isinstance(value, str)]
    for key, table in content.items():
        if isinstance(table, dict) and key != "scopes":
            lines += ["", f"[{key}]"]
            lines += [f"{part} = {json.dumps(value)}" for part, value in table.items()]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- made above
    lines += ["", "[scopes] # in words that people understand"]
    lines += [f"{json.dumps(one)} = {{ title = {json.dumps(one)} }}" for one in sorted(set(scopes))]
    lines += ["", "# Which scopes allow which call; a call without a rule is refused.", "# [[rules]]", '# api = "main"']
    lines += ['# method = "GET"', '# path = "/things/{}"', f"# scopes = {json.dumps(sorted(set(scopes))[:1])}", ""]
    return "\n".join(lines)


@command(providers_app, "test")
def test_provider(
    setup: Setup,
    name: Annotated[
        str | None, typer.Argument(help="A provider, or a provider file (TOML).", show_default=False)
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All providers that there are.")] = False,
    mode: Annotated[
        str | None,
        typer.Option("--mode", help="The simulator's way to behave, for a file of your own.", show_default=False),
    ] = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="Ask the service itself, with the registration in the settings and a browser."),
    ] = False,
) -> None:
    """Drive the whole life of a connection by a provider file, from consent to revocation."""
    if (name is None) == (not everything):
        fail("name one provider or file, or say --all")
    if live:
        if name is None:
            fail("--live takes one provider")
        _test_live(setup, name)
        return
    from providers.check.check import examine_all
    from providers.simulator.families import MODES, SERVED

    if mode is not None and mode not in SERVED:
        fail(f"there is no mode {mode!r}; there are: {', '.join(sorted(MODES))}")
    found = setup.run(examine_all(_choose_providers(setup, name), mode=mode))
    rows = [_result_row(provider, one) for provider, _, findings in found for one in findings]
    _show_findings(setup, rows, single=name is not None)


def _choose_providers(setup: Setup, name: str | None) -> Sequence[Provider]:
    from providers.definitions.catalog import read_provider

    if name is not None and name.endswith(".toml"):
        return (_with_oauth(read_provider(Path(name))),)
    catalog = setup.catalog()
    if name is None:
        return [provider for provider in catalog.all_providers() if provider.audience is None]
    found = catalog.get(name)
    if found is None:
        fail(f"there is no provider {name!r}: token-vault providers list")
    return (_with_oauth(found),)


def _with_oauth(provider: Provider) -> Provider:
    if provider.audience is not None:
        fail(f"{provider.name} takes tokens of this vault, so there is no OAuth to test: call one of its tools")
    return provider


def _result_row(provider: Provider, one: StepResult | LiveStep) -> dict[str, object]:
    return {"provider": provider.name, "step": one.step, "outcome": one.outcome, "note": one.note}


def _show_findings(setup: Setup, rows: Sequence[dict[str, object]], *, single: bool) -> None:
    failed = [row for row in rows if row["outcome"] == "failed"]
    if setup.as_json:
        setup.show_json(list(rows))
    elif single or failed:
        setup.show(rows if single else failed, columns=("provider", "step", "outcome", "note"), empty="")
    if not single and not setup.as_json:
        say(f"{len({row['provider'] for row in rows})} files, {len(failed)} failed steps")
    if failed:
        raise typer.Exit(1)


def _test_live(setup: Setup, name: str) -> None:
    from providers.check.live import live_test

    catalog = setup.catalog()
    provider = catalog.get(name)
    if provider is None:
        fail(f"there is no provider {name!r}: token-vault providers list")
    _with_oauth(provider)
    settings = setup.settings()
    redirect = f"{settings.public_url}/connect/callback/{provider.name}"

    async def ask(url: str) -> str:
        note("Open this address, allow it, and paste the address that the browser ends at (it may show an error page):")
        say(url)
        return str(typer.prompt("Address", err=True))

    findings = setup.run(live_test(provider, redirect_uri=redirect, ask=ask))
    rows = [_result_row(provider, one) for one in findings]
    if all(one.outcome != "failed" for one in findings):
        tested = {**_live_tests(setup), provider.name: datetime.now(UTC).date().isoformat()}
        (setup.directory() / LIVE_TESTS).write_text(json.dumps(tested, indent=2) + "\n", encoding="utf-8")
    _show_findings(setup, rows, single=True)
