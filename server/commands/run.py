"""`run`: a program whose calls get credentials at the vault's proxy, and which has none itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.serve import SandboxOption, place_data
from server.terminal.context import Setup, fail, note

if TYPE_CHECKING:
    from server.programs.running import ProgramOptions, ProgramRecord


def run(
    setup: Setup,
    *,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="The program and its arguments.")],
    agent: Annotated[
        str | None, typer.Option("--agent", help="The agent's name.", show_default="the program's or script's name")
    ] = None,
    account: Annotated[
        list[str] | None,
        typer.Option("--account", help="An account to use where there are several; repeatable.", show_default=False),
    ] = None,
    allow_other_hosts: Annotated[
        bool, typer.Option("--allow-other-hosts", help="Let calls to hosts of no account through, as they are.")
    ] = False,
    wait: Annotated[
        int, typer.Option("--wait", min=0, max=3600, help="Seconds for which a call waits for your permission.")
    ] = 120,
    sandbox: SandboxOption = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Never open a browser.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more, to standard error.")] = False,
) -> None:
    """Run a program that calls your accounts' APIs without having their credentials."""
    from server.mcp.local_names import RULE, is_local_name
    from server.programs.child import find_program
    from server.programs.names import name_of_agent
    from server.programs.running import ProgramOptions
    from server.runtime.logs import configure

    configure(verbose=verbose)
    name = agent or name_of_agent(command)
    if name is None:
        fail(f"{Path(command[0]).name} runs other programs, and what one may do isn't meant for all: add --agent NAME.")
    if not is_local_name(name):
        fail(RULE.replace("--client", "--agent"))
    if find_program(command[0]) is None:
        note(f"token-vault: {command[0]}: no such program")
        raise typer.Exit(127)
    options = ProgramOptions(
        command,
        name,
        tuple(account or ()),
        environment=os.environ,
        say=lambda text: note(f"token-vault: {text}"),
        wait=float(wait),
        allows_other_hosts=allow_other_hosts,
    )
    record = setup.run(_run(setup, options, sandbox=sandbox, may_open=not no_browser))
    if setup.as_json:
        import json

        note(json.dumps(record.members()))
    raise typer.Exit(record.exit_code)


async def _run(setup: Setup, options: ProgramOptions, *, sandbox: bool, may_open: bool) -> ProgramRecord:
    from server.local_vault import open_local_vault
    from server.programs.running import problem_of, run_program
    from server.runtime.browser import browser_opener

    async with place_data(setup, {}, sandbox=sandbox) as (settings, data):
        opener = browser_opener(data) if may_open and settings.stdio.open_browser else None
        async with open_local_vault(
            settings, data=data, open_browser=opener, client_name=options.agent, role="run"
        ) as local:
            if (problem := await problem_of(local.deployment, local.principal, options)) is not None:
                fail(problem)
            return await run_program(local.deployment, local.principal, options)
