"""Run a program that the kernel ends when this vault's process ends, where util-linux's `setpriv` is missing.

Called by its path as `python parent_death.py PARENT COMMAND...`, so that it loads nothing else. Linux only.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>; it outlives exec, but not the end of the thread that started us


def main(arguments: list[str]) -> int:
    """Replace this process by the program; otherwise 127, as shells say of one that isn't there."""
    parent, command = int(arguments[0]), arguments[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:  # it ended before
        return 128 + signal.SIGTERM
    try:
        os.execvp(command[0], command)  # noqa: S606 -- what the person started
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
