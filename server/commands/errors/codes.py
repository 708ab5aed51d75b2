"""The command. A code can have a different meaning at each surface, so all are printed."""

from __future__ import annotations

from typing import Annotated

import typer

from server.terminal.context import Setup, fail, say, say_with_label

_WIDTH = 11


def errors(
    setup: Setup, code: Annotated[str, typer.Argument(help="The code, as in an answer, the activity, or the log.")]
) -> None:
    """Explain an error code and what to do, for each surface that uses it."""
    from providers.definitions.suggestions import did_you_mean
    from server.commands.errors.texts import all_codes, meanings_of

    meanings = meanings_of(code)
    if not meanings:
        near = did_you_mean(code, all_codes())
        fail(f"{code} isn't described here. Its text explains what to do; it may be the provider's own code.{near}")
    if setup.as_json:
        setup.show_json({"code": code, "meanings": meanings})
        return
    for surface, text in meanings.items():
        say_with_label(f"{surface:{_WIDTH}}", text)
    if any("Check first" in text for text in meanings.values()):
        say("Check first: a write might have been carried out.")
