"""`tools import openapi`: a provider file and tools for your own API, to review before you turn them on."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import SplitResult, urlsplit

import typer

from providers.definitions.file_errors import reason_of
from server.terminal.context import Setup, command, fail, note, say

if TYPE_CHECKING:
    from providers.tools.openapi_document import OpenAPIDocument
    from providers.tools.openapi_import import ImportResult

app = typer.Typer(no_args_is_help=True, help="Create tools from an API's description.")
_SECONDS = 20.0
AudienceOption = Annotated[
    str | None, typer.Option("--audience", help="The `aud` of the tokens that it accepts.", show_default="its origin")
]
FolderOption = Annotated[Path, typer.Option("--to", help="Folder for both files.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Write nothing.")]
Review = Annotated[
    bool,
    typer.Option("--review", help="Write no files: keep the import in the vault until an admin accepts it on a page."),
]


@app.callback()
def import_() -> None:
    """Create tools from an API's description."""


@command(app, "openapi")
def openapi(
    setup: Setup,
    source: Annotated[str, typer.Argument(help="File or https address of an OpenAPI 3 document.", show_default=False)],
    *,
    name: Annotated[str, typer.Option("--name", help="The API's name in settings and tools.", show_default=False)],
    title: Annotated[
        str | None, typer.Option("--title", help="Its name on pages.", show_default="the document's")
    ] = None,
    audience: AudienceOption = None,
    server: Annotated[
        str | None,
        typer.Option("--server", help="Its address, instead of the document's first server.", show_default=False),
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", help="Only operations with this in `METHOD /path`.", show_default=False)
    ] = None,
    to: FolderOption = Path(),
    review: Review = False,
    dry_run: DryRunOption = False,
) -> None:
    """Create a provider file and a tool file from an OpenAPI document, and print what to review."""
    from providers.tools.openapi_document import DocumentRefused, parse
    from providers.tools.openapi_import import import_document

    files = _files(name, to, is_written=not dry_run and not review)
    try:
        document: OpenAPIDocument = parse(_read(setup, source))
        made = import_document(
            document, name=name, title=title or "", audience=audience or "", server=server or "", only=_pattern(only)
        )
    except DocumentRefused as refused:
        fail(f"{source}: {refused}")
    _finish(setup, made, name, {} if dry_run or review else files, source=source, waits=review and not dry_run)


@command(app, "graphql")
def graphql(
    setup: Setup,
    source: Annotated[
        str,
        typer.Argument(
            help="File or https address of a schema: the answer to an introspection query, or SDL.", show_default=False
        ),
    ],
    *,
    name: Annotated[str, typer.Option("--name", help="The API's name in settings and tools.", show_default=False)],
    server: Annotated[str, typer.Option("--server", help="The address of the API's endpoint.", show_default=False)],
    title: Annotated[str | None, typer.Option("--title", help="Its name on pages.", show_default="NAME")] = None,
    audience: AudienceOption = None,
    only: Annotated[
        str | None, typer.Option("--only", help="Only operations with this in `query NAME`.", show_default=False)
    ] = None,
    to: FolderOption = Path(),
    review: Review = False,
    dry_run: DryRunOption = False,
) -> None:
    """Create a provider file and a tool file from a GraphQL schema, with a fixed query for each tool."""
    from providers.tools.graphql_import import import_schema
    from providers.tools.graphql_schema import parse_schema
    from providers.tools.openapi_document import DocumentRefused

    files = _files(name, to, is_written=not dry_run and not review)
    try:
        schema = parse_schema(_read(setup, source))
        made = import_schema(
            schema, name=name, title=title or "", audience=audience or "", server=server, only=_pattern(only)
        )
    except DocumentRefused as refused:
        fail(f"{source}: {refused}")
    _finish(setup, made, name, {} if dry_run or review else files, source=source, waits=review and not dry_run)


def _files(name: str, to: Path, *, is_written: bool) -> Mapping[str, Path]:
    from providers.tools.imported_api import is_api_name

    if not is_api_name(name):
        fail(f"--name: {name!r} isn't valid; use up to 40 lowercase letters, digits, and single hyphens")
    _check_name(name)
    files = {"provider": to / f"{name}.toml", "tools": to / f"{name}-tools.toml"}
    for path in files.values():
        if path.exists() and is_written:
            fail(f"{path} already exists; choose another folder with --to, or remove it")
    return files


def _finish(
    setup: Setup, made: ImportResult, name: str, files: Mapping[str, Path], *, source: str, waits: bool
) -> None:
    """Check both files, write them or keep the import in the vault, and print what to review."""
    _check_tool_names(made)
    contents = _check_contents(made, name)
    for kind, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents[kind], encoding="utf-8")
    at = setup.run(_offer(setup, made, name)) if waits else None
    if at == "":
        note("Nothing has changed since an admin decided about it.")
        return
    warning = _elsewhere(made, source=source)
    _show(setup, made, {kind: str(path) for kind, path in files.items()}, warning=warning, waits_at=at or "")


async def _offer(setup: Setup, made: ImportResult, name: str) -> str:
    """Keep the import in the vault; returns the address of its review page, or empty if it needs no review."""
    from providers.tools.imported_api import content_of
    from server.administration.actor import Actor
    from server.remote import imported_apis

    async with setup.open() as deployment:
        if not await imported_apis.offer(Actor(deployment, None, "command_line"), name, content_of(made)):
            return ""
        return deployment.url(f"/administration/tools/imports/{name}")


def _check_name(name: str) -> None:
    from providers.definitions.catalog import is_shipped

    if is_shipped(name):
        fail(f"--name: the vault already has a provider {name}; choose another name")


