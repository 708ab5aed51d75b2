"""What the sampler draws from; cosmic-ray itself is installed by `make mutate` only."""

from __future__ import annotations

from tests.mutation.mutants import Mutant, _inert_lines, drawn

MANY = [Mutant("a.py", line, "core/AddNot", 0) for line in range(50)]


def test_a_sample_is_drawn_again_by_its_seed() -> None:
    assert drawn(MANY, count=10, seed=1) == drawn(MANY, count=10, seed=1) != drawn(MANY, count=10, seed=2)
    assert len({one.line for one in drawn(MANY, count=10, seed=1)}) == 10
    assert len(drawn(MANY, count=90, seed=1)) == 50


def test_lines_that_only_name_types_are_left_out() -> None:
    assert _inert_lines("x = 1\nif TYPE_CHECKING:\n    from a import b\ny = 2\n") == {2, 3}
