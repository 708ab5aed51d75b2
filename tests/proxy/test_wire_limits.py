"""Limits of the proxy's readers: for each, the largest size that passes and the smallest that doesn't."""

from __future__ import annotations

import pytest

from providers.definitions.catalog import load_catalog
from server.proxy.refusals import unknown_parameter
from server.proxy.wire import (
    CallParameters,
    ProxyRefused,
    aim,
    merge,
    parse_fields,
    query_pairs,
    read_body,
    read_query,
    read_target,
    request_headers,
)

GITHUB = load_catalog().provider("github")
LONGEST = 8192


def refusal(code: str) -> pytest.RaisesExc[ProxyRefused]:
    return pytest.RaisesExc(ProxyRefused, check=lambda error: error.code == code)


def path_of(length: int) -> bytes:
    return b"/proxy/c/api/".ljust(length, b"x")


def parameters_of(values: dict[str, object], repeated: frozenset[str] = frozenset()) -> CallParameters:
    """Parameters as they are read from a query without names that are paths."""
    is_split = any(isinstance(value, str) and ";" in value for value in values.values())
    return CallParameters(values, repeated, sent=frozenset(values), is_split=is_split)


def test_a_path_and_a_query_have_a_longest_length() -> None:
    assert len(read_target(path_of(LONGEST)).path) == LONGEST - len("/proxy/c/api")
    with refusal("ambiguous_path"):
        read_target(path_of(LONGEST + 1))
    assert read_query(b"a=".ljust(LONGEST, b"x"), GITHUB).values == {"a": "x" * (LONGEST - 2)}
    with refusal("invalid_query"):
        read_query(b"a=".ljust(LONGEST + 1, b"x"), GITHUB)


@pytest.mark.parametrize("value", [b"a b", b"a#b", b"a\tb", b"\xe9", b"%zz", b"%4", b"%"])
def test_a_query_has_no_character_that_must_be_escaped_and_no_broken_escape(value: bytes) -> None:
    with refusal("invalid_query"):
        read_query(b"a=" + value, GITHUB)
    assert read_query(b"a=%20%23%C3%A9", GITHUB).values == {"a": " #é"}


@pytest.mark.parametrize("path", [b"/proxy/", b"/proxy/c", b"/proxy//api/x", b"/proxy/c//x", b"/other/c/api/x"])
def test_a_path_has_all_its_parts(path: bytes) -> None:
    with refusal("unknown_target"):
        read_target(path)
    assert read_target(b"/proxy/c/api/x").path == "/x"


@pytest.mark.parametrize("path", [b"/proxy/c/rest", b"/proxy/c/rest/"])
def test_an_api_s_address_itself_is_called_only_where_a_rule_is_for_it(path: bytes) -> None:
    with refusal("unknown_target"):
        aim(read_target(path), GITHUB, "c")
    root = GITHUB.rules[0].model_copy(update={"path": "/"})
    aimed = aim(read_target(path), GITHUB.model_copy(update={"rules": (root,)}), "c")
    assert aimed is not None
    assert aimed.path == "/"


def test_a_body_has_a_most_of_names_and_values() -> None:
    def members(count: int) -> bytes:
        return b"{" + b",".join(b'"%x":0' % number for number in range(count)) + b"}"

    def fields(count: int) -> bytes:
        return b"&".join(b"%x=0" % number for number in range(count))

    def values(count: int) -> bytes:
        return b'{"a":[' + b"0," * count + b"0]}"

    form = "application/x-www-form-urlencoded"
    for kind, fitting, code, beyond in (
        ("application/json", members(1000), "body_too_large", members(1001)),
        ("application/json", values(200_000), "body_too_large", values(200_001)),
        (form, fields(1000), "invalid_query", fields(1001)),
    ):
        assert read_body(kind, fitting, GITHUB, is_judged=True) is not None
        with refusal(code):
            read_body(kind, beyond, GITHUB, is_judged=True)


