"""The tools that are written in Python and ship with the program."""

from __future__ import annotations

from providers.tools.spec import ToolSpec


def builtin_tools() -> tuple[ToolSpec, ...]:
    """All built-in tools, in the fixed order in which clients see them: module by module, in source order."""
    from providers.tools import facebook, gmail, google_calendar, google_drive, google_free_time, slack

    modules = (slack, google_calendar, google_free_time, gmail, google_drive, facebook)
    return tuple(found for module in modules for found in vars(module).values() if isinstance(found, ToolSpec))
