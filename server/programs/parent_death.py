"""Run a program that the kernel ends when this vault's process ends, for systems without util-linux's `setpriv`.

Called by its path as `python parent_death.py PARENT COMMAND...`, so that it loads nothing else. Linux only.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = (
    1  # from <linux/prctl.h>; it survives exec, but the signal comes when the thread that started us ends
)


def main(arguments: list[str]) -> int:
    """Replace this process with the program; returns 127 if it can't be run, as shells do."""
    parent, command = int(arguments[0]), arguments[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:  # the parent has already ended
        return 128 + signal.SIGTERM
    try:
        os.execvp(command[0], command)  # noqa: S606 -- what the person started
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
