"""Translates English texts into the language of a page: refusals, and the texts of tools.

The English text is the key in `server/portal/sentences.de.toml`. A refusal arrives with its values filled in: the text
around them identifies them, and a value that is itself a key is translated, too. Missing texts stay in English.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from server.http import page_texts

_PLACE: Final = re.compile(r"\{\d+\}")
_LONGEST: Final = 1200  # characters: none of our sentences is longer
_Form = tuple[re.Pattern[str], str]


def translate(english: str) -> str:
    """Translate a title, or a sentence without values."""
    return _texts(page_texts.language()).get(english, english)


def translate_filled(english: str) -> str:
    """Translate a refusal whose values are filled in."""
    known = _texts(page_texts.language()).get(english)
    if known is not None or len(english) > _LONGEST:
        return known or english
    for form, there in _forms(page_texts.language()):
        found = form.fullmatch(english)
        if found is not None:
            return there.format(*map(translate_filled, found.groups()))
    return english


def with_language(english: str) -> tuple[str, str]:
    """A translated text, and its language if it isn't the page's, for texts that exist only in English."""
    there = translate_filled(english)
    is_english = there == english and page_texts.language() != page_texts.LANGUAGES[0]
    return there, page_texts.LANGUAGES[0] if is_english else ""


@cache
def _texts(language: str) -> Mapping[str, str]:
    """All texts, keyed by the English text; none for English."""
    if language == page_texts.LANGUAGES[0]:
        return {}
    read = page_texts.read(f"sentences.{language}.toml")
    return {english: there for section in read.values() for english, there in section.items()}


@cache
def _forms(language: str) -> Sequence[_Form]:
    """The texts with values, longest fixed text first."""
    forms = [(one, there) for one, there in _texts(language).items() if _PLACE.search(one)]
    forms.sort(key=lambda form: -len(_PLACE.sub("", form[0])))
    return [(re.compile("(.+?)".join(map(re.escape, _PLACE.split(one))), re.DOTALL), there) for one, there in forms]
