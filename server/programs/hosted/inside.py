"""Runs in the sandbox, before the program: opens the proxy's port there, hands it to the vault, sets limits.

The vault accepts connections on that port from outside, so no process in the sandbox needs a network. Standard library
only: the vault's code isn't in the sandbox. What to run arrives over the socket, never in arguments or the environment.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
from contextlib import suppress

_LIMITS = {
    "memory": resource.RLIMIT_DATA,
    "processes": resource.RLIMIT_NPROC,
    "cpu": resource.RLIMIT_CPU,
    "files": resource.RLIMIT_NOFILE,
    "core": resource.RLIMIT_CORE,
    "file": resource.RLIMIT_FSIZE,
}
_NICE = 10
_FIRST_TO_GO = "1000"  # the kernel kills it first if the machine runs out of memory


def main() -> None:
    """Replace this process with the program that the vault names."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    with channel.makefile("rb") as lines:
        wanted = json.loads(lines.readline())
    port: int = wanted["port"]
    listening = socket.create_server(("127.0.0.1", port))
    socket.send_fds(channel, [b"1"], [listening.fileno()])
    listening.close()
    channel.close()
    with suppress(OSError):  # the service manager's system call filter may refuse it
        os.nice(_NICE)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:  # noqa: PTH123 -- starts often
        score.write(_FIRST_TO_GO)
    for name, value in wanted["limits"].items():
        resource.setrlimit(_LIMITS[name], (value, value))
    command: list[str] = wanted["command"]
    try:
        os.chdir(wanted["folder"])
        os.execvpe(command[0], command, wanted["environment"])  # noqa: S606 -- the operator names it
    except OSError as error:
        sys.exit(f"{command[0]} can't be started in the sandbox: {error.strerror}")


if __name__ == "__main__":
    main()
