"""Copies of checkpoints in a folder, or in an S3-compatible bucket with object lock.

A checkpoint of SIZE leaves is `ORIGIN/SIZE.checkpoint`, its time stamp `ORIGIN/SIZE.tsr`. Nothing is ever overwritten.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol, TypeVar, cast

from server.checkpoint_settings import CheckpointSettings
from vault.audit.log import SignedCheckpoint

T = TypeVar("T")

DIGITS: Final = 16
NOTE: Final = ".checkpoint"
STAMP: Final = ".tsr"
_PATIENCE: Final = 10  # seconds for connecting, and for each answer
_NEEDS: Final = "pip install 'mcp-token-vault[checkpoints]'"


class DestinationFailed(Exception):
    """A destination failed; the message explains what to check."""


class Copies(Protocol):
    """A destination that keeps every checkpoint. Its methods raise DestinationFailed."""

    name: str

    async def check(self) -> str:
        """Test it without leaving anything behind; returns a sentence with the result."""
        ...

    async def keep(self, issued: SignedCheckpoint) -> None:
        """Store a checkpoint and its time stamp, unless they are already there."""
        ...

    async def list_origins(self, place: str) -> list[str]:
        """The names of the logs there that begin with `place`, in order."""
        ...

    async def list_sizes(self, origin: str) -> list[int]:
        """The sizes of the checkpoints of a log there, in order."""
        ...

    async def list_replaced(self, origin: str) -> list[str]:
        """The names of a log's files that someone deleted or overwrote, although the first version is kept."""
        ...

    async def load(self, origin: str, size: int) -> tuple[str, bytes | None]:
        """A checkpoint and its time stamp."""
        ...


def file_name(size: int, kind: str) -> str:
    """The name of a checkpoint's file."""
    return f"{size:0{DIGITS}}{kind}"


def sizes_of(names: Iterable[str]) -> list[int]:
    """The sizes of the checkpoints among these file names, in order."""
    found = (name.removesuffix(NOTE) for name in names if name.endswith(NOTE))
    return sorted(int(one) for one in found if one.isascii() and one.isdigit())


def files_of(issued: SignedCheckpoint, there: str | None, *, where: str) -> Mapping[str, bytes]:
    """The files to store for a checkpoint, by name. Its time stamp comes first, so that an existing checkpoint is
    complete.

    `there` is the existing checkpoint of that size, whose exact bytes a time stamp covers. Raises DestinationFailed if
    it covers other events.
    """
    stamp = {} if issued.stamp is None else {file_name(issued.head.size, STAMP): issued.stamp}
    if there is None:
        return stamp | {file_name(issued.head.size, NOTE): str(issued.note).encode()}
    if there.partition("\n\n")[0] != str(issued.note).partition("\n\n")[0]:
        size = issued.head.size
        raise DestinationFailed(f"{where} has a different checkpoint of {size} events: run token-vault activity verify")
    return stamp if there == str(issued.note) else {}


