"""Opens an address in the browser of the person at this machine. Callers decide whether that is allowed.

Every user of a machine can read the arguments of every process, and the address often allows a sign-in. Therefore a
browser gets the name of a file that only its owner can read and that redirects to the address.
"""

from __future__ import annotations

import hashlib
import html
import os
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

LIFETIME: Final = 600  # seconds that a file stays if nothing reports its address as used; links live no longer
_FOLDER: Final = "opening"


def browser_opener(data: Path) -> Callable[[str], bool] | None:
    """Opens a URL in the owner's browser without sharing our stdin and stdout; None without a browser.

    The files are in the data directory, which is closed to other users, until `forget` or for ten minutes.
    """
    try:
        webbrowser.get()
    except webbrowser.Error:
        return None

    def open_url(url: str) -> bool:
        return _open_detached(data / _FOLDER, url)

    return open_url


def forget(data: Path, url: str) -> None:
    """Remove the file for `url`, which was used or has expired. Does nothing if there is none."""
    with suppress(OSError):
        _file(data / _FOLDER, url).unlink()


def _file(folder: Path, url: str) -> Path:
    return folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.html"


def _open_detached(folder: Path, url: str) -> bool:
    """Let a child open it and remove the file: a browser that inherits our stdout would corrupt the protocol.

    Its argument is the name of the file, too.
    """
    program = (
        "import os, pathlib, sys, time, webbrowser\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "webbrowser.open(file.as_uri())\n"
        "end = time.monotonic() + float(sys.argv[2])\n"
        "while file.exists() and time.monotonic() < end: time.sleep(1)\n"
        "file.unlink(missing_ok=True)\n"
    )
    try:
        file = _write(folder, url)
        subprocess.Popen(  # noqa: S603 -- our own interpreter, a constant program
            [sys.executable, "-c", program, str(file), str(LIFETIME)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    return True


def _write(folder: Path, url: str) -> Path:
    """Write the file for `url`, readable by us alone from its first byte on. Raises OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    _sweep(folder)
    file = _file(folder, url)
    shown = html.escape(url)
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=referrer content=no-referrer>"
        f'<meta http-equiv=refresh content="0; url={shown}"><title>Token Vault</title>'
        f'<p><a href="{shown}" rel=noreferrer>Go on to Token Vault</a></html>\n'
    )
    file.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(file, flags, 0o600), "w", encoding="utf-8") as out:
        out.write(page)
    return file


def _sweep(folder: Path) -> None:
    """Remove the files of children that were ended early."""
    for file in folder.glob("*.html"):
        with suppress(OSError):
            if file.stat().st_mtime < time.time() - LIFETIME:
                file.unlink()
