"""The catalog of the pages' texts, by page and name: `server/portal/texts.toml`, and its translation.

A translation is a file with the same names; missing texts are in English. Names of people, agents, and providers are
passed as `values` and escaped; the markup in the catalog is ours.
"""

from __future__ import annotations

import json
import tomllib
import unicodedata
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import resources
from typing import Final

from markupsafe import Markup

Catalogue = Mapping[str, Mapping[str, str]]
LANGUAGES: Final = ("en", "de")  # the first fills in what a translation lacks
_KEPT_CONTROLS: Final = "\n\t"
_MOST_RANGES: Final = 20  # languages to read from Accept-Language
_UNSEEN: Final = frozenset({"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"})
_current: ContextVar[str] = ContextVar("language", default=LANGUAGES[0])


def read(name: str) -> Catalogue:
    """A file of texts, without changes."""
    return tomllib.loads(resources.files("server.portal").joinpath(name).read_text("utf-8"))


@cache
def english() -> Catalogue:
    """All texts in English, read when the first text is needed, since most processes show none."""
    return read("texts.toml")


def complete(own: Catalogue) -> Catalogue:
    """A translation, with English texts for what it lacks."""
    return {page: {**texts, **own.get(page, {})} for page, texts in english().items()}


@cache
def _catalogue(language: str) -> Catalogue:
    return english() if language == LANGUAGES[0] else complete(read(f"texts.{language}.toml"))


@contextmanager
def use_language(language: str) -> Generator[None]:
    """Use texts in this language while the block runs; English if the language isn't available."""
    token = _current.set(language if language in LANGUAGES else LANGUAGES[0])
    try:
        yield
    finally:
        _current.reset(token)


def language() -> str:
    """The current language of texts."""
    return _current.get()


def choose_language(accept_language: str, *, chosen: str = "") -> str:
    """The language that a person chose, or the one of ours that their browser prefers (RFC 9110 §12.5.4)."""
    if chosen in LANGUAGES:
        return chosen
    found: list[tuple[float, str]] = []
    for part in accept_language.split(",")[:_MOST_RANGES]:
        wanted, _, weight = part.partition(";q=")
        name = wanted.strip().partition("-")[0].lower()
        try:
            quality = float(weight or 1)
        except ValueError:
            continue
        if name in LANGUAGES and quality > 0:
            found.append((-quality, name))
    return min(found, key=lambda one: one[0])[1] if found else LANGUAGES[0]


def section(page: str) -> Mapping[str, str]:
    """The texts of a page, to look up by a value. Raises KeyError for a missing page."""
    return _catalogue(_current.get())[page]


def text(name: str, /, **values: object) -> str:
    """The text `page.name` with its values, for a title or a message. Raises KeyError for a missing name."""
    page, _, key = name.partition(".")
    return section(page)[key].format(**values)


def markup(name: str, /, **values: object) -> Markup:
    """The text `page.name` for a template, its values escaped. Raises KeyError for a missing name."""
    return _template(_current.get(), name).format(**values) if values else _plain(_current.get(), name)


@cache
def _template(language: str, name: str) -> Markup:
    page, _, key = name.partition(".")
    return Markup(_catalogue(language)[page][key])  # noqa: S704 -- the catalogue is ours


@cache
def _plain(language: str, name: str) -> Markup:
    """A text without values: pages ask for the same ones in each row."""
    return _template(language, name).format()


def visible(value: object) -> str:
    """An argument in a form that is safe to read: nothing hidden, and nothing that affects how the rest is displayed.

    Invisible characters (control, bidirectional, zero-width) are shown as their code points.
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    if text.isprintable():  # most are, and then none of these characters is among them
        return text
    return "".join(
        letter if letter in _KEPT_CONTROLS or unicodedata.category(letter) not in _UNSEEN else f"‹U+{ord(letter):04X}›"
        for letter in text
    )
