"""Shared by all commands: finding and opening the vault, and printing results and refusals."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Concatenate, Final, NoReturn, ParamSpec, TypeVar, get_type_hints

import typer
import typer.core

from server.runtime import core_dumps
from server.runtime.printable import printable
from server.terminal.completion import complete_users

if TYPE_CHECKING:
    from providers.definitions.catalog import Catalog
    from server.deployment import Deployment
    from server.live_providers import ProviderSet
    from server.settings import Settings
    from server.terminal.listing import Listing

P = ParamSpec("P")
T = TypeVar("T")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", envvar="TOKEN_VAULT_CONFIG", help="Settings file (TOML).", show_default=False)
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", envvar="TOKEN_VAULT_DATA", help="Data directory.", show_default="the platform's"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
UserOption = Annotated[
    str | None,
    typer.Option(
        "--user",
        help="The user. Default: the owner of the data directory, or the only user.",
        autocompletion=complete_users,
    ),
]


_ANYWHERE: Final = frozenset({"version", "client-config", "errors"})  # commands that store no data


@dataclass(frozen=True, slots=True)
class Setup:
    """The options that every command has."""

    config: Path | None
    data: Path | None
    as_json: bool

    def directory(self) -> Path:
        """The data directory."""
        from server.settings import default_data_directory

        return (self.data or default_data_directory()).expanduser().absolute()

    def settings(self, overrides: Mapping[str, object] | None = None) -> Settings:
        """The settings. Raises SettingsRefused."""
        from server.settings import load_settings

        settings = load_settings(self.config, data=self.directory(), overrides=overrides)
        if settings.server.core_dumps:
            core_dumps.allow()
        return settings

    def providers(self) -> ProviderSet:
        """The providers as they are set up here: in the settings and, if there is a vault, in the browser.

        Raises ProviderFileRefused, SettingsRefused, ToolFileRefused, and what opening a vault raises.
        """
        from server.app import providers_of_settings

        settings = self.settings()

        async def read() -> ProviderSet:
            if missing_vault(settings, data=self.directory()) is not None:
                return await providers_of_settings(settings, data=self.directory())
            async with self.open() as deployment:
                return deployment.live.current

        return self.run(read())

    def catalog_of_settings(self) -> Catalog:
        """The providers from the settings only, for commands that don't need the vault, which isn't opened.

        Raises ProviderFileRefused, SettingsRefused.
        """
        from server.app import catalog_of_settings

        return self.run(catalog_of_settings(self.settings(), data=self.directory()))

    @asynccontextmanager
    async def open(self, *, creates: bool = False, uses_accounts: bool = True) -> AsyncGenerator[Deployment]:
        """Open the whole vault without serving it; processes that serve it may run at the same time.

        Ends the command if there is no vault, unless it `creates` one. With `uses_accounts` False, unusable rules don't
        stop the command.
        """
        from server.app import open_deployment
        from server.policy_settings import PolicySettings

        settings = self.settings()
        if not creates:
            self.check_vault(settings)
        if not uses_accounts:
            settings = settings.model_copy(update={"policy": PolicySettings()})
        async with open_deployment(settings, data=self.directory(), creates=creates) as deployment:
            yield deployment

    def check_vault(self, settings: Settings) -> None:
        """End the command if there is no vault, since a mistyped --data must not create one."""
        reason = missing_vault(settings, data=self.directory())
        if reason is not None:
            fail(reason)

    def run(self, work: Coroutine[object, object, T]) -> T:
        """Run a command's asynchronous part."""
        try:
            import uvloop
        except ImportError:  # not available on Windows
            return asyncio.run(work)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)

    def listing(self, *, columns: Sequence[str], empty: str) -> Listing:
        """A list that is printed as its rows arrive."""
        from server.terminal.listing import Listing

        return Listing(columns, empty=empty, as_json=self.as_json)

    def show(self, rows: Sequence[Mapping[str, object]], *, columns: Sequence[str], empty: str) -> None:
        """Print a list: a JSON array, or a table."""
        listing = self.listing(columns=columns, empty=empty)
        listing.add(rows)
        listing.end()

    def show_fields(self, row: Mapping[str, object]) -> None:
        """Print one thing with all its fields: a JSON object, or a line for each field."""
        if self.as_json:
            self.show_json(row)
            return
        from server.terminal.listing import format_cell

        width = max(len(name) for name in row) + 1
        for name, value in row.items():
            say_with_label(f"{name:{width}}", printable(format_cell(value)))

    def show_one(self, row: Mapping[str, object], *, sentence: str) -> None:
        """Print one result: a JSON object, or a sentence."""
        if self.as_json:
            self.show_json(row)
        else:
            say(sentence)

    def show_json(self, content: object) -> None:
        """Print JSON."""
        say(json.dumps(content, indent=2, ensure_ascii=False))


def missing_vault(settings: Settings, *, data: Path) -> str | None:
    """Why there can't be a vault here, and the fix; None if there may be one. Looks only for its files."""
    from providers.definitions.suggestions import did_you_mean
    from vault.storage.database import sqlite_path

    file = sqlite_path(settings.database_url(), data=data)
    if file is None and settings.keys.source == "file":  # PostgreSQL: this host needs the key
        file = (settings.keys.file or data / "master.key").expanduser()
    if file is None or file.exists():
        return None
    near = [one.parent.name for one in data.parent.glob("*/vault.sqlite")]
    return (
        f"no vault in {data}: {file.name} isn't there.{did_you_mean(data.name, near)} Correct --data, or create a "
        f"vault: token-vault init --data {data}"
    )


