"""Suggestions for a mistyped name of a provider, tool, setting, person, or directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import TYPE_CHECKING, Final, Union, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

_MOST: Final = 2  # suggestions
_MOST_NAMES: Final = 30  # valid names in a message
_CUTOFF: Final = 0.7  # minimum similarity, at most 1: `gihub` and `github` have 0.91, `slack` and `square` 0.36

_CONTAINERS: Final = (dict, list, tuple, Mapping, Sequence)


def did_you_mean(typed: str, known: Iterable[str]) -> str:
    """` Did you mean github?`, to append to a sentence; empty if no known name is similar."""
    from difflib import get_close_matches  # imported here, so that only a typo waits for it

    folded = {name.casefold(): name for name in known}
    near = get_close_matches(typed.casefold(), folded, n=_MOST, cutoff=_CUTOFF)
    return f" Did you mean {' or '.join(folded[name] for name in near)}?" if near else ""


def suggest_field(model: type[BaseModel], place: Sequence[int | str]) -> str:
    """As `did_you_mean`, for a field that a model doesn't have; if none is similar, the valid ones unless too many.

    `place` is the `loc` of pydantic's error.
    """
    here: object = model
    for part in place[:-1]:
        here = _part_of(here, str(part))
    found = next(_models(here), None)
    if found is None:
        return ""
    names = [field.alias or name for name, field in found.model_fields.items()]
    valid = f" Valid ones: {', '.join(names)}" if len(names) <= _MOST_NAMES else ""
    return did_you_mean(str(place[-1]), names) or valid


def what_is_wrong(model: type[BaseModel], found: ErrorDetails) -> str:
    """Pydantic's message, or ours if that would lack the valid names, or show a pattern that the field describes."""
    if found["type"] == "extra_forbidden":
        return f"there is no such key.{suggest_field(model, found['loc'])}"
    about = _description(model, found["loc"]) if found["type"] == "string_pattern_mismatch" else ""
    return f"doesn't have the expected form ({about})" if about else found["msg"].removeprefix("Value error, ")


def _description(model: type[BaseModel], place: Sequence[int | str]) -> str:
    here: object = model
    about = ""
    for part in place:
        for one in _models(here):
            field = one.model_fields.get(str(part))
            about = (field.description or "") if field is not None else about
        here = _part_of(here, str(part))
    return about


def _part_of(annotation: object, name: str) -> object:
    """The annotation of a model's field, or of a container's values."""
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(name)
        return None if field is None else field.annotation
    if get_origin(annotation) in (Union, UnionType):
        return next((part for one in get_args(annotation) if (part := _part_of(one, name)) is not None), None)
    inner = [one for one in get_args(annotation) if one is not Ellipsis]
    return inner[-1] if inner and get_origin(annotation) in _CONTAINERS else None


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that a value of this annotation can be."""
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType):
        for one in get_args(annotation):
            yield from _models(one)
