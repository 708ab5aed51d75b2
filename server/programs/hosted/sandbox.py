"""What a program sees of this machine: bubblewrap's arguments, and why this machine can't make a sandbox.

A program gets its own namespaces, no network except its own loopback, `/usr` and the operator's folders read-only,
small in-memory folders for everything else, no capabilities, and a system call filter.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from server.local_server_settings import LocalServerSettings
from server.programs.hosted.syscalls import call_filter

HOME: Final = Path("/home/program")
SHARED: Final = Path("/run/token-vault")  # files from the vault, for the program to read
PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_WRAPPER: Final = "bwrap"
_USER: Final = "1000"
_TEMPORARY: Final = 64 * 1024 * 1024  # bytes of each in-memory folder
_PATIENCE: Final = 20.0  # seconds for a trial
_LINKS: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_SYSTEM: Final = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives", "/etc/ssl/openssl.cnf", "/etc/mime.types")
_INSTALL: Final = "install bubblewrap (on Debian and Ubuntu: apt-get install bubblewrap), version 0.8 or newer"
_CHILDREN: Final = Path("/proc/thread-self/children")
_KERNEL: Final = "use a kernel with CONFIG_PROC_CHILDREN"
_FILTER: Final = "use a kernel with CONFIG_SECCOMP_FILTER"
_UNFILTERED: Final = 97  # exit code of the trial
# Only the filter refuses PTRACE_TRACEME.
_TRIAL: Final = f"""
import ctypes
raise SystemExit({_UNFILTERED} if ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0 else 0)
"""
_ALLOW: Final = (
    "allow unprivileged user namespaces: an AppArmor profile for bwrap on Ubuntu, "
    "kernel.unprivileged_userns_clone=1 on older Debian, deploy/systemd/local-servers.conf for the systemd unit, "
    "--security-opt seccomp=unconfined --security-opt systempaths=unconfined for a container"
)


@dataclass(frozen=True, slots=True)
class SandboxProblem:
    """Why no program can be run in a sandbox here, and what to do."""

    sentence: str
    fix: str

    def __str__(self) -> str:
        return f"{self.sentence}: {self.fix}"


@dataclass(frozen=True, slots=True)
class Room:
    """The folders that a program sees besides the system's. `writable`: its path in the sandbox, and its real path."""

    shared: Path
    folders: Sequence[Path] = ()
    writable: tuple[Path, Path] | None = None
    hidden: Sequence[Path] = ()  # never shown, even inside a folder that is


def interpreter() -> Path:
    """The Python that runs `inside`, without a virtual environment around it."""
    version = sys.version_info
    return Path(sys.base_prefix) / "bin" / f"python{version.major}.{version.minor}"


def find_problem() -> SandboxProblem | None:
    """Try to run the interpreter in the sandbox; blocks for a moment."""
    if sys.platform != "linux":
        return SandboxProblem("Programs run in a sandbox on Linux only", "run the vault on Linux")
    if not _CHILDREN.exists():
        return SandboxProblem("The kernel doesn't list a process's children, so the vault can't limit them", _KERNEL)
    if shutil.which(_WRAPPER) is None:
        return SandboxProblem("bubblewrap isn't installed", _INSTALL)
    try:
        tried = _try_sandbox()
    except subprocess.TimeoutExpired:  # bubblewrap waits forever if a system call that it needs is refused
        return SandboxProblem(f"bubblewrap didn't create a sandbox within {_PATIENCE:.0f} s", _ALLOW)
    except OSError as error:
        return SandboxProblem(f"bubblewrap can't be run ({error})", _INSTALL)
    if tried.returncode == 0:
        return None
    if tried.returncode == _UNFILTERED:
        return SandboxProblem("The system call filter has no effect here", _FILTER)
    said = tried.stderr.decode(errors="replace").strip().splitlines()
    last = (said[-1] if said else f"exit code {tried.returncode}")[:200]
    fix = _INSTALL if "nknown option" in last else _ALLOW
    return SandboxProblem(f"bubblewrap can't create a sandbox ({last})", fix)


def _try_sandbox() -> subprocess.CompletedProcess[bytes]:
    """Run the interpreter in a sandbox; if there is a filter, try a system call that it refuses."""
    calls = call_filter()
    with ExitStack() as stack:
        filter_fd = None if calls is None else stack.enter_context(in_memory(calls))
        program = "" if filter_fd is None else _TRIAL
        inside = (str(interpreter()), "-I", "-S", "-c", program)
        return subprocess.run(  # noqa: S603 -- our own
            [wrapper(), *options(Room(Path("/usr/share")), filter_fd=filter_fd), "--", *inside],
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
            env={"PATH": PATH},
            pass_fds=[] if filter_fd is None else [filter_fd],
        )


