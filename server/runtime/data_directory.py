"""The data directory: created closed to other users, or refused in one line. Each module owns its own files in it.

Separate from `server.app`, so that a command that only writes a file does not load the whole server.
"""

from __future__ import annotations

from pathlib import Path

from vault.refusals import StorageUnavailable


def prepare_data_directory(data: Path) -> Path:
    """Create the data directory, closed to other users, and return its absolute path. Raises StorageUnavailable."""
    data = data.expanduser().absolute()
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        if data.stat().st_mode & 0o777 != 0o700:
            data.chmod(0o700)
    except OSError as error:
        raise StorageUnavailable(
            f"can't use the data directory {data}: {error.strerror}. Make this user its owner, with write permission",
            detail=str(error),
        ) from error
    return data
