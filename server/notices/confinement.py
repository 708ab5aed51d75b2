"""Confine this process to requests to allowed addresses: no programs, no other sockets, no files except packages.

For a library that does its own HTTP (Apprise), with an address that any account holder may have entered. Python's audit
hooks (PEP 578) see each connection after name resolution, so redirects and changing names are checked, too. The hooks
restrict an unmodified library; they wouldn't stop an attacker's code, which isn't loaded here.
"""

from __future__ import annotations

import os
import socket
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from providers.outbound.addresses import AddressPolicy, address_problem

MEMORY: Final = 1024 * 1024 * 1024  # bytes
SECONDS: Final = 20  # of CPU
_PASSED: Final = frozenset(
    {"os.listdir", "os.scandir", "os.putenv", "os.unsetenv", "socket.getaddrinfo", "socket.gethostbyname"}
    | {"socket.gethostname", "socket.getservbyname"}
)
# The interpreter itself, which `ctypes` loads, and the socket with which urllib3 detects IPv6.
_PASSED_WITH: Final = (("ctypes.dlopen", (None,)), ("socket.bind", (("::1", 0),)))
_REFUSED: Final = (
    *("os.", "subprocess.", "socket.", "shutil.", "tempfile.", "pty.", "ctypes.", "fcntl.", "mmap.", "syslog."),
    *("webbrowser.", "sqlite3.", "ftplib.", "smtplib.", "imaplib.", "poplib.", "telnetlib.", "nntplib.", "signal."),
    *("msvcrt.", "winreg.", "_winapi.", "glob.", "resource.", "cpython."),
)
_READ_BY_SYSTEM: Final = (
    *("/etc/ssl/certs/", "/etc/ssl/cert.pem", "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs/", "/etc/pki/tls/cert.pem"),
    *("/etc/pki/tls/openssl.cnf", "/etc/pki/ca-trust/", "/usr/lib/ssl/", "/usr/share/ca-certificates/"),
    "/etc/mime.types",
)
_OWN_PATHS: Final = ("stdlib", "platstdlib", "purelib", "platlib")


class OutsideConfinement(PermissionError):
    """The library tried something that it isn't allowed to do."""


def confine(policy: AddressPolicy) -> list[str]:
    """Confine the process permanently; the returned list collects refused actions."""
    _limit()
    refused: list[str] = []
    folders = _own_folders()

    def check(event: str, arguments: tuple[object, ...]) -> None:
        if (problem := _problem(event, arguments, policy, folders)) is not None:
            refused.append(problem)
            raise OutsideConfinement(problem)

    sys.addaudithook(check)
    return refused


def _limit() -> None:
    """Set limits of the operating system, if it supports them."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _own_folders() -> Sequence[str]:
    """Where the interpreter and the packages are."""
    packages = Path(__file__).resolve().parents[2]
    installed = sysconfig.get_paths()
    paths = {*(installed[name] for name in _OWN_PATHS), str(packages / "providers")}
    paths |= {path for path in sys.path if path.endswith("-packages")}
    return tuple(str(Path(path).resolve()) + os.sep for path in paths if path)


def _problem(event: str, arguments: tuple[object, ...], policy: AddressPolicy, folders: Sequence[str]) -> str | None:
    """Why this action isn't allowed; None if it is."""
    if event == "open":
        return _file_problem(arguments, folders)
    if event == "socket.connect":
        return _connection_problem(arguments, policy)
    if event == "socket.__new__":
        return None if arguments[1] in {socket.AF_INET, socket.AF_INET6} else "another kind of socket"
    if event in _PASSED or not event.startswith(_REFUSED) or (event, arguments[-1:]) in _PASSED_WITH:
        return None
    return event


def _connection_problem(arguments: tuple[object, ...], policy: AddressPolicy) -> str | None:
    address = arguments[1]
    if not isinstance(address, tuple) or not address:
        return "address: no IP address"
    problem = address_problem(str(address[0]), policy)  # pyright: ignore[reportUnknownArgumentType] -- of any socket
    return None if problem is None else f"address: {problem}"


def _file_problem(arguments: tuple[object, ...], folders: Sequence[str]) -> str | None:
    path, _, flags = arguments
    if isinstance(path, int):
        return "open"  # a descriptor that something else had opened
    if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
        return "open: to write"
    named = os.path.realpath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else ""  # pyright: ignore[reportUnknownArgumentType]
    return None if named.startswith((*folders, *_READ_BY_SYSTEM)) else "open: another file"