class FolderCopies:
    """Copies in a folder, preferably on another host's volume."""

    def __init__(self, path: Path) -> None:
        self._path = path.expanduser()
        self.name = f"folder {self._path}"

    async def check(self) -> str:
        """Write and remove a file."""
        await asyncio.to_thread(self._try)
        return "can be written"

    def _try(self) -> None:
        tried = self._path / f".{secrets.token_hex(8)}"
        try:
            tried.write_bytes(b"")
            tried.unlink()
        except OSError as error:
            raise _failure_of(self._path, error) from error

    async def keep(self, issued: SignedCheckpoint) -> None:
        """Write the files; each is complete or absent."""
        await asyncio.to_thread(self._keep, issued)

    def _keep(self, issued: SignedCheckpoint) -> None:
        folder = self._path / issued.head.origin
        try:
            if not self._path.is_dir():
                raise DestinationFailed(f"{self._path} isn't a folder: create it, or mount it")
            folder.mkdir(parents=True, exist_ok=True)
            note = folder / file_name(issued.head.size, NOTE)
            there = note.read_text(encoding="utf-8", errors="replace") if note.exists() else None
            for name, content in files_of(issued, there, where=str(folder)).items():
                if not (folder / name).exists():
                    _write(folder, name, content)
        except OSError as error:
            raise _failure_of(folder, error) from error

    async def list_origins(self, place: str) -> list[str]:
        """The logs that have a folder with a checkpoint."""

        def read() -> list[str]:
            try:
                return sorted({f"{place}/{one.parent.name}" for one in (self._path / place).glob(f"*/*{NOTE}")})
            except OSError as error:
                raise _failure_of(self._path, error) from error

        return await asyncio.to_thread(read)

    async def list_replaced(self, origin: str) -> list[str]:
        """Always empty, since a folder keeps no versions."""
        return []

    async def list_sizes(self, origin: str) -> list[int]:
        """The sizes in the log's folder; empty if there is none."""

        def read() -> list[int]:
            try:
                folder = self._path / origin
                return sizes_of(one.name for one in folder.iterdir()) if folder.is_dir() else []
            except OSError as error:
                raise _failure_of(self._path, error) from error

        return await asyncio.to_thread(read)

    async def load(self, origin: str, size: int) -> tuple[str, bytes | None]:
        """Read the files."""

        def read() -> tuple[str, bytes | None]:
            folder = self._path / origin
            try:
                stamp = folder / file_name(size, STAMP)
                note = (folder / file_name(size, NOTE)).read_text(encoding="utf-8", errors="replace")
                return note, stamp.read_bytes() if stamp.exists() else None
            except OSError as error:
                raise _failure_of(folder, error) from error

        return await asyncio.to_thread(read)


def _write(folder: Path, name: str, content: bytes) -> None:
    unseen = folder / f".{name}.{secrets.token_hex(4)}"
    try:
        with unseen.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unseen.replace(folder / name)
    finally:
        with suppress(OSError):
            unseen.unlink(missing_ok=True)


def _failure_of(where: Path, error: OSError) -> DestinationFailed:
    return DestinationFailed(f"{where} can't be used: {error.strerror or error}")


class _Body(Protocol):
    def read(self) -> bytes: ...


class _S3(Protocol):
    """The part of boto3's client that is used here."""

    def put_object(self, **options: object) -> Mapping[str, object]: ...
    def get_object(self, **options: object) -> Mapping[str, _Body]: ...
    def list_object_versions(self, **options: object) -> Mapping[str, object]: ...
    def get_object_lock_configuration(self, **options: object) -> Mapping[str, object]: ...


