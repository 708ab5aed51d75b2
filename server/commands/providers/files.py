"""`providers list | show | check | schema | new`: the services that the vault knows, and checks of provider files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.providers.test import live_tests
from server.terminal.context import Setup, fail, note, say, say_with_label
from server.terminal.names import ProviderName, provider_called

if TYPE_CHECKING:
    from collections.abc import Sequence

    from providers.definitions.discovery import Endpoints
    from providers.definitions.model import Provider
    from providers.definitions.sureness import Source
    from server.live_providers import ProviderSet
    from server.settings import Settings


def list_providers(setup: Setup) -> None:
    """List the services: which are set up, and how well the facts about each are verified.

    `live_tested` is the day of the last successful `providers test --live` here.
    """
    settings, here = setup.settings(), setup.providers()
    tested = live_tests(setup)
    rows = [_row(settings, provider, here, tested=tested) for provider in here.catalog.all_providers()]
    columns = ("name", "configured", "checked", "cited", "unsure", "unknown", "live_tested")
    drafts = ("draft",) if any(row["draft"] for row in rows) else ()
    setup.show(rows, columns=(*columns, *drafts), empty="No providers.")


def _row(settings: Settings, provider: Provider, here: ProviderSet, *, tested: dict[str, str]) -> dict[str, object]:
    from server.live_providers import registered_in

    registration = provider.registration
    has_secret = bool(registration.client_secret) or not provider.needs_secret
    days = [
        day for day in (tested.get(provider.name), provider.live_tested and provider.live_tested.isoformat()) if day
    ]
    return {
        "name": provider.name,
        "title": provider.title,
        "configured": registration.is_on
        if provider.credential is not None
        else provider.audience is not None or (bool(registration.client_id) and has_secret),
        "set_up_in": registered_in(settings, here, provider.name),
        "unusable": here.unusable.get(provider.name),
        "aliases": sorted(provider.aliases),
        "narrowing": provider.policy().narrows_by.value if provider.audience is None else "minted",
        "refresh_tokens": provider.refresh_tokens,
        **provider.tally,
        "read": None if provider.read_on is None else provider.read_on.isoformat(),
        "draft": provider.audience is None and provider.is_draft,
        "live_tested": max(days, default="never"),
        **(
            {"redirect_uri": f"{settings.public_url}/connect/callback/{provider.name}"}
            if provider.audience is None and provider.credential is None
            else {"audience": provider.audience}
            if provider.credential is None
            else {"credential": provider.credential.title}
        ),
    }


def show_provider(setup: Setup, name: ProviderName) -> None:
    """Show a service: scopes, redirect URL, and sources."""
    settings, here = setup.settings(), setup.providers()
    found = provider_called(here.catalog, name)
    row = _row(settings, found, here, tested=live_tests(setup))
    scopes = [(scope, about.title) for scope, about in found.scopes.items()]
    facts = {
        fact: {"status": known.level, "sources": [_source_text(found.sources[source]) for source in known.sources]}
        for fact, known in found.facts.items()
    }
    if setup.as_json:
        setup.show_json(row | {"scopes": dict(scopes), "facts": facts})
        return
    setup.show_fields(row)
    if row["draft"]:
        say("Draft: this provider file has no sources for its facts. Add them under [facts] and [sources].")
    if found.refresh_tokens == "never":
        say("Issues no refresh tokens. The vault keeps the access token; reconnect to renew it.")
    for scope, title in scopes:
        say_with_label(f"  {scope}: ", title)
    for fact, known in facts.items():
        say_with_label(f"  {fact}: ", f"{known['status']} {', '.join(known['sources'])}")


def _source_text(source: Source) -> str:
    """The source, with the date when it was read or named."""
    return f"{source.name} ({source.date})"


def check_provider(
    setup: Setup, file: Annotated[Path, typer.Argument(help="A provider file (TOML).", show_default=False)]
) -> None:
    """Check a provider file and print each problem."""
    from providers.definitions.catalog import check_file

    problems = check_file(file)
    if setup.as_json:
        setup.show_json({"file": str(file), "problems": problems})
    elif not problems:
        say(f"{file}: no problems found")
    else:
        for problem in problems:
            say(problem)
    if problems:
        raise typer.Exit(1)


def print_schema(setup: Setup) -> None:
    """Print the JSON Schema of provider files, for editors."""
    from providers.definitions.catalog import schema

    setup.show_json(schema())


def new_provider(
    setup: Setup,
    name: Annotated[str, typer.Argument(help="Its name in settings and tools.", show_default=False)],
    *,
    title: Annotated[str | None, typer.Option("--title", help="Its name on pages.", show_default=False)] = None,
    issuer: Annotated[
        str | None,
        typer.Option("--issuer", help="Its OpenID Connect issuer, if it has one.", show_default=False),
    ] = None,
    authorize_url: Annotated[
        str | None, typer.Option("--authorize-url", help="Its authorization endpoint.", show_default=False)
    ] = None,
    token_url: Annotated[
        str | None, typer.Option("--token-url", help="Its token endpoint.", show_default=False)
    ] = None,
    userinfo_url: Annotated[
        str | None, typer.Option("--userinfo-url", help="The endpoint that identifies the account.", show_default=False)
    ] = None,
    api: Annotated[str | None, typer.Option("--api", help="Base URL of its API.", show_default=False)] = None,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="A scope to request. Repeat for several.", show_default=False)
    ] = None,
) -> None:
    """Create a provider file, asking for missing values."""
    from providers.definitions.catalog import check_file
    from server.runtime.catalog import OWN_FILES
    from server.runtime.data_directory import prepare_data_directory

    path = prepare_data_directory(setup.directory()) / OWN_FILES / f"{name}.toml"
    if path.exists():
        fail(f"{path} already exists; choose another name or remove it")
    if issuer is not None:
        endpoints = _discover(setup, issuer)
    else:
        endpoints = _endpoints(
            _answer(authorize_url, "Authorization URL"), _answer(token_url, "Token URL"), userinfo_url
        )
    title = _answer(title, "Title")
    scopes = scope or _answer(None, "Scopes, separated by spaces").split()
    api = _answer(api, "Base URL of the API")
    path.parent.mkdir(exist_ok=True, mode=0o700)
    path.write_text(
        _new_file(name, endpoints, title=title, scopes=scopes, api=api, is_openid=endpoints.is_openid), encoding="utf-8"
    )
    problems = check_file(path)
    if problems:
        path.unlink()
        fail(problems[0])
    row: dict[str, object] = {"file": str(path), "name": name}
    setup.show_one(row, sentence=f"Created {path}. Next: token-vault providers test {path}")
    note(f"To undo: delete {path}")


def _answer(given: str | None, question: str) -> str:
    if given is not None:
        return given
    if not sys.stdin.isatty():
        fail(f"can't ask without a terminal; pass the {question.split(',')[0].lower()} as an option")
    return str(typer.prompt(question, err=True)).strip()


def _discover(setup: Setup, issuer: str) -> Endpoints:
    from providers.definitions.discovery import DiscoveryFailed, find_endpoints
    from server.app import outbound_of

    async def ask() -> Endpoints:
        async with outbound_of(setup.settings()) as outbound:
            return await find_endpoints(issuer, outbound)

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
    lines = ["# The strictest default applies to whatever is missing here. See `token-vault providers schema`."]
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
