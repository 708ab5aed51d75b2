"""The catalog of the pages' texts, by page and name: `server/portal/texts.toml`, read once.

A translation is another file with the same names. What a page shows of people, agents and providers comes in as
`values` and is escaped; the markup in the catalog is ours.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Final

from markupsafe import Markup

CATALOGUE: Final[Mapping[str, Mapping[str, str]]] = tomllib.loads(
    resources.files("server.portal").joinpath("texts.toml").read_text("utf-8")
)


def section(page: str) -> Mapping[str, str]:
    """The texts of a page, for those that are chosen by a value. Raises KeyError for a missing page."""
    return CATALOGUE[page]


def text(name: str, /, **values: object) -> str:
    """The text `page.name` with its values, for a title or a message. Raises KeyError for a missing name."""
    page, _, key = name.partition(".")
    return CATALOGUE[page][key].format(**values)


def markup(name: str, /, **values: object) -> Markup:
    """The text `page.name` for a template, its values escaped. Raises KeyError for a missing name."""
    page, _, key = name.partition(".")
    return Markup(CATALOGUE[page][key]).format(**values)  # noqa: S704 -- the catalogue is ours
