"""The program's entry. Clients and supervisors wait for `stdio` and `serve`: these load no other command.

`server.cli` has all commands.
"""

from __future__ import annotations

import gc
import sys
from typing import Final

_WAITED_FOR: Final = frozenset({"serve", "stdio"})


def main() -> None:
    """Run the program."""
    gc.set_threshold(50_000, 50, 100)  # loaded objects stay: scanning them for garbage costs a tenth of a start
    if _WAITED_FOR.isdisjoint(sys.argv[1:2]):
        from server.cli import main as run

        run()
        return
    from server.commands import serve, stdio
    from server.terminal.context import command
    from server.terminal.root import make_app

    app = make_app()
    command(app, "serve")(serve.serve)
    command(app, "stdio")(stdio.stdio)
    app(prog_name="token-vault")
