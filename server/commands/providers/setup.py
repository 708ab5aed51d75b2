"""`providers setup`: print what to enter at a provider's console, and store the result here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from server.terminal.context import Setup, fail, missing_vault, note, say
from server.terminal.names import ProviderName, provider_called
from server.terminal.registration_options import ClientIdOption, SecretInputOption, ShowOption

if TYPE_CHECKING:
    from collections.abc import Mapping

    from providers.definitions.model import Provider
    from server.setup.provider_consoles import Guide
    from server.setup.provider_registration import Files
    from server.setup.settings_file import Setting


def set_up(
    setup: Setup,
    name: ProviderName,
    *,
    client_id: ClientIdOption = None,
    client_secret_stdin: SecretInputOption = False,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="Input of the provider file, as name=value. Repeat for several.",
            show_default=False,
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Google: the app is in production; connections don't expire.")
    ] = False,
    show: ShowOption = False,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the last setup of this provider.")] = False,
) -> None:
    """Print what to enter at the provider, ask for client ID and secret, and save them."""
    from providers.definitions.catalog import is_shipped
    from server.setup.provider_consoles import service_of

    found = provider_called(setup.catalog_of_settings(), name)
    if found.audience is not None:
        fail(
            f"{found.name} accepts this vault's own tokens, so no registration is needed. Set "
            f"providers.{found.name}.apis instead"
        )
    name = found.name
    files = _files(setup, name)
    if found.credential is not None and not (undo or show):
        _turn_on(setup, found, files, given or [])
        return
    if undo:
        undo_setup(setup, files)
        return
    guide = _guide(setup, found)
    if not setup.as_json:
        _print(guide)
    row: dict[str, object] = {**asdict(guide), "config": None, "secret_file": None}
    if not show:
        inputs = _inputs(found, given or [])
        ships = is_shipped(found.name)
        service = service_of(found.name, token_url=found.hosts.token_url, ships=ships)
        chosen, secret = _answers(guide, client_id, service=service, from_stdin=client_secret_stdin)
        testing = True if name == "google" and not published else None
        write_setup(setup, files, {"client_id": chosen, "testing": testing}, secret, inputs=inputs)
        row |= {"config": str(files.config), "secret_file": None if secret is None else str(files.secret)}
    if setup.as_json:
        setup.show_json(row)
    elif not show:
        where = str(files.config) if guide.client == "public" else f"{files.config} and {files.secret}"
        say(f"Saved to {where}.")
        say(f"Restart `token-vault serve` or your MCP client, then run: token-vault connections connect {name}")
        note(f"To undo: token-vault providers setup {name} --undo")


def _turn_on(setup: Setup, provider: Provider, files: Files, given: list[str]) -> None:
    """Let people connect accounts of a service with their own credentials."""
    write_setup(setup, files, {"enabled": True}, None, inputs=_inputs(provider, given))
    if setup.as_json:
        setup.show_json({"provider": provider.name, "enabled": True, "config": str(files.config)})
        return
    say(f"Saved to {files.config}. Restart `token-vault serve` or your MCP client.")
    say(f"Each person then enters: {provider.credential.title if provider.credential else ''}")
    note(f"To undo: token-vault providers setup {provider.name} --undo")


def _files(setup: Setup, name: str) -> Files:
    from server.setup.provider_registration import Files

    data = setup.directory()
    return Files(config=(setup.config or data / "config.toml").expanduser().absolute(), data=data, provider=name)


def _guide(setup: Setup, provider: Provider) -> Guide:
    from server.mcp.offer.registry import load_tools
    from server.setup.provider_consoles import guide_for

    settings = setup.settings()
    tools = load_tools(settings, setup.catalog_of_settings(), late=[])
    return guide_for(provider, tools, public_url=settings.public_url, is_loopback=settings.is_loopback)


def _inputs(provider: Provider, given: list[str]) -> dict[str, str]:
    """The inputs of the provider's addresses; asks for those without a value or default."""
    from providers.definitions.inputs import InputRefused, value_problem
    from providers.definitions.inputs import input_values as complete
    from server.terminal.questions import ask

    found = dict(one.split("=", 1) for one in given if "=" in one)
    if len(found) != len(given):
        fail("pass each input once, as name=value")
    for name, about in provider.inputs.items():
        if name not in found and about.default is None and sys.stdin.isatty():
            question = f"{about.title}, for example {about.example}"
            found[name] = ask(question, problem_of=partial(value_problem, provider, name))
    try:
        complete(provider, found)
    except InputRefused as error:
        fail(f"{error}: --input {next(iter(provider.inputs), 'name')}=...")
    return found


