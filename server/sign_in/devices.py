"""Name a browser by its User-Agent, so that its person recognizes it. Uses only our own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# The first name that a User-Agent contains: newer browsers also name those that they descend from.
_BROWSERS: Final = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
)
_SYSTEMS: Final = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)
UNKNOWN_BROWSER: Final = "Unknown browser"
_LIMIT: Final = 1000  # characters of a header that are read


def describe_browser(user_agent: str) -> str:
    """A name such as `Firefox on Windows`, or `Unknown browser`."""
    browser, system = _first(_BROWSERS, user_agent[:_LIMIT]), _first(_SYSTEMS, user_agent[:_LIMIT])
    return f"{browser or UNKNOWN_BROWSER} on {system}" if system else browser or UNKNOWN_BROWSER


def _first(names: Sequence[tuple[str, str]], user_agent: str) -> str:
    return next((words for mark, words in names if mark in user_agent), "")