class BucketCopies:
    """Copies in a bucket, each locked for `bucket_days`. boto3 finds credentials as usual."""

    def __init__(self, bucket: str, settings: CheckpointSettings) -> None:
        self._bucket = bucket
        self._settings = settings
        self._client: _S3 | None = None
        self.name = f"bucket {bucket}"

    async def check(self) -> str:
        """Check whether the bucket has object lock."""
        found = await self._ask(lambda s3: s3.get_object_lock_configuration(Bucket=self._bucket))
        rule = found.get("ObjectLockConfiguration")
        if not isinstance(rule, dict) or rule.get("ObjectLockEnabled") != "Enabled":  # pyright: ignore[reportUnknownMemberType] -- boto3's
            raise DestinationFailed(f"bucket {self._bucket} has no object lock: create one that has it")
        return f"has object lock; checkpoints stay {self._settings.bucket_days} days ({self._settings.bucket_lock})"

    async def keep(self, issued: SignedCheckpoint) -> None:
        """Put the objects, unless they already exist."""
        until = datetime.fromtimestamp(issued.created_at, UTC) + timedelta(days=self._settings.bucket_days)
        folder = self._folder(issued.head.origin)
        there = await self._get(folder + file_name(issued.head.size, NOTE))
        text = None if there is None else there.decode(errors="replace")
        for name, content in files_of(issued, text, where=self.name).items():
            await self._put(folder + name, content, until=until)

    async def _put(self, key: str, content: bytes, *, until: datetime) -> None:
        try:
            await self._ask(
                lambda s3: s3.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=content,
                    ContentType="text/plain; charset=utf-8" if key.endswith(NOTE) else "application/timestamp-reply",
                    ChecksumAlgorithm="SHA256",
                    ObjectLockMode=self._settings.bucket_lock.upper(),
                    ObjectLockRetainUntilDate=until,
                    IfNoneMatch="*",
                )
            )
        except _AlreadyThere:
            return

    async def list_origins(self, place: str) -> list[str]:
        """The logs with a prefix in the bucket, even if everything there was deleted."""
        under = self._folder(place)
        found = [one async for page in self._list(under, Delimiter="/") for one in _rows(page, "CommonPrefixes")]
        return sorted(f"{place}/{str(one['Prefix']).removeprefix(under).strip('/')}" for one in found)

    async def list_sizes(self, origin: str) -> list[int]:
        """The sizes under the log's prefix, even if the objects were deleted since."""
        folder = self._folder(origin)
        versions = [one async for page in self._list(folder) for one in _rows(page, "Versions")]
        return sizes_of({str(one["Key"]).removeprefix(folder) for one in versions})

    async def list_replaced(self, origin: str) -> list[str]:
        """The files with a delete marker or more than one version."""
        folder = self._folder(origin)
        versions, deleted = list[str](), set[str]()
        async for page in self._list(folder):
            versions += [str(one["Key"]).removeprefix(folder) for one in _rows(page, "Versions")]
            deleted |= {str(one["Key"]).removeprefix(folder) for one in _rows(page, "DeleteMarkers")}
        return sorted(deleted | {name for name, count in Counter(versions).items() if count > 1})

    async def _list(self, prefix: str, **options: object) -> AsyncGenerator[Mapping[str, object]]:
        more: dict[str, object] = {}
        while True:
            page = await self._ask(
                lambda s3, at=more: s3.list_object_versions(Bucket=self._bucket, Prefix=prefix, **options, **at)
            )
            yield page
            if not page.get("IsTruncated"):
                return
            more = {"KeyMarker": page["NextKeyMarker"]}
            if page.get("NextVersionIdMarker"):
                more["VersionIdMarker"] = page["NextVersionIdMarker"]

    async def load(self, origin: str, size: int) -> tuple[str, bytes | None]:
        """Get the objects."""
        folder = self._folder(origin)
        note = await self._get(folder + file_name(size, NOTE))
        if note is None:
            raise DestinationFailed(f"bucket {self._bucket} no longer has the checkpoint of {size} events")
        return note.decode(errors="replace"), await self._get(folder + file_name(size, STAMP))

    async def _get(self, key: str) -> bytes | None:
        """The first version, since object lock doesn't prevent later versions."""
        found = [one async for page in self._list(key) for one in _rows(page, "Versions") if one["Key"] == key]
        if not found:
            return None
        version = found[-1]["VersionId"]  # versions are listed newest first
        return await self._ask(lambda s3: s3.get_object(Bucket=self._bucket, Key=key, VersionId=version)["Body"].read())

    def _folder(self, origin: str) -> str:
        return f"{self._settings.bucket_prefix}{origin}/"

    async def _ask(self, question: Callable[[_S3], T]) -> T:
        """Call boto3 in a thread. Raises DestinationFailed."""
        errors = load("botocore.exceptions")
        try:
            return await asyncio.to_thread(lambda: question(self._open()))
        except errors.ClientError as error:
            code = str(error.response["Error"]["Code"])
            if code in {"PreconditionFailed", "412"}:
                raise _AlreadyThere from error
            raise DestinationFailed(f"bucket {self._bucket}: {code}; check its name and permissions") from error
        except errors.BotoCoreError as error:
            raise DestinationFailed(f"bucket {self._bucket} can't be reached: {type(error).__name__}") from error

    def _open(self) -> _S3:
        if self._client is None:
            config = load("botocore.config").Config(
                connect_timeout=_PATIENCE, read_timeout=_PATIENCE, retries={"max_attempts": 3}
            )
            made: _S3 = load("boto3").client(
                "s3",
                region_name=self._settings.bucket_region,
                endpoint_url=self._settings.bucket_endpoint,
                config=config,
            )
            self._client = made
        return self._client


class _AlreadyThere(Exception):
    """The object exists."""


def _rows(page: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    return cast("list[Mapping[str, object]]", page.get(name, []))


def load(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise DestinationFailed(f"checkpoints.bucket needs boto3: {_NEEDS}") from error