def _print(guide: Guide) -> None:
    for number, step in enumerate(guide.steps, start=1):
        say(f"{number}. {step}")
        if number == 1 and guide.manifest is not None:
            say(guide.manifest)
    for warning in guide.warnings:
        say(f"! {warning}")
    say(f"Redirect URL: {guide.redirect_uri}")


def _answers(guide: Guide, client_id: str | None, *, service: str, from_stdin: bool) -> tuple[str, str | None]:
    """Client ID and secret; asks for missing values until they are plausible."""
    from server.setup.provider_consoles import id_problem, secret_problem
    from server.terminal.questions import ask

    is_public = guide.client == "public"
    asks = client_id is None or not (is_public or from_stdin)
    if asks and not sys.stdin.isatty():
        rest = "" if is_public else " and --client-secret-stdin"
        fail(f"can't ask without a terminal; pass --client-id{rest}, or use --show to print the steps only")
    if client_id is None:
        chosen = ask("Client ID", problem_of=partial(id_problem, service))
    else:
        chosen = _valid(client_id, problem_of=partial(id_problem, service))
    if is_public:
        if from_stdin:
            where, fix = "", ""
            if guide.provider == "slack":
                where, fix = " on loopback", ", or set an https server.public_url"
            fail(f"{guide.provider} takes no secret{where}: omit --client-secret-stdin{fix}")
        return chosen, None
    judge = partial(secret_problem, service=service, client_id=chosen)
    if from_stdin:
        return chosen, _valid(sys.stdin.readline(), problem_of=judge)
    return chosen, ask("Client secret", problem_of=judge, is_secret=True)


def _valid(given: str, *, problem_of: Callable[[str], str | None]) -> str:
    """A checked value from the command line, where there is no second chance to ask."""
    problem = problem_of(given.strip())
    return given.strip() if problem is None else fail(problem)


def write_setup(
    setup: Setup,
    files: Files,
    values: Mapping[str, Setting],
    client_secret: str | None,
    *,
    inputs: Mapping[str, str] | None = None,
) -> None:
    """Write a registration, and read the settings back to check that they are accepted."""
    from server.runtime.data_directory import prepare_data_directory
    from server.setup.provider_registration import write
    from server.setup.settings_file import ConfigFileRefused

    prepare_data_directory(files.data)
    try:
        write(files, values=values, client_secret=client_secret, inputs=inputs)
    except ConfigFileRefused as error:
        fail(f"{files.config}: {error}")
    except OSError as error:
        fail(f"can't write {error.filename or files.config}: {error.strerror or error}")
    prefix = f"TOKEN_VAULT_{'__'.join(files.table).upper()}__"
    for variable in sorted(found for found in os.environ if found.startswith(prefix)):
        note(f"{variable} is set and overrides the settings file: unset it.")
    if missing_vault(setup.settings(), data=files.data) is not None:
        note(f"There is no vault in {files.data} yet. If there should be one, correct --data and run this again.")


def undo_setup(setup: Setup, files: Files) -> None:
    """Undo the last setup of this provider or issuer."""
    from server.setup.provider_registration import NothingToUndo, undo
    from server.setup.settings_file import ConfigFileRefused

    try:
        undo(files)
    except (NothingToUndo, ConfigFileRefused) as error:
        fail(str(error))
    row: dict[str, object] = {"provider": files.provider, "config": str(files.config), "undone": True}
    setup.show_one(row, sentence=f"Restored {files.config} to its state before the setup of {files.provider}.")
