"""The effective settings: every value (or, for a secret, that it is set) and where it comes from. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, SecretStr

from providers.outbound.json_values import is_object
from server.settings import PREFIX, Settings

Origin = Literal["default", "environment", "file"]


@dataclass(frozen=True, slots=True)
class EffectiveSetting:
    """One setting: its name in the file, its value as text (None for a secret that is set), and its origin."""

    name: str
    value: str | None
    origin: Origin
    variable: str = ""  # of the environment


def effective_settings(settings: Settings, environment: Mapping[str, str]) -> list[tuple[str, list[EffectiveSetting]]]:
    """The settings by section, in the order of the settings model."""
    names = {name.upper() for name in environment if name.upper().startswith(PREFIX)}
    found: list[tuple[str, list[EffectiveSetting]]] = []
    for section in type(settings).model_fields:
        value: object = getattr(settings, section)
        is_set = section in settings.model_fields_set
        rows = list(_rows((section,), value, is_set=is_set, names=names))
        if rows:
            found.append((section, rows))
    return found


def _rows(path: tuple[str, ...], value: object, *, is_set: bool, names: set[str]) -> Iterator[EffectiveSetting]:
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            inner: object = getattr(value, name)
            # an environment variable makes pydantic set the whole section
            is_own = name in value.model_fields_set and inner != field.get_default(call_default_factory=True)
            yield from _rows((*path, name), inner, is_set=is_set and is_own, names=names)
        return
    tables = dict(_tables(value))
    for name, table in tables.items():
        yield from _rows((*path, name), table, is_set=is_set, names=names)
    if not tables:
        variable = next((one for one in _variables(path) if one in names), "")
        origin: Origin = "environment" if variable else "file" if is_set else "default"
        yield EffectiveSetting(".".join(path), _in_words(value), origin, variable)


def _tables(value: object) -> Iterator[tuple[str, BaseModel]]:
    """The tables of a setting that is a table of tables, such as `providers`."""
    if is_object(value):
        for name, table in value.items():
            if isinstance(table, BaseModel):
                yield name, table


def _variables(path: tuple[str, ...]) -> Iterator[str]:
    """The setting's environment variable, and those that can contain it as part of a JSON table."""
    for length in range(len(path), 0, -1):
        yield PREFIX + "__".join(path[:length]).upper()


def _in_words(value: object) -> str | None:
    match value:
        case SecretStr():
            return None
        case None | ():
            return ""
        case bool():
            return "true" if value else "false"
        case _ if is_object(value):
            return ", ".join(f"{name} = {one}" for name, one in value.items())
        case tuple() | list() | frozenset():
            return ", ".join(str(one) for one in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case str() | int() | float() | Path():
            return str(value)
        case _:
            return type(value).__name__
