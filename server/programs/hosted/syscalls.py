"""A system call filter for sandboxed programs (seccomp): no MCP server needs these calls, and kernels had flaws in
them.

Only Unix, IP, and netlink sockets are allowed: others, such as those between a virtual machine and its host, ignore
network namespaces. Architectures other than x86-64 and 64-bit ARM have no filter, only namespaces.
"""

from __future__ import annotations

import errno
import platform
import socket
import struct
from typing import Final

_LOAD: Final = 0x20  # a word of the call's data
_IF_EQUAL: Final = 0x15
_IF_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_REFUSE: Final = 0x00050000  # with an error number
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in `struct seccomp_data`
_OTHER_ABI: Final = 0x40000000  # x32: the same calls under other numbers
_SOCKETS: Final = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, 16)  # 16: netlink
_FROM_424: Final = (  # the same number everywhere: io_uring, pidfd_getfd, the mount interface, memfd_secret
    *(425, 426, 427, 438),
    *(428, 429, 430, 431, 432, 433, 442, 447),
)
# For each machine: its number, `socket`, `socketpair`, and calls for ptrace, keyrings, bpf, perf_event_open,
# userfaultfd, mounts, namespaces, modules, swap, kexec, other processes' memory, file handles, the kernel's log, and
# memory that isn't counted.
_MACHINES: Final = {
    "x86_64": (
        *(0xC000003E, 41, 53),
        *(101, 248, 249, 250, 321, 298, 323, 165, 166, 155, 161, 272, 308, 175, 313, 176, 167, 168, 246, 320, 169),
        *(310, 311, 312, 303, 304, 103, 163, 179, 172, 173, 319, 29, 64, 68),
    ),
    "aarch64": (
        *(0xC00000B7, 198, 199),
        *(117, 217, 218, 219, 280, 241, 282, 40, 39, 41, 51, 97, 268, 105, 273, 106, 224, 225, 104, 294, 142),
        *(270, 271, 272, 264, 265, 116, 89, 60, 279, 194, 190, 186),
    ),
}


def call_filter(machine: str | None = None) -> bytes | None:
    """The filter in the kernel's format; None on other machines."""
    known = _MACHINES.get(machine or platform.machine())
    if known is None:
        return None
    architecture, open_socket, open_pair, *refused = known
    refused += _FROM_424
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_IF_EQUAL, architecture, yes=1),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
        _step(_IF_AT_LEAST, _OTHER_ABI, no=1),
        _step(_RETURN, _KILL),
    ]
    for number in refused:
        steps += [_step(_IF_EQUAL, number, no=1), _step(_RETURN, _REFUSE | errno.EPERM)]
    steps += [_step(_IF_EQUAL, open_socket, yes=2), _step(_IF_EQUAL, open_pair, yes=1), _step(_RETURN, _ALLOW)]
    steps.append(_step(_LOAD, _FIRST_ARGUMENT))
    for family in _SOCKETS:
        steps += [_step(_IF_EQUAL, family, no=1), _step(_RETURN, _ALLOW)]
    steps.append(_step(_RETURN, _REFUSE | errno.EAFNOSUPPORT))
    return b"".join(steps)


def _step(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """One instruction (`struct sock_filter`)."""
    return struct.pack("=HBBI", code, yes, no, value)
