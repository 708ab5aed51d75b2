"""Which operating-system user is at the other end of a local connection, and who listens on a port.

Linux provides this: for one connection with sock_diag(7), in a tenth of a millisecond regardless of their number, and
for all of them in /proc/net/tcp and tcp6 (proc(5)), in tens of milliseconds on a busy host. Other platforms don't tell
a TCP server, so every function here returns unknown there.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN: Final = "0A"  # the state's number in include/net/tcp_states.h
_INODE: Final = 8  # its place, counted from the local address; the user id is two before
ROOT: Final = 0
_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST: Final = 1  # NLM_F_REQUEST
_ERROR: Final = 2  # NLMSG_ERROR
_HEADER: Final = 16  # bytes of nlmsghdr
_UID_IN_ANSWER: Final = 64  # its offset in inet_diag_msg; the inode follows
_ANY_INTERFACE_AND_COOKIE: Final = bytes(4) + b"\xff" * 8

Endpoint = tuple[str, int]  # IP address, port


def can_tell() -> bool:
    """Whether this platform can identify a connection's user."""
    return sys.platform == "linux" and os.access(_TABLES[0], os.R_OK)


def peer_uid(ours: Endpoint, theirs: Endpoint) -> int | None:
    """The user id of the process at the other end of an accepted connection; None when there is none.

    `ours` and `theirs` as seen from here. A socket that its process has closed has no owner; the kernel may then say 0,
    which must not pass for root.
    """
    try:
        uid, inode = _diagnose(theirs, ours)
    except OSError:  # forbidden in some containers
        uid, inode = _find(theirs, ours)
    return uid if inode else None


def _diagnose(local: Endpoint, remote: Endpoint) -> tuple[int, int]:
    """User id and inode of the socket with these ends; zeros when there is none. Raises OSError without an answer.

    linux/inet_diag.h: `inet_diag_req_v2` asks for exactly one socket, `inet_diag_msg` is the answer.
    """
    here, there = _address(local[0]), _address(remote[0])
    family = socket.AF_INET if here.version == 4 else socket.AF_INET6
    ends = struct.pack("!HH16s16s", local[1], remote[1], here.packed, there.packed)
    wanted = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + ends + _ANY_INTERFACE_AND_COOKIE
    header = struct.pack("=IHHII", _HEADER + len(wanted), _BY_FAMILY, _REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.settimeout(1)
        kernel.send(header + wanted)
        answer = kernel.recv(8192)
    kind, body = struct.unpack_from("=H", answer, 4)[0], answer[_HEADER:]
    if kind != _BY_FAMILY:
        failure = -struct.unpack_from("=i", body)[0] if kind == _ERROR else errno.EPROTO
        if failure == errno.ENOENT:
            return 0, 0
        raise OSError(failure, os.strerror(failure))
    if body[1] == int(_LISTEN, 16):  # a listener at that port, in place of a connection that is gone
        return 0, 0
    uid, inode = struct.unpack_from("=II", body, _UID_IN_ANSWER)
    return uid, inode


def _find(local: Endpoint, remote: Endpoint) -> tuple[int, int]:
    """The same from the tables of all sockets."""
    for table in _TABLES:
        text = _read(table)
        for here, there in zip(_spellings(local), _spellings(remote), strict=True):
            at = text.find(f" {here} {there} ")
            if at >= 0:
                fields = text[at : text.find("\n", at)].split()
                return _uid(fields), _inode(fields)
    return 0, 0


def is_ours(uid: int | None) -> bool:
    """Whether that user may act as this process's owner: ourselves, and root, who can read everything anyway."""
    return uid is not None and uid in {os.getuid(), ROOT}


def describe_listener(host: str, port: int) -> str:
    """A description of the listener (`user no one (uid 65534), process 4711`), as far as known."""
    if can_tell():
        wanted = {*_spellings((host, port)), *_spellings(("0.0.0.0", port)), *_spellings(("::", port))}  # noqa: S104 -- looked for
        for line in "\n".join(_read(table) for table in _TABLES).splitlines():
            fields = line.split()[1:]
            if len(fields) > _INODE and fields[0] in wanted and fields[2] == _LISTEN:
                uid, process = _uid(fields), _process_of(_inode(fields))
                return f"user {_name(uid)} (uid {uid})" + ("" if process is None else f", process {process}")
    return "another program"


def _read(table: Path) -> str:
    try:
        return table.read_text(encoding="ascii")
    except OSError:  # no IPv6 on this host
        return ""


def _uid(fields: list[str]) -> int:
    return int(fields[6])


def _inode(fields: list[str]) -> int:
    return int(fields[_INODE])


def _spellings(endpoint: Endpoint) -> tuple[str, str]:
    """The endpoint as the two tables spell it: 32-bit words in the machine's byte order, then the port.

    An IPv6 socket can use an IPv4 address (RFC 4291 §2.5.5.2).
    """
    plain = _address(endpoint[0])
    mapped = plain if plain.version == 6 else ip_address(b"\0" * 10 + b"\xff\xff" + plain.packed)
    return _spell(plain.packed, endpoint[1]), _spell(mapped.packed, endpoint[1])


def _address(text: str) -> IPv4Address | IPv6Address:
    found = ip_address(text.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found


def _spell(packed: bytes, port: int) -> str:
    words = [packed[at : at + 4] for at in range(0, len(packed), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{port:04X}"


def _process_of(inode: int) -> int | None:
    """The process that holds the socket; only root sees those of others."""
    target = f"socket:[{inode}]"
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                for descriptor in (process / "fd").iterdir():
                    with suppress(OSError):
                        if str(descriptor.readlink()) == target:
                            return int(process.name)
    return None


def _name(uid: int) -> str:
    try:
        import pwd
    except ImportError:  # Windows
        return "unknown"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "without a name"