def _check_tool_names(made: ImportResult) -> None:
    """Refuse tool names that exist: the server doesn't start with two tools of the same name."""
    from providers.tools.builtin import builtin_tools
    from providers.tools.declarations import BUILT_IN, read_tool_file
    from server.mcp.offer.registry import RESERVED

    declared = {tool.name for path in BUILT_IN.glob("*.toml") for tool in read_tool_file(path).tool}
    taken = RESERVED | declared | {spec.name for spec in builtin_tools()}
    if both := sorted(taken & {one.name for one in made.review}):
        fail(f"--name: it creates a tool {both[0]}, which the vault already has; choose another name")


def _elsewhere(made: ImportResult, *, source: str) -> str:
    """A warning if the API's origin differs from the audience's or the document's origin."""
    address = urlsplit(made.address)
    others = {"the audience": made.audience, "the document's address": source if "://" in source else ""}
    different = [what for what, url in others.items() if url and not _is_same_origin(url, address)]
    if not different:
        return ""
    return f"The API's address differs from {' and '.join(different)}: check that tokens may go to {address.netloc}."


def _is_same_origin(url: str, address: SplitResult) -> bool:
    other = urlsplit(url)
    return (other.scheme, other.netloc.lower()) == (address.scheme, address.netloc.lower())


def _pattern(only: str | None) -> re.Pattern[str] | None:
    try:
        return None if only is None else re.compile(only, re.IGNORECASE)
    except re.error as error:
        fail(f"--only: isn't a regular expression: {error}")


def _read(setup: Setup, source: str) -> bytes:
    """The document, from a file or an address."""
    from providers.tools.openapi_document import LARGEST

    if "://" in source:
        return _fetch(setup, source)
    try:
        with Path(source).open("rb") as file:
            return file.read(LARGEST + 1)
    except OSError as error:
        fail(f"can't read {source}: {reason_of(error)}")


def _fetch(setup: Setup, url: str) -> bytes:
    from providers.outbound.addresses import AddressPolicy
    from providers.outbound.client import Outbound
    from providers.outbound.messages import HttpError
    from providers.tools.openapi_document import LARGEST

    policy = AddressPolicy(allow_loopback=setup.settings().sandbox.loopback_upstreams)

    async def fetch() -> tuple[int, bytes]:
        async with Outbound(policy) as http:
            answer = await http.fetch_document(
                url, policy=policy, on_behalf_of=None, max_bytes=LARGEST, timeout=_SECONDS
            )
            return answer.status, answer.body

    try:
        status, body = setup.run(fetch())
    except HttpError as error:
        fail(f"{url}: can't be fetched ({error}); download it and pass the file")
    if status != HTTPStatus.OK:
        fail(f"{url}: answers with status {status}; download the document and pass the file")
    return body


def _check_contents(made: ImportResult, name: str) -> Mapping[str, str]:
    """The contents of both files, after they pass the server's checks."""
    import tomlkit

    from providers.definitions.catalog import check_file, load_catalog
    from providers.tools.declarations import ToolFileRefused, read_tool_file
    from providers.tools.declared_tools import data_tools

    contents = {"provider": tomlkit.dumps(made.provider), "tools": tomlkit.dumps(made.tools)}
    with tempfile.TemporaryDirectory() as folder:
        provider, tools = Path(folder) / "providers" / f"{name}.toml", Path(folder) / f"{name}-tools.toml"
        provider.parent.mkdir()
        provider.write_text(contents["provider"], encoding="utf-8")
        tools.write_text(contents["tools"], encoding="utf-8")
        problems = check_file(provider)
        if problems:
            fail(f"the document leads to a provider file with a problem: {problems[0]}")
        try:
            data_tools([(tools, read_tool_file(tools))], load_catalog([provider.parent]))
        except ToolFileRefused as refused:
            problem = str(refused).removeprefix(f"{tools}: ")
            fail(f"the document leads to a tool with a problem: {problem}; leave it out with --only")
    return contents


def _show(setup: Setup, made: ImportResult, written: Mapping[str, str], *, warning: str, waits_at: str) -> None:
    rows = [
        {
            "tool": one.name,
            "call": one.call,
            "effect": one.effect,
            "scopes": list(one.scopes),
            "title": one.title,
            "description": one.description,
            "asks_each_time": one.effect != "read",
            "not_taken": list(one.left_out),
        }
        for one in made.review
    ]
    if setup.as_json:
        left = [{"call": call, "why": why} for call, why in made.left_out]
        told = {"api": made.address, "audience": made.audience, "warning": warning, "review_at": waits_at}
        setup.show_json({**told, "files": dict(written), "tools": rows, "left_out": left})
        return
    say(f"Tokens with the audience {made.audience} go to {made.address}.")
    if warning:
        say(warning)
    say("")
    setup.show(rows, columns=("tool", "call", "effect", "scopes", "asks_each_time", "not_taken"), empty="No tools.")
    say("\nAgents and people will read these texts from the document:")
    for one in made.review:
        say(f"  {one.name}: {one.title}" + (f": {one.description}" if one.description != one.title else ""))
    for scope, title in made.scope_titles.items():
        say(f"  {scope}: {title}")
    if made.left_out:
        say("")
        left = [{"left_out": call, "why": why} for call, why in made.left_out]
        setup.show(left, columns=("left_out", "why"), empty="")
    if waits_at:
        note(f"Nothing is turned on yet: review the tools as an admin at {waits_at}")
        return
    if not written:
        note("Nothing was written.")
        return
    note(f"Wrote {written['provider']} and {written['tools']}. Nothing is turned on yet: review both, then move the")
    note("first to the folder `providers` of the data directory, and name the second one's folder in tools.folders.")
