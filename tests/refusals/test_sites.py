"""What counts as a refusal, and what its mutants are; `make refusals` tries them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.refusals.explanations import explanations, is_test, stale
from tests.refusals.sites import sites_of

ROOT = Path(__file__).parents[2]


def mutants(body: str) -> dict[str, str]:
    """The changed function by kind (and reason)."""
    text = "def f(a, b):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    ((_, changes),) = sites_of("a.py", text)
    return {f"{one.kind} {one.reason}".strip(): one.new.partition("\n")[2] for one in changes}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "if a or not b:\n    raise X",
            {
                "gone": "    if a or not b:\n        pass\n",
                "always": "    if ((a or not b) or True):\n        raise X\n",
                "reason a": "    if ((a) and False) or not b:\n        raise X\n",
                "reason not b": "    if a or ((not b) and False):\n        raise X\n",
            },
        ),
        (
            "if a:\n    return b\nelse:\n    raise X",
            {
                "gone": "    if a:\n        return b\n    else:\n        pass\n",
                "always": "    if ((a) and False):\n        return b\n    else:\n        raise X\n",
            },
        ),
        (
            "try:\n    a()\nexcept E as e:\n    raise X(e) from e",
            {
                "gone": "    try:\n        a()\n    except E as e:\n        pass\n",
                "always": "    try:\n        raise X(e)\n        a()\n    except E as e:\n        raise X(e) from e\n",
            },
        ),
        (
            "if a:\n    return b\nraise X",
            {
                "gone": "    if a:\n        return b\n    pass\n",
                "always": "    raise X\n    if a:\n        return b\n    raise X\n",
            },
        ),
        (
            "'What it does.'\nif a:\n    return b\nraise X",
            {
                "gone": "    'What it does.'\n    if a:\n        return b\n    pass\n",
                "always": "    'What it does.'\n    raise X\n    if a:\n        return b\n    raise X\n",
            },
        ),
        (
            "match a:\n    case 1:\n        raise X",
            {
                "gone": "    match a:\n        case 1:\n            pass\n",
                "always": "    raise X\n    match a:\n        case 1:\n            raise X\n",
            },
        ),
        ("raise X", {"gone": "    pass\n"}),
        (
            "return page(error=a) if a else b",
            {
                "gone": "    return page(error=a) if ((a) and False) else b\n",
                "always": "    return page(error=a) if ((a) or True) else b\n",
            },
        ),
    ],
)
def test_a_refusal_is_taken_away_and_made_for_everything(body: str, expected: dict[str, str]) -> None:
    assert mutants(body) == expected


def test_an_answer_refuses_if_it_carries_an_error() -> None:
    texts = {
        "return page(error='no')": 1,
        "return await page(error=words)": 1,
        "return page(error='')": 0,
        "return Review(problem=one)": 0,
        "return page(status=400)": 0,
    }
    found = {one: len(sites_of("a.py", f"async def f():\n    {one}\n")) for one in texts}
    assert found == texts


def test_what_is_explained_is_in_the_code_and_names_tests() -> None:
    rows = explanations()
    assert [row.says for row in rows if stale(row, ROOT)] == []
    assert all(row.why for row in rows)
    named = [name for row in rows for name in (row.test, row.twin) if name]
    assert [name for name in named if not is_test(name, ROOT)] == []
