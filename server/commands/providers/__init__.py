"""`providers ...`: services that accounts can be connected to. The commands are in `files`, `setup`, and `test`."""

from __future__ import annotations

import typer

from server.commands.providers import files
from server.commands.providers.setup import set_up
from server.commands.providers.test import test_provider
from server.terminal.context import command

app = typer.Typer(no_args_is_help=True, help="Services that accounts can be connected to.")
command(app, "setup")(set_up)
command(app, "list")(files.list_providers)
command(app, "show")(files.show_provider)
command(app, "check")(files.check_provider)
command(app, "schema")(files.print_schema)
command(app, "new")(files.new_provider)
command(app, "test")(test_provider)
