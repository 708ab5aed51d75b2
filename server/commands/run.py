"""`run`: run a program without credentials; the vault's proxy adds them to its calls."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.serve import (
    ClientIdOption,
    DeviceOption,
    NoBrowserOption,
    SandboxOption,
    UrlOption,
    VerboseOption,
    place_data,
)
from server.terminal.context import Setup, fail, note

if TYPE_CHECKING:
    from server.programs.program_run import ProgramOptions, ProgramRecord


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """A vault on another machine, and how its agent signs in."""

    url: str
    client_id: str | None
    by_code: bool
    may_open: bool


def run(
    setup: Setup,
    *,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND", help="The program and its arguments.", show_default=False),
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", help="The agent's name.", show_default="the program's or script's name")
    ] = None,
    account: Annotated[
        list[str] | None,
        typer.Option("--account", help="An account to use where there are several; repeatable.", show_default=False),
    ] = None,
    allow_other_hosts: Annotated[
        bool, typer.Option("--allow-other-hosts", help="Allow calls to hosts that belong to no account, unchanged.")
    ] = False,
    wait: Annotated[
        int, typer.Option("--wait", min=0, max=3600, help="Seconds that a call waits for your permission.")
    ] = 120,
    print_env: Annotated[
        bool,
        typer.Option(
            "--print-env",
            help="Don't run a program: print the environment for a shell, and serve it until you stop this command.",
        ),
    ] = False,
    url: UrlOption = None,
    client_id: ClientIdOption = None,
    device: DeviceOption = False,
    sandbox: SandboxOption = False,
    no_browser: NoBrowserOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run a program that calls your accounts' APIs without having their credentials."""
    from server.programs.printed_environment import printed_environment
    from server.programs.program_run import ProgramOptions
    from server.runtime.logs import configure

    configure(verbose=verbose)
    if url is None and (client_id or device):
        fail("--client-id and --device require --url, the address of a vault on another machine")
    if url is not None and sandbox:
        fail("use either --sandbox or --url")
    name = _agent_name(command or [], agent, prints=print_env)
    options = ProgramOptions(
        command or [],
        name,
        tuple(account or ()),
        environment=os.environ,
        say=lambda text: note(f"token-vault: {text}"),
        wait=float(wait),
        allows_other_hosts=allow_other_hosts,
        **({"start": printed_environment(os.environ, as_json=setup.as_json)} if print_env else {}),
    )
    if url is None:
        record = setup.run(_run(setup, options, sandbox=sandbox, may_open=not no_browser))
    else:
        record = setup.run(_run_elsewhere(setup, options, _Elsewhere(url, client_id, device, not no_browser)))
    if setup.as_json:
        note(json.dumps(record.members()))
    raise typer.Exit(record.exit_code)


def _agent_name(command: list[str], agent: str | None, *, prints: bool) -> str:
    from server.mcp.local_names import RULE, is_local_name
    from server.programs.child import find_program
    from server.programs.names import name_of_agent

    if prints and command:
        fail("use either --print-env or a command")
    if not prints and not command:
        fail("name a command after --, or use --print-env")
    if prints and agent is None:
        fail("--print-env needs --agent NAME")
    name = agent or name_of_agent(command)
    if name is None:
        fail(
            f"{Path(command[0]).name} runs other programs, which would all get the same permissions: add --agent NAME."
        )
    if not is_local_name(name):
        fail(RULE.replace("--client", "--agent"))
    if command and find_program(command[0]) is None:
        note(f"token-vault: {command[0]}: no such program")
        raise typer.Exit(127)
    return name


async def _run(setup: Setup, options: ProgramOptions, *, sandbox: bool, may_open: bool) -> ProgramRecord:
    from server.local_vault import open_local_vault
    from server.programs.program_run import problem_of, run_program
    from server.runtime.browser import browser_opener

    async with place_data(setup, {}, sandbox=sandbox) as (settings, data):
        opener = browser_opener(data) if may_open and settings.stdio.open_browser else None
        async with open_local_vault(
            settings, data=data, open_browser=opener, client_name=options.agent, role="run"
        ) as local:
            if (problem := await problem_of(local.deployment, local.principal, options)) is not None:
                fail(problem)
            return await run_program(local.deployment, local.principal, options)


async def _run_elsewhere(setup: Setup, options: ProgramOptions, there: _Elsewhere) -> ProgramRecord:
    """Sign in at the vault first, if this agent isn't signed in yet."""
    from functools import partial

    from server.bridge.access import Access
    from server.bridge.address import remote_vault
    from server.bridge.authority import AuthorizationServer, plain_client
    from server.bridge.credentials import credential_store
    from server.bridge.sign_in import SignInFlow, Way
    from server.programs.own_variables import OwnVariables
    from server.programs.remote_run import run_for
    from server.runtime.browser import browser_opener, forget
    from server.runtime.data_directory import prepare_data_directory

    settings = setup.settings()
    vault = remote_vault(there.url, agent=options.agent, is_for_programs=True)
    data = prepare_data_directory(setup.directory())
    opener, may_open = browser_opener(data), there.may_open and settings.stdio.open_browser
    way = Way(opener, partial(forget, data), by_code=there.by_code, may_open=may_open, client_id=there.client_id)
    async with plain_client(vault) as plain:
        authority = AuthorizationServer(plain, vault)
        access = Access(authority, credential_store(data, vault), vault=vault, data=data, say=options.say)
        async with access.open(SignInFlow(authority, vault, way, tell=access.tell)):
            await access.sign_in()
            return await run_for(
                vault,
                access,
                options,
                own=OwnVariables(settings),
                proxy=settings.outbound.proxy_address(),
                open_browser=opener if may_open else None,
            )
