"""A tool call as shown to the person who is asked about it, based on the tool's declaration of its arguments.

Everything here was written by the agent, or by someone at the provider: each value is shown whole or visibly cut, and
invisible characters as code points. A name is shown next to its ID, so that an ID can't pass for a name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from providers.outbound.json_values import is_array
from providers.tools.presentation import DEFAULT, Presentation, addresses
from server.connecting.lookups import LookupResult
from server.http.page_texts import text
from server.http.translations import translate
from server.portal.texts import visible

_SHORT: Final = 80  # characters of a value within a sentence
_TALL: Final = 8  # number of lines above which a text scrolls
_LONG: Final = 400  # characters, likewise
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?")


@dataclass(frozen=True, slots=True)
class Value:
    """An argument's value on one line. With `is_id`, it identifies something that the provider calls `name`."""

    shown: str
    name: str = ""
    is_id: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the sentence, and the value that follows it."""

    words: str
    value: Value | None


@dataclass(frozen=True, slots=True)
class LongText:
    """A longer text, with its argument's name."""

    label: str
    value: str

    @property
    def is_long(self) -> bool:
        return len(self.value) > _LONG or self.value.count("\n") > _TALL


@dataclass(frozen=True, slots=True)
class ValueChange:
    """A value before and after."""

    label: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class AskedCall:
    """The parts of the page."""

    pieces: tuple[Piece, ...]
    people: tuple[tuple[str, tuple[str, ...]], ...]
    texts: tuple[LongText, ...]
    changes: tuple[ValueChange, ...]
    facts: tuple[tuple[str, Value], ...]
    exact: str


def asked_call(
    title: str, arguments: Mapping[str, object], presentation: Presentation = DEFAULT, known: LookupResult | None = None
) -> AskedCall:
    """The call with these arguments. `known`: names and current values that were looked up."""
    found = known or LookupResult()
    presentation = presentation.model_copy(update={"sentence": translate(presentation.sentence)})
    given = {name: value for name, value in arguments.items() if value is not None and value != []}
    ids = {name for one in presentation.lookups for name in one.names}
    values = {name: _value(value, name=found.names.get(name, ""), is_id=name in ids) for name, value in given.items()}
    pieces = tuple(_pieces(title, presentation, values))
    said = {one.value.shown for one in pieces if one.value}
    people = {name for name, value in given.items() if presentation.is_people(name, value)}
    changed = {name for name in given if name in found.before}
    texts = {name for name, value in given.items() if presentation.is_text(name, value)} - people - changed
    in_sentence = {name for _, name in presentation.parts() if name in values and values[name].shown in said}
    whole = {name for name in in_sentence if _line(given[name]) == values[name].shown}
    rest = [name for name in given if name not in people | changed | texts | whole]
    cut = {name for name in rest if values[name].shown.endswith("…")}
    return AskedCall(
        pieces=pieces,
        people=tuple((_label(name), tuple(visible(one) for one in addresses(given[name]))) for name in sorted(people)),
        texts=tuple(LongText(_label(name), visible(given[name])) for name in given if name in texts | cut),
        changes=tuple(
            ValueChange(_label(name), _moment(visible(found.before[name])), _moment(visible(given[name])))
            for name in given
            if name in changed
        ),
        facts=tuple((_label(name), values[name]) for name in rest if name not in cut),
        exact=visible(json.dumps(dict(arguments), ensure_ascii=False, indent=2)),
    )


def is_exact(call: AskedCall, arguments: Mapping[str, object], presentation: Presentation = DEFAULT) -> bool:
    """Whether the parts show everything that `exact` contains: no name is cut, and no value is rewritten."""
    values = [*(one.value for one in call.pieces), *(value for _, value in call.facts)]
    return all(one is None or not one.name.endswith("…") for one in values) and all(
        _is_as_given(value, is_text=presentation.is_text(name, value)) for name, value in arguments.items()
    )


def _is_as_given(value: object, *, is_text: bool) -> bool:
    if isinstance(value, str):
        is_one_line = is_text or " ".join(value.split()) == value
        return is_one_line and visible(value) == value and (_MOMENT.fullmatch(value) is None or _is_minute(value))
    if is_array(value):
        return bool(value) and all(
            isinstance(one, str) and "," not in one and _is_as_given(one, is_text=False) for one in value
        )
    return value is None or isinstance(value, int | float)


def _is_minute(moment: str) -> bool:
    at = moment[16:]
    return not at.startswith(":") or (at[1:3] == "00" and not at.startswith(".", 3))


def target_words(target: Mapping[str, object], names: Mapping[str, str]) -> str:
    """The target of a standing approval, in words."""
    parts: list[str] = []
    for name, value in target.items():
        if name == "domains" and is_array(value):
            parts.append(text("standing.to_domains", domains=", ".join(map(str, value))) if value else "")
        elif value is not None and not isinstance(value, bool):
            shown = _short(visible(value))
            parts.append(f"{_label(name)} {names[name]} ({shown})" if name in names else f"{_label(name)} {shown}")
        elif isinstance(value, bool):
            parts.append(f"{_label(name)}: {text('common.yes') if value else text('common.no')}")
    return ", ".join(part for part in parts if part)


def _pieces(title: str, presentation: Presentation, values: Mapping[str, Value]) -> Sequence[Piece]:
    if not presentation.sentence or not all(name in values for _, name in presentation.parts() if name):
        return [Piece(text("approval.use", title=title), None)]
    return [Piece(words, values.get(name)) for words, name in presentation.parts() if words or name]


def _value(value: object, *, name: str, is_id: bool) -> Value:
    return Value(_short(_line(value)), _short(visible(name)), is_id)


def _line(value: object) -> str:
    """A value on one line."""
    if isinstance(value, bool):
        return text("common.yes") if value else text("common.no")
    if is_array(value) and all(isinstance(one, str) for one in value):
        return ", ".join(" ".join(visible(one).split()) for one in value)
    return _moment(" ".join(visible(value).split()))


def _short(line: str) -> str:
    return line if len(line) <= _SHORT else line[: _SHORT - 1] + "…"


def _label(name: str) -> str:
    return name.replace("_", " ")


def _moment(value: str) -> str:
    """A time in a readable form, with its original offset; other values unchanged."""
    if _MOMENT.fullmatch(value) is None:
        return value
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return value
    offset = at.strftime("%z")
    zone = "" if not offset else " UTC" if not at.utcoffset() else f" (UTC{offset[:3]}:{offset[3:]})"
    return at.strftime("%a %-d %b %Y, %H:%M") + zone
