"""Reading values from JSON answers of any shape."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from providers.api.text import as_data
from providers.definitions.catalog import load_catalog
from providers.oauth.token_responses import ResponseContext, judge
from providers.outbound.json_values import at, fill, integer_at, objects_at, parse_object, text_at
from providers.outbound.messages import OutboundResponse
from vault.upstream import Silent, TokenAnswer

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)
ANSWER = {"a": {"b": [{"c": "x"}, 5]}, "n": 7, "yes": True, "none": None, "empty": "", "long": "9" * 30}


def test_values_are_found_by_path() -> None:
    assert at(ANSWER, "a.b.0.c") == "x"
    assert at(ANSWER, "a.b.9") is None
    assert at(ANSWER, "a.x.y") is None
    assert at(ANSWER, "n.b") is None
    assert (text_at(ANSWER, "n"), text_at(ANSWER, "yes"), text_at(ANSWER, "empty")) == ("7", None, None)
    assert (integer_at(ANSWER, "a.b.1"), integer_at(ANSWER, "yes"), integer_at(ANSWER, "long")) == (5, None, None)
    assert objects_at(ANSWER, "a.b") == ({"c": "x"},)
    assert objects_at(ANSWER, "n") == ()


def test_a_dot_inside_of_a_name_is_escaped() -> None:
    answer = {"error": {".tag": "expired_access_token", "tag": "other"}, "error_summary": "expired_access_token/.."}
    assert text_at(answer, r"error.\.tag") == "expired_access_token"
    assert text_at({"a.b": {"c": "x"}}, r"a\.b.c") == "x"
    assert text_at(answer, "error..tag") is None
    code = load_catalog().provider("dropbox").errors.code
    assert text_at(answer, code[0]) == "expired_access_token"


def test_a_text_is_filled_whole_or_not_at_all() -> None:
    assert fill("{a.b.0.c} ({n})", ANSWER) == "x (7)"
    assert fill("{a.b.0.c} ({missing})", ANSWER) is None


def test_only_objects_are_answers() -> None:
    assert parse_object(b'{"a": 1}') == {"a": 1}
    for body in (b"", b"[1]", b"nonsense", b"[" * 100_000, b"\xff\xfe"):
        assert parse_object(body) is None


def library(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def assert_read_alike(value: str) -> None:
    for form in ('{"a":%s}', ' {"a":1,"a":[%s]}\n', '\ufeff{"a":%s}', '{"a":%s,}'):
        for encoding in ("utf-8", "utf-16"):
            body = (form % value).encode(encoding, "surrogatepass")
            assert repr(parse_object(body)) == repr(library(body))


@given(st.floats() | st.integers() | st.text(), st.text("0123456789.eE+-", max_size=9))
def test_a_body_means_what_the_library_reads(value: object, number: str) -> None:
    assert_read_alike(json.dumps(value))
    assert_read_alike(number)


def test_an_odd_body_means_what_the_library_reads() -> None:
    for value in (
        "1e400",
        "-0",
        "01",
        "9" * 4000,
        "9" * 5000,
        '"\ud800"',
        r'"\ud800"',
        '"\x01"',
        "",
        "[" * 300 + "]" * 300,
    ):
        assert_read_alike(value)
    assert parse_object(b'{"a":"\xff"}') is None


def test_an_answer_keeps_only_scopes_and_tokens_that_a_database_can_hold() -> None:
    google = load_catalog().provider("google")

    def judge_changed(**changes: object) -> object:
        content = {"access_token": "at", "refresh_token": "rt", "expires_in": 60, "scope": "openid"} | changes
        return judge(
            google,
            OutboundResponse(200, {}, json.dumps(content).encode()),
            ResponseContext(is_refresh=True, secrets=()),
        )

    assert isinstance(plain := judge_changed(), TokenAnswer)
    assert judge_changed(scope="openid nul\0 half\ud800") == plain
    assert isinstance(judge_changed(access_token="at\ud800"), Silent)
    assert isinstance(judge_changed(refresh_token="rt\ud800"), Silent)
    assert as_data("na\ud800me", limit=9) == "name"


@given(JSON, st.text(alphabet="abc.012", min_size=1, max_size=8))
def test_no_shape_of_answer_breaks_the_reading(value: object, path: str) -> None:
    assert text_at(value, path) is None or isinstance(text_at(value, path), str)
    assert integer_at(value, path) is None or isinstance(integer_at(value, path), int)
    assert isinstance(objects_at(value, path), tuple)