def say(text: str) -> None:
    """Print a line of a result, or several."""
    sys.stdout.write(printable(text, kept="\n\t") + "\n")
    sys.stdout.flush()


def say_with_label(label: str, text: str) -> None:
    """Print a line of a result; on a narrow terminal, continuation lines are indented to the text."""
    if not sys.stdout.isatty():
        say(f"{label}{text}".rstrip())
        return
    from shutil import get_terminal_size

    from server.terminal.listing import hang

    say(hang(label, text, width=get_terminal_size().columns))


def note(text: str) -> None:
    """Print a line for the person at the terminal, in addition to the result."""
    sys.stderr.write(printable(text, kept="\n\t") + "\n")
    sys.stderr.flush()


def fail(text: str) -> NoReturn:
    """End with a one-line message that includes the fix, and exit code 1."""
    complain(text)
    raise typer.Exit(1)


def complain(text: str) -> None:
    """Print a line that explains why the program can't continue."""
    note(f"token-vault: {' '.join(text.split())}")


def check_host() -> None:
    """End with an explanation on a system that can't store a vault, such as Windows."""
    from vault.storage.host_files import is_supported

    if not is_supported():
        fail(
            "Token Vault keeps its data with file locks of Linux and macOS, which this system lacks. On Windows, run "
            "it in WSL 2 or in a Linux container, and let clients connect over HTTP: "
            "`token-vault client-config CLIENT --transport http`."
        )


def command(app: typer.Typer, name: str) -> Callable[[Callable[Concatenate[Setup, P], None]], None]:
    """Register a function as a command that also takes --config, --data, and --json, passed to it as its `Setup`.

    Refusals end the command with a one-line message and exit code 1; wrong usage is typer's exit code 2.
    """

    def register(function: Callable[Concatenate[Setup, P], None]) -> None:
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            shared = {part: kwargs.pop(part) for part in ("config", "data", "json")}
            setup = Setup(_path(shared["config"]), _path(shared["data"]), shared["json"] is True)
            paths = [value for value in (setup.config, setup.data, *kwargs.values()) if isinstance(value, Path)]
            with _refusals(paths):
                if name not in _ANYWHERE:
                    check_host()
                function(setup, *args, **kwargs)

        functools.update_wrapper(run, function)
        del run.__dict__["__wrapped__"]
        hints = get_type_hints(function, include_extras=True)
        _, *own = inspect.signature(function).parameters.values()
        extra = [
            inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigOption),
            inspect.Parameter("data", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=DataOption),
            inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption),
        ]
        parameters = [
            *(part.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[part.name]) for part in own),
            *extra,
        ]
        run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess] -- PEP 362
        run.__annotations__ = {part.name: part.annotation for part in parameters}
        app.command(name, cls=_Command)(run)

    return register


class _Command(typer.core.TyperCommand):
    """A command whose usage errors explain how to pass an ID that begins with a dash."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride] -- the base names typer's private class of it
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            similar = getattr(error, "possibilities", ["another error"])  # options that an unknown one may mean
            begins = str(getattr(error, "option_name", ""))
            value = next((one for one in given if begins and one.startswith(begins)), "")
            if similar or not value or all(one.param_type_name != "argument" for one in self.params):
                raise
            value = printable(value)
            ctx.fail(
                f"{error}. If {value} is an ID, write -- before it, after all options: {ctx.command_path} -- {value}"
            )


def _path(value: object) -> Path | None:
    return value if isinstance(value, Path) else None


class _refusals:  # noqa: N801 -- used as a context manager
    """Turns the product's refusals into one line, and errors about a file that the command line names."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = [path.expanduser().absolute() for path in paths]

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None or isinstance(error, typer.Exit):
            return False
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(130)
        found = _first(error)
        if isinstance(found, BrokenPipeError):  # `| head`: the reader needs no more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise the last flush fails
            raise typer.Exit(1)
        if isinstance(found, OSError) and self._names(found.filename):
            from providers.definitions.file_errors import reason_of

            fail(f"can't use {found.filename}: {reason_of(found)}")
        words = words_of_refusal(found)
        if words is not None:
            fail(words)
        return False

    def _names(self, filename: object) -> bool:
        if not isinstance(filename, str):
            return False
        file = Path(filename).absolute()
        return any(file.is_relative_to(path) for path in self._paths)


def words_of_refusal(error: BaseException) -> str | None:
    """The sentence of one of the product's refusals; None for any other error."""
    from providers.definitions.catalog import ProviderFileRefused
    from providers.tools.declarations import ToolFileRefused
    from server.settings import SettingsRefused
    from vault.refusals import VaultError

    found = _first(error)
    if isinstance(found, VaultError):
        return found.description
    return str(found) if isinstance(found, (SettingsRefused, ProviderFileRefused, ToolFileRefused)) else None


def _first(error: BaseException) -> BaseException:
    """The first real error of a group."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group: BaseExceptionGroup[BaseException] = error  # pyright: ignore[reportUnknownVariableType] -- of any kind
    return _first(group.exceptions[0])


async def check_pages(deployment: Deployment) -> None:
    """End the command if a link to our pages would reach another program that uses the address."""
    from server.lifecycle.loopback import Holder, address_of, foreign_holder, look

    if not deployment.settings.is_loopback:  # TLS proves which server answers, perhaps on another machine
        return
    address = address_of(deployment)
    sight = await asyncio.to_thread(look, address)
    if sight.holder is Holder.FOREIGN:
        fail(f"no link was created, because another server would receive it: {foreign_holder(address, sight)}")
