"""Why a file can't be read or written, for messages that name the file. Pure."""

from __future__ import annotations


def reason_of(error: OSError | ValueError) -> str:
    """The reason without the file's name: `Permission denied`, or that the file isn't text."""
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return "it isn't UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
