"""The decorator of records: a `dataclass(frozen=True, slots=True)` that is made in a quarter of the time.

`dataclasses` compiles six methods for every class, and a start loads more than a hundred records. Here only `__init__`
is compiled; all records share the code of the other methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from typing import Any, Final, NoReturn, TypeVar, dataclass_transform

_Record = TypeVar("_Record")
_MISSING: Final = object()  # stands for a value that `default_factory` makes
_MADE: Final = frozenset({"__init__", "__eq__", "__hash__", "__repr__", "__reduce__", "__setattr__", "__delattr__"})


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def immutable(kind: type[_Record]) -> type[_Record]:
    """Make the class a record. Raises TypeError for what a record can't have.

    Fields can have what `dataclasses.field` offers, except `kw_only`, `hash`, and a default with `init=False`. The
    methods that are made here can't be the class's own: a `__repr__` that hides a secret would be lost.
    """
    if own := _MADE & kind.__dict__.keys():
        raise TypeError(f"{kind.__qualname__}: a record can't have its own {min(own)}")
    kind.__doc__ = kind.__doc__ or kind.__name__  # otherwise `dataclasses` computes a signature
    made: Any = dataclass(init=False, repr=False, eq=False, slots=True)(kind)
    every = fields(made)
    for one in every:
        if one.kw_only or one.hash is not None:
            raise TypeError(f"{kind.__qualname__}.{one.name}: a record's field can't have kw_only or hash")
        if not one.init and not (one.default is MISSING and one.default_factory is MISSING):
            raise TypeError(f"{kind.__qualname__}.{one.name}: set it in __post_init__ instead of by a default")
    made.__init__ = _initializer(made, every)
    made.__eq__, made.__hash__ = _comparison([one.name for one in every if one.compare])
    made.__repr__, made.__reduce__ = _show, _reduce
    made.__setattr__ = made.__delattr__ = _refuse
    return made


def _initializer(made: Any, every: tuple[Field[Any], ...]) -> Callable[..., None]:
    known: dict[str, object] = {"_MISSING": _MISSING}
    parameters, lines = ["self"], list[str]()
    for one in (one for one in every if one.init):
        name, value = one.name, one.name
        known[f"_set_{name}"] = getattr(made, name).__set__  # of the slot: faster than `object.__setattr__`
        if one.default is not MISSING:
            known[f"_default_{name}"] = one.default
            parameters.append(f"{name}=_default_{name}")
        elif one.default_factory is not MISSING:
            known[f"_make_{name}"] = one.default_factory
            parameters.append(f"{name}=_MISSING")
            value = f"_make_{name}() if {name} is _MISSING else {name}"
        else:
            parameters.append(name)
        lines.append(f" _set_{name}(self, {value})")
    if hasattr(made, "__post_init__"):
        lines.append(" self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}):\n" + "\n".join(lines or [" pass"]), known)  # noqa: S102 -- own names
    found: Any = known["__init__"]
    found.__qualname__ = f"{made.__qualname__}.__init__"
    return found


def _comparison(names: list[str]) -> tuple[Callable[[Any, Any], bool], Callable[[Any], int]]:
    values: Callable[[Any], object] = attrgetter(*names) if names else lambda _: ()

    def __eq__(self: Any, other: Any) -> bool:  # noqa: N807 -- a method
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: Any) -> int:  # noqa: N807 -- a method
        return hash(values(self))

    return __eq__, __hash__


def _show(self: Any) -> str:
    shown = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr)
    return f"{type(self).__qualname__}({shown})"


def _reduce(self: Any) -> tuple[Any, ...]:
    return self.__class__, tuple(getattr(self, one.name) for one in fields(self) if one.init)


def _refuse(self: object, name: str, value: object = None) -> NoReturn:
    raise FrozenInstanceError(f"{name!r} of {type(self).__qualname__} can't change")
