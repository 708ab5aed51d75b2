"""The terminal pictures of the documentation, from real runs (`make recordings`): docs/recordings/NAME.svg.

Each command runs in its own terminal; only this run's folder and port are replaced.

    python -m tests.generating.images.recordings [NAME ...]
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pty
import re
import struct
import sys
import tempfile
import termios
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tests.generating.images.showcase import furnish, provider_settings
from tests.support.processes import ROOT, Place
from tests.support.rooms.portal_room import running_room

TARGET: Final = ROOT / "docs" / "recordings"
WIDTH, HEIGHT = 110, 45
RECORDED: Final[Mapping[str, Sequence[str]]] = {
    "demo": ("token-vault", "demo"),
    "doctor": ("token-vault", "doctor"),
    "explain": (
        "token-vault",
        "explain",
        "--client",
        "Claude Code",
        "--connection",
        "alice (Acme)",
        "--scopes",
        "users:read",
    ),
}
CUT: Final = "What the vault recorded"  # the demo's list of events is long
# rich's own format loads a font from elsewhere
FORMAT: Final = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g></g></svg>
"""


def at_a_terminal(command: Sequence[str], variables: Mapping[str, str]) -> str:
    """Run the command in a terminal; return its output with colors. Blocking."""
    words = [sys.executable, "-m", "token_vault", *command[1:]]
    child, terminal = pty.fork()
    if child == 0:
        os.execve(words[0], words, {**variables, "TERM": "xterm-256color", "COLUMNS": str(WIDTH), "LINES": str(HEIGHT)})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    shown: list[bytes] = []
    try:
        while piece := os.read(terminal, 65536):
            shown.append(piece)
    except OSError as error:
        if error.errno != errno.EIO:  # how Linux reports the end of a terminal
            raise
    finally:
        os.close(terminal)
    os.waitpid(child, 0)
    return b"".join(shown).decode()


def draw(command: Sequence[str], shown: str) -> str:
    """Draw the picture."""
    text = shown.replace("\r\n", "\n")
    line = " ".join(f'"{word}"' if " " in word else word for word in command)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(Text(f"$ {line}", style="bold"))
        console.print(Text.from_ansi(text.rstrip("\n")))
        picture = console.export_svg(title=line, theme=MONOKAI, code_format=FORMAT, unique_id="t")
    return re.sub(r"[ \t]+$", "", picture, flags=re.MULTILINE)


async def record(names: Sequence[str], write: Callable[[str, str], object]) -> None:
    """Run each command against a busy person's vault, and return the pictures."""
    with tempfile.TemporaryDirectory(prefix="token-vault-recording-") as folder:
        data = Path(folder) / "vault"
        variables = {name: value for name, value in os.environ.items() if not name.startswith("TOKEN_VAULT_")}
        variables |= {"HOME": folder, "BROWSER": "", "PYTHONPATH": str(ROOT)}
        async with running_room(data, overrides={"providers": provider_settings()}) as room:
            await furnish(room, await room.user("alice"))
            port = room.deployment.settings.server.port
            Place(data, port).configure({"providers": room.simulator.settings()})
            for name in names:
                place = variables if name == "demo" else {**variables, "TOKEN_VAULT_DATA": str(data)}
                shown = await asyncio.to_thread(at_a_terminal, RECORDED[name], place)
                shown = shown.replace(str(data), "~/.local/share/token-vault").replace(folder, "~")
                write(name, draw(RECORDED[name], shown.replace(str(port), "8765").partition(CUT)[0]))


def _write(name: str, picture: str) -> None:
    TARGET.mkdir(exist_ok=True)
    (TARGET / f"{name}.svg").write_text(picture, encoding="utf-8")
    print(f"docs/recordings/{name}.svg: {len(picture) // 1024} KiB")


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1:] or list(RECORDED), _write))