@contextmanager
def in_memory(content: bytes) -> Generator[int]:
    """The descriptor of an in-memory file with this content, for bubblewrap to read."""
    with os.fdopen(os.memfd_create("sandbox"), "wb+", buffering=0) as file:
        file.write(content)
        file.seek(0)
        yield file.fileno()


def setting_problem(one: LocalServerSettings) -> SandboxProblem | None:
    """Why this machine can't run a declared program; None if it can."""
    for folder in one.shown_folders:
        if not folder.is_dir():
            return SandboxProblem(f"{folder} isn't a folder", "create it, or correct `folders` or `writable`")
    if one.writable is not None and not os.access(one.writable, os.W_OK | os.X_OK):
        return SandboxProblem(
            f"{one.writable} isn't writable",
            "give this user write access; for the systemd unit, add ReadWritePaths=",
        )
    if not one.command.startswith("/"):
        if shutil.which(one.command, path=PATH) is None:
            return SandboxProblem(f"{one.command} isn't in {PATH}", "install it there, or set its absolute path")
        return None
    command = Path(one.command)
    if not os.access(command, os.X_OK) or command.is_dir():
        return SandboxProblem(f"{command} isn't a program that this user can run", "correct `command`")
    roots = [Path("/usr"), *(Path("/", name) for name in _LINKS), Path(sys.base_prefix), *one.shown_folders]
    if not any(place.is_relative_to(root) for root in roots for place in (command, command.resolve())):
        return SandboxProblem(f"{command} isn't visible in the sandbox", "add its folder to `folders`")
    return None


def wrapper() -> str:
    """The path of bubblewrap."""
    return shutil.which(_WRAPPER) or _WRAPPER


def options(room: Room, *, filter_fd: int | None = None) -> Iterator[str]:
    """bubblewrap's options; `filter_fd`: the file with the system call filter."""
    yield from ("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session")
    yield from ("--cap-drop", "ALL", "--uid", _USER, "--gid", _USER, "--hostname", "sandbox")
    yield from ("--ro-bind", "/usr", "/usr")
    for name in _LINKS:
        place = Path("/", name)
        if place.is_symlink():
            yield from ("--symlink", str(place.readlink()), str(place))
        elif place.is_dir():
            yield from ("--ro-bind", str(place), str(place))
    for file in _SYSTEM:
        yield from ("--ro-bind-try", file, file)
    yield from ("--proc", "/proc", "--dev", "/dev", "--dir", "/run", "--dir", "/var")
    for folder in ("/tmp", "/dev/shm", str(HOME)):  # noqa: S108 -- the sandbox's own
        yield from ("--size", str(_TEMPORARY), "--tmpfs", folder)
    prefix = Path(sys.base_prefix).resolve()
    if not prefix.is_relative_to("/usr"):
        yield from ("--ro-bind", str(prefix), str(prefix))
        if (named := Path(sys.base_prefix)) != prefix:
            yield from ("--ro-bind", str(prefix), str(named))
    for folder in room.folders:
        yield from ("--ro-bind", str(folder), str(folder))
    if room.writable is not None:
        shown, real = room.writable
        yield from ("--bind", str(real), str(shown))
    for place in room.hidden:
        if _is_shown(place, room) and place.is_dir():
            yield from ("--tmpfs", str(place), "--remount-ro", str(place))
        elif _is_shown(place, room) and place.exists():
            yield from ("--ro-bind", os.devnull, str(place))
    for name in ("passwd", "group", "hosts"):
        if (room.shared / name).is_file():
            yield from ("--ro-bind", str(room.shared / name), f"/etc/{name}")
    yield from ("--ro-bind", str(room.shared), str(SHARED), "--remount-ro", "/dev")
    yield from ("--remount-ro", "/")
    if filter_fd is not None:
        yield from ("--seccomp", str(filter_fd))


def _is_shown(place: Path, room: Room) -> bool:
    system = [Path("/usr"), *(Path("/", name) for name in _LINKS), Path(sys.base_prefix)]
    roots = [one.resolve() for one in (*system, *room.folders)]
    return any(place.is_relative_to(one) for one in roots)


def base_environment() -> Mapping[str, str]:
    """The base environment of a program, before the proxy's and the operator's variables."""
    home = str(HOME)
    return {
        "PATH": PATH,
        "HOME": home,
        "USER": "program",
        "LOGNAME": "program",
        "TMPDIR": "/tmp",  # noqa: S108 -- the sandbox's own
        "LANG": "C.UTF-8",
        "XDG_CONFIG_HOME": f"{home}/.config",
        "XDG_CACHE_HOME": f"{home}/.cache",
    }


def write_names(shared: Path) -> None:
    """Write the few user, group, and host names that programs look up."""
    lines = {
        "passwd": f"program:x:{_USER}:{_USER}::{HOME}:/usr/sbin/nologin\n",
        "group": f"program:x:{_USER}:\n",
        "hosts": "127.0.0.1 localhost\n",
    }
    for name, text in lines.items():
        (shared / name).write_text(text, encoding="utf-8")
