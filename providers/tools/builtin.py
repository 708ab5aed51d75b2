"""The tools that ship with the program."""

from __future__ import annotations

from providers.tools.spec import ToolSpec


def builtin_tools() -> tuple[ToolSpec, ...]:
    """Every provider tool, in the one fixed order in which clients see them."""
    from providers.tools import facebook, gmail, google_calendar, google_drive, google_free_time, slack

    return (
        *slack.TOOLS,
        *google_calendar.TOOLS,
        *google_free_time.TOOLS,
        *gmail.TOOLS,
        *google_drive.TOOLS,
        *facebook.TOOLS,
    )
