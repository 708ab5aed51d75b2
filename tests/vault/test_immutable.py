"""Records behave like frozen dataclasses, with which each is compared."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, astuple, dataclass, field, fields, replace
from typing import Any

import pytest

from vault.classes.immutable import immutable


@immutable
class Token:
    name: str
    secret: str = field(repr=False)
    scopes: frozenset[str] = frozenset()
    noted: Mapping[str, str] = field(default_factory=dict[str, str], compare=False)
    length: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", len(self.secret))


@immutable
class BoundToken(Token):
    key: str = ""


@immutable
class Nothing:
    """A record without fields."""


class Plain:
    """The twins, as the standard library makes them."""

    @dataclass(frozen=True, slots=True)
    class Token:
        name: str
        secret: str = field(repr=False)
        scopes: frozenset[str] = frozenset()
        noted: Mapping[str, str] = field(default_factory=dict[str, str], compare=False)
        length: int = field(init=False, compare=False, repr=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "length", len(self.secret))

    @dataclass(frozen=True, slots=True)
    class Nothing:
        """A record without fields."""


@pytest.mark.parametrize("kind", [Token, Plain.Token])
def test_a_record_takes_values_defaults_and_computed_values(kind: type[Token]) -> None:
    one, other = kind("a", "xyz"), kind("a", secret="xyz", scopes=frozenset({"read"}), noted={"b": "c"})
    assert astuple(one) == ("a", "xyz", frozenset(), {}, 3)
    assert astuple(other) == ("a", "xyz", frozenset({"read"}), {"b": "c"}, 3)
    assert one.noted is not kind("a", "xyz").noted
    assert [one.name for one in fields(kind)] == ["name", "secret", "scopes", "noted", "length"]
    assert not hasattr(one, "__dict__")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'secret'"):
        kind("a")
    with pytest.raises(TypeError, match="unexpected keyword argument 'length'"):
        kind("a", "xyz", length=3)


@pytest.mark.parametrize(("kind", "none"), [(Token, Nothing), (Plain.Token, Plain.Nothing)])
def test_records_are_equal_by_what_is_compared(kind: type[Token], none: type[Nothing]) -> None:
    one, same, other = kind("a", "x", noted={"b": "c"}), kind("a", "x"), kind("a", "y")
    assert one == same != other
    assert hash(one) == hash(same)
    assert len({one, same, other}) == 2
    assert one != ("a", "x", frozenset())
    assert none() == none() != one
    assert hash(none()) == hash(none())


def test_a_record_equals_none_of_another_class() -> None:
    assert BoundToken("a", "x") != Token("a", "x")
    assert BoundToken("a", "x", key="k") == BoundToken("a", "x", key="k") != BoundToken("a", "x")
    assert BoundToken("a", "xyz").length == 3


@pytest.mark.parametrize(("kind", "none"), [(Token, Nothing), (Plain.Token, Plain.Nothing)])
def test_a_record_shows_all_but_hidden_fields(kind: type[Token], none: type[Nothing]) -> None:
    name = kind.__qualname__
    assert repr(kind("a", "hidden")) == str(kind("a", "hidden")) == f"{name}(name='a', scopes=frozenset(), noted={{}})"
    assert repr(none()) == f"{none.__qualname__}()"


@pytest.mark.parametrize("kind", [Token, BoundToken, Plain.Token])
def test_a_record_never_changes(kind: type[Token]) -> None:
    one: Any = kind("a", "x")
    for name in ("name", "length", "unknown"):
        with pytest.raises((FrozenInstanceError, TypeError)):
            setattr(one, name, "b")
        with pytest.raises((FrozenInstanceError, TypeError)):
            delattr(one, name)
    assert one == kind("a", "x")


@pytest.mark.parametrize("kind", [Token, BoundToken, Plain.Token])
def test_copies_of_a_record_compute_again(kind: type[Token]) -> None:
    one = kind("a", "x", noted={"b": "c"})
    changed = replace(one, secret="xyz")
    assert (changed.name, changed.length, changed.noted) == ("a", 3, {"b": "c"})
    for same in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert same == one
        assert (same.noted, same.length) == ({"b": "c"}, 1)


@pytest.mark.parametrize("kind", [Token, Plain.Token])
def test_a_record_matches_by_position(kind: type[Token]) -> None:
    match kind("a", "x"):
        case kind(name, secret):
            assert (name, secret) == ("a", "x")
        case _:
            pytest.fail("no match")


def _hide(_: object) -> str:
    return "hidden"


@pytest.mark.parametrize("name", ["__init__", "__eq__", "__hash__", "__repr__", "__reduce__", "__setattr__"])
def test_a_class_with_its_own_form_of_what_records_share_is_refused(name: str) -> None:
    own = type("Own", (), {name: _hide, "__annotations__": {"secret": "str"}})
    with pytest.raises(TypeError, match=f"^Own: a record can't have its own {name}$"):
        immutable(own)
    allowed: Any = immutable(type("Own", (), {"__str__": _hide, "__annotations__": {"secret": "str"}}))
    assert str(allowed("x")) == "hidden"


@pytest.mark.parametrize(
    ("refused", "taken", "said"),
    [
        (field(init=False, default="a"), field(default="a"), "set it in __post_init__"),
        (field(init=False, default_factory=str), field(default_factory=str), "set it in __post_init__"),
        (field(kw_only=True), field(), "can't have kw_only or hash"),
        (field(hash=False), field(compare=False), "can't have kw_only or hash"),
    ],
)
def test_a_field_that_would_not_be_as_declared_is_refused(refused: object, taken: object, said: str) -> None:
    def make(wanted: object) -> Any:
        return immutable(type("Kind", (), {"name": wanted, "__annotations__": {"name": "str"}}))

    with pytest.raises(TypeError, match=f"^Kind.name: .*{said}"):
        make(refused)
    assert make(taken)("b").name == "b"
