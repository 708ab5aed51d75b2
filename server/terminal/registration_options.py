"""Options of the commands that set up a registration of ours elsewhere: at a provider, or for sign-in."""

from __future__ import annotations

from typing import Annotated

import typer

ClientIdOption = Annotated[
    str | None, typer.Option("--client-id", help="The client ID. Without it, you're asked.", show_default=False)
]
SecretInputOption = Annotated[
    bool, typer.Option("--client-secret-stdin", help="Read the client secret from standard input.")
]
ShowOption = Annotated[
    bool, typer.Option("--show", help="Print what to enter at the provider, without changing anything.")
]