def test_a_body_is_nested_100_levels_deep_at_most() -> None:
    def levels(depth: int) -> bytes:
        return b'{"a":' * depth + b"0" + b"}" * depth

    assert read_body("application/json", levels(100), GITHUB, is_judged=True) is not None
    with refusal("invalid_body"):
        read_body("application/json", levels(101), GITHUB, is_judged=True)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "invalid_body"),
        ('{"a":' * 101 + "0" + "}" * 101, "invalid_body"),
        ("[" * 45_000 + "]" * 45_000, "invalid_body"),
        ("[" + "{}," * 50_000 + "0]", "body_too_large"),
        ("[" + "0," * 200_001 + "0]", "body_too_large"),
    ],
    ids=["broken", "deep", "deeper", "objects", "values"],
)
def test_json_in_a_text_is_read_like_a_body(text: str, code: str) -> None:
    names = frozenset({*"abcdefgh", "profile", "absent"})
    others: dict[str, object] = dict.fromkeys("abcd", "") | dict.fromkeys("efgh", 5)
    read = parse_fields(CallParameters({**others, "profile": '{"a": 1}', "other": text}), names)
    assert read.values == {**others, "profile": {"a": 1}, "other": text}
    with refusal(code):
        parse_fields(CallParameters({**others, "profile": text}), names)


def test_a_name_without_a_value_is_a_parameter() -> None:
    form = "application/x-www-form-urlencoded"
    expected = {"flag": "", "b": "", "c": "1"}
    assert read_query(b"flag&b=&c=1", GITHUB).values == dict(query_pairs(b"flag&b=&c=1")) == expected
    body = read_body(form, b"flag&b=&c=1", GITHUB, is_judged=False)
    assert body is not None
    assert body.values == expected


@pytest.mark.parametrize("charset", ["utf-8", '"UTF-8"', "us-ascii", "utf-8; charset=us-ascii"])
def test_a_body_is_utf_8_by_whatever_name(charset: str) -> None:
    found = read_body(f"application/json; charset={charset}", b'{"a":1}', GITHUB, is_judged=True)
    assert found == parameters_of({"a": 1})
    with refusal("unsupported_body"):
        read_body(f"application/json; charset={charset}; charset=latin-1", b'{"a":1}', GITHUB, is_judged=True)


def test_a_judged_parameter_has_one_value_and_one_spelling() -> None:
    once, twice = parameters_of({"owner": "a"}), parameters_of({"owner": "a"}, frozenset({"owner"}))
    nothing, split = CallParameters(), parameters_of({"x": "1;owner=b"})
    assert merge(once, nothing, ["owner/name"]) == merge(nothing, once, ["owner"]) == {"owner": "a"}
    for query, body in ((twice, nothing), (once, once), (split, nothing), (parameters_of({"Owner": "b"}), once)):
        merge(query, body, [])
        with refusal("ambiguous_parameter"):
            merge(query, body, ["owner/name"])


def test_a_refusal_repeats_the_first_40_characters_of_a_name() -> None:
    name = "n" * 40 + "!"
    with pytest.raises(ProxyRefused) as ambiguous:
        merge(parameters_of({name: "a"}), CallParameters(), ["owner"])
    unknown = unknown_parameter(GITHUB, GITHUB.rules[0], [name], limit=1)
    for told in (ambiguous.value.description, unknown.description):
        assert "n" * 40 in told
        assert "!" not in told


def test_an_annotation_of_a_body_stands_beside_a_judged_parameter() -> None:
    nothing = CallParameters()
    for name, judged in (("@odata.type", "owner"), ("@odata.type", "@odata.type")):
        assert merge(nothing, parameters_of({name: "a"}), [judged]) == {name: "a"}
        with refusal("ambiguous_parameter"):
            merge(parameters_of({name: "a"}), nothing, [judged])
    for name in ("@@odata.type", "owner@odata.bind", "@ODATA.type", "@"):
        with refusal("ambiguous_parameter"):
            merge(nothing, parameters_of({name: "a"}), ["@odata.type"])


def test_a_header_that_must_be_unique_is_sent_once_and_others_are_joined() -> None:
    accept, kind = (b"accept", b"a/b"), (b"content-type", b"text/plain")
    assert request_headers([accept, kind, accept], GITHUB) == {"accept": "a/b, a/b", "content-type": "text/plain"}
    for more in (kind, (b"connection", b"content-type")):
        with refusal("ambiguous_header"):
            request_headers([kind, more] if more == kind else [more, kind], GITHUB)
    preferences = (b"prefer", b'return="minimal", secret=1, wait=5, handling="strict')
    assert request_headers([preferences], GITHUB) == {"prefer": 'return="minimal", wait=5'}
    assert request_headers([(b"prefer", b"secret=1"), (b"x-other", b"1")], GITHUB) == {}
