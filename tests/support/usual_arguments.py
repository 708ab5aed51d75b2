"""Arguments that fit a tool: those of its case, and placeholders for the others."""

from __future__ import annotations

import json

from pydantic import ValidationError

from providers.tools.spec import ToolSpec
from tests.support.toolset_cases import CASES

# for arguments that a case omits, or takes from the simulator's data: the first one that fits
STAND_INS: tuple[object, ...] = (
    *("cursor1", "C0123ABCDE", "1700000000.000100", "2026-12-01T09:00:00+01:00", "2026-12-01", "a@b.example", "12"),
    *("open", ["a"], "https://example.com/a.png", "spotify:track:4iV5W9uYEdYUVa79Axb7Rh", "+15550100200", "a.b-c/d"),
    *(
        "00000000-0000-4000-8000-000000000000",
        "app123456789",
        "select 1",
        "acc_12345678",
        "us-east-1",
        "txn_12345678",
        "urn:li:share:12345",
        "urn:li:organization:12345",
        "tbl123456789",
        "rec123456789",
        "14d",
        "cnv_12ab",
        "tr_12ab",
        "EUR",
        "12.50",
        "2031-05-01T08:00:00Z",
        "me",
        "t3_5or86n",
        "gid://shopify/Product/12",
        "gid://shopify/Order/12",
        "cus_12ab",
        "ch_12ab",
        "123456789",
        "0123456789abcdef01234567",
        "https://api.calendly.com/users/AB-12",
        12,
        1.5,
        True,
        100,
        10,
    ),
)


def texts_of(spec: ToolSpec) -> list[str]:
    """The arguments that take text, except `account`, which is never sent."""
    properties = spec.input_schema["properties"]
    assert isinstance(properties, dict)
    return [name for name, about in properties.items() if '"string"' in json.dumps(about) and name != "account"]


def usual_arguments(spec: ToolSpec) -> dict[str, object]:
    """Arguments that fit: all texts, and all other required ones."""
    good = dict(CASES[spec.name].arguments) if spec.name in CASES else {}
    required = [name for name, field in spec.input.model_fields.items() if field.is_required()]
    for name in (*texts_of(spec), *required):
        if name not in good:
            good[name] = _stand_in(spec, name)
    return good


def _stand_in(spec: ToolSpec, name: str) -> object:
    about = spec.input.model_json_schema()["properties"][name]
    words = [word for one in about.get("anyOf", [about]) for word in one.get("enum", [])]
    found = next((value for value in (*words, *STAND_INS) if fits(spec, name, value)), None)
    assert found is not None, f"{spec.name}: no stand-in fits {name}; add one to STAND_INS"
    return found


def fits(spec: ToolSpec, name: str, value: object) -> bool:
    """Whether this argument accepts the value."""
    try:
        spec.input.model_validate({name: value})
    except ValidationError as error:
        return all(one["loc"][:1] != (name,) for one in error.errors())
    return True
