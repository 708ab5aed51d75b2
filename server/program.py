"""The program's entry point. Clients and supervisors wait for `stdio` and `serve`, so these load no other command.

`server.cli` has all commands.
"""

from __future__ import annotations

import sys
from typing import Final

from server.runtime import core_dumps
from server.runtime.garbage import put_off
from server.runtime.lean_sdk import load_lean

_WAITED_FOR: Final = frozenset({"serve", "stdio"})


def main() -> None:
    """Run the program."""
    core_dumps.forbid()
    put_off()
    if _WAITED_FOR.isdisjoint(sys.argv[1:2]):
        from server.cli import main as run

        run()
        return
    load_lean()
    from server.commands import serve, stdio
    from server.terminal.context import command
    from server.terminal.root import make_app

    app = make_app()
    command(app, "serve")(serve.serve)
    command(app, "stdio")(stdio.stdio)
    app(prog_name="token-vault")
