"""The settings of one MCP server that the vault runs itself, in a sandbox."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, Field, field_validator

from providers.outbound.json_values import is_object
from server.provider_settings import Section

MOST_FILES: Final = 50_000  # and folders, in one writable folder
NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[0-9]{1,5})?")
_OURS: Final = frozenset({"https_proxy", "http_proxy", "all_proxy", "no_proxy", "home"})
# System folders with contents that no program needs: sockets, devices, everyone's files.
_CLOSED: Final = tuple(Path(one) for one in ("/proc", "/sys", "/dev", "/run", "/var/run"))
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 -- where tests and services may have folders of their own
_TOO_WIDE: Final = frozenset(
    Path("/", one) for one in ("", "boot", "etc", "home", "mnt", "root", "srv", "tmp", "var", "var/lib", "var/tmp")
)


class LocalServerSettings(Section):
    """An MCP server on this machine; add it to the vault with `token-vault mcp add NAME program:NAME`."""

    command: str = Field(min_length=1, max_length=1000, description="Program: an absolute path, or a name in /usr/bin")
    args: tuple[str, ...] = Field(
        default=(), max_length=100, description="Its arguments, as a list; they aren't passed through a shell"
    )
    providers: tuple[str, ...] = Field(
        default=(), max_length=20, description="Providers that it can call, with the caller's account"
    )
    hosts: tuple[str, ...] = Field(
        default=(),
        max_length=50,
        description="Other public hosts that it can reach, `host[:port]`, without a credential",
    )
    environment: Mapping[str, str] = Field(
        default_factory=dict[str, str], description="Additional environment variables. No secrets"
    )
    placeholders: tuple[str, ...] = Field(
        default=(), max_length=20, description="Variables that contain a placeholder instead of a token"
    )
    folders: tuple[Path, ...] = Field(default=(), max_length=20, description="Folders that it can read")
    writable: Path | None = Field(
        default=None, description="Folder that it can write; each person and agent gets a folder of their own there"
    )
    writable_mb: int = Field(
        default=1024,
        ge=1,
        le=1_048_576,
        description=f"Size limit of each folder in `writable`, in MiB. At this size, at {MOST_FILES:,} "
        "files, or with more than 100 levels of folders, a running call is aborted, and new ones are refused",
    )
    memory_mb: int = Field(
        default=512, ge=32, le=65_536, description="Memory limit of all its processes together, in MiB"
    )
    processes: int = Field(default=64, ge=1, le=4096, description="Maximum number of processes and threads")
    cpu_seconds: int = Field(default=600, ge=1, le=1_000_000, description="CPU time limit of each process, in seconds")
    idle_seconds: int = Field(default=300, ge=5, le=86_400, description="Seconds without a call until it is stopped")

    @field_validator("command")
    @classmethod
    def _is_program(cls, value: str) -> str:
        if "/" in value and not value.startswith("/"):
            raise ValueError("use an absolute path, or a name without a slash")
        if any(character.isspace() for character in value):
            raise ValueError("name the program only; its arguments go into `args`, one by one")
        return value

    @field_validator("args")
    @classmethod
    def _are_arguments(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any("\0" in one for one in value):
            raise ValueError("an argument can't contain a NUL character")
        return value

    @field_validator("hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            if _HOST.fullmatch(one) is None:
                raise ValueError(f"write {one!r} as host or host:port, in lowercase, without https://")
        return value

    @field_validator("environment")
    @classmethod
    def _are_variables(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for name, content in value.items():
            _check_variable(name)
            if "\0" in content:
                raise ValueError(f"{name} can't contain a NUL character")
        return value

    @field_validator("placeholders")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            _check_variable(name)
        return value

    @field_validator("folders")
    @classmethod
    def _are_folders(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        for one in value:
            _check_folder(one)
        return value

    @field_validator("writable")
    @classmethod
    def _is_folder(cls, value: Path | None) -> Path | None:
        if value is not None:
            _check_folder(value)
        return value

    @property
    def shown_folders(self) -> tuple[Path, ...]:
        """All folders of this machine that it can see, in whole or in part."""
        return self.folders if self.writable is None else (*self.folders, self.writable)


def _check_variable(name: str) -> None:
    if _VARIABLE.fullmatch(name) is None:
        raise ValueError(f"{name!r} isn't a valid variable name")
    if name.lower() in _OURS:
        raise ValueError(f"the vault sets {name}: leave it out")


def _check_folder(folder: Path) -> None:
    if not folder.is_absolute() or ".." in folder.parts:
        raise ValueError(f"write {folder} as an absolute path")
    is_closed = any(folder == one or one in folder.parents for one in _CLOSED) and _MEMORY not in folder.parents
    if is_closed or folder in _TOO_WIDE:
        raise ValueError(f"{folder} contains more than a program should see: use a dedicated folder")


def overlap_with(data: Path, servers: Mapping[str, LocalServerSettings]) -> tuple[str, Path] | None:
    """The first server that would see part of the vault's data directory, and the folder that shows it."""
    for name, one in servers.items():
        for folder in one.shown_folders:
            if _overlap(folder.resolve(), data.resolve()):
                return name, folder
    return None


def shown_file(files: Iterable[Path], servers: Mapping[str, LocalServerSettings]) -> tuple[str, Path, Path] | None:
    """The first server that would see one of these files, the folder that shows it, and the file."""
    for file in files:
        for name, one in servers.items():
            for folder in one.shown_folders:
                if file.is_relative_to(folder.resolve()):
                    return name, folder, file
    return None


def shared_writable(servers: Mapping[str, LocalServerSettings]) -> tuple[str, Path] | None:
    """The first server that would see what other people or servers write, and the folder that shows it."""
    for owner in servers.values():
        if owner.writable is None:
            continue
        written = owner.writable.resolve()
        for name, one in servers.items():
            for folder in one.folders:
                if _overlap(folder.resolve(), written):
                    return name, folder
            own = None if one.writable is None else one.writable.resolve()
            if one.writable is not None and own is not None and own != written and _overlap(own, written):
                return name, one.writable
    return None


def secret_files(settings: object) -> Iterator[Path]:
    """The files that settings read secrets from, with resolved paths."""
    if isinstance(settings, BaseModel):
        for name in type(settings).model_fields:
            value: object = getattr(settings, name)
            if isinstance(value, Path):
                if name.split("_")[-1] == "file" and not name.endswith("ca_file"):
                    yield value.expanduser().resolve()
            else:
                yield from secret_files(value)
    elif is_object(settings):
        for value in settings.values():
            yield from secret_files(value)


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)
