"""Opens an address in the browser of the person at this machine. Whether that may be done, callers decide."""

from __future__ import annotations

import subprocess
import sys
import webbrowser
from collections.abc import Callable


def browser_opener() -> Callable[[str], bool] | None:
    """Opens a URL in the owner's browser without sharing our stdin and stdout; None where there is no browser."""
    try:
        webbrowser.get()
    except webbrowser.Error:
        return None
    return _open_detached


def _open_detached(url: str) -> bool:
    """A child opens it, since a browser that inherits our stdout would write into the protocol. The URL goes through
    its standard input: an argument would show the one-time secret to every user of the machine.
    """
    program = "import sys, webbrowser; webbrowser.open(sys.stdin.read())"
    try:
        child = subprocess.Popen(  # noqa: S603 -- our own interpreter, a constant program
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
    except OSError:
        return False
    if child.stdin is not None:
        child.stdin.write(url)
        child.stdin.close()
    return True
