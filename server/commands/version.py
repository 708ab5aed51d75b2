"""`version`: print the version of this release."""

from __future__ import annotations

from server.terminal.context import Setup


def version(setup: Setup) -> None:
    """Print the version."""
    from server.runtime.version import VERSION

    setup.show_one({"version": VERSION}, sentence=VERSION)
