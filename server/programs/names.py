"""The default name of a program's agent: the program, or the script that an interpreter runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

# Interpreters and launchers don't identify the program: a permission for one script isn't meant for the next.
_INTERPRETERS: Final = re.compile(
    r"(python|pypy|ruby|perl|php|lua|node)[0-9.]*|nodejs|bun|tsx|ts-node|npx|uvx|sh|bash|dash|zsh|ksh|fish|ash|pwsh"
)
_STARTERS: Final = re.compile(
    r"env|nice|nohup|sudo|timeout|time|xargs|busybox|java|deno|npm|pnpm|yarn|uv|pipx|poetry|make|go|cargo|dotnet"
)


def name_of_agent(command: Sequence[str]) -> str | None:
    """The agent's name; None if the command doesn't show it."""
    program = Path(command[0]).name
    if _STARTERS.fullmatch(program) is not None:
        return None
    if _INTERPRETERS.fullmatch(program) is None:
        return program
    script = command[1] if len(command) > 1 else ""
    return None if not script or script.startswith("-") or script in {"run", "x"} else Path(script).name
