"""The pure rules: redirect matching, PKCE, names, parameters and JSON, as properties and tables."""

from __future__ import annotations

import base64
import hashlib
import json
import string
import time
from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.http.cors import is_cross_origin_path
from server.http.redirects import with_parameters
from server.http.strict_json import MAX_JSON_DEPTH, json_object, parse_json
from server.oauth.authorization_request import stored_request
from server.oauth.clients.rules import shown_redirects
from server.oauth.parameters import parse_parameters
from server.oauth.pkce import check_challenge, verifier_matches
from server.oauth.redirect_uris import check_redirect_uri, redirect_host, redirect_matches, without_loopback_port
from server.oauth.rules import OAuthError, canonical_resource, clean_name, own_resources, parse_max_age
from server.signatures import jose
from vault.records import Client, ClientKind

SCHEMES = ("cursor",)
PATHS = st.text(string.ascii_letters + string.digits + "-._~/", max_size=20).map(lambda text: "/" + text)
LOOPBACK_HOSTS = st.sampled_from(["127.0.0.1", "localhost", "[::1]"])
PORTS = st.integers(1, 65535)


@given(LOOPBACK_HOSTS, PORTS, PORTS, PATHS)
def test_a_loopback_redirect_matches_with_any_port(host: str, first: int, second: int, path: str) -> None:
    registered = f"http://{host}:{first}{path}"
    assert redirect_matches([registered], f"http://{host}:{second}{path}")
    assert redirect_matches([registered], f"http://{host}{path}")
    assert without_loopback_port(registered) == f"http://{host}{path}"


@given(LOOPBACK_HOSTS, PORTS, PATHS, PATHS)
def test_a_loopback_redirect_matches_no_other_path_or_host(host: str, port: int, path: str, other: str) -> None:
    asked = f"http://{host}:{port}{other}"
    assert redirect_matches([f"http://{host}:{port}{path}"], asked) == (path == other)
    assert not redirect_matches([f"http://{host}.example:{port}{other}"], asked)
    assert not redirect_matches([f"https://{host}:1{other}"], asked)


@given(st.text(max_size=60), st.text(max_size=60))
def test_nothing_but_the_exact_text_matches_off_loopback(path: str, more: str) -> None:
    registered = f"https://client.example/{path}"
    asked = registered + more
    assert redirect_matches([registered], asked) == (asked == registered)


@given(st.text(max_size=80))
def test_no_text_that_may_be_registered_hides_where_it_leads(text: str) -> None:
    try:
        check_redirect_uri(text, private_use_schemes=SCHEMES)
    except OAuthError as error:
        assert error.code == "invalid_redirect_uri"
        return
    assert text.isascii()
    assert "#" not in text
    assert "@" not in text.split("/")[2]
    assert text.startswith(("https://", "http://localhost", "http://127.0.0.1", "http://[::1]", "cursor:"))


@pytest.mark.parametrize(
    "uri",
    [
        "https://client.example/callback",
        "https://client.example:8443/a/b?c=d",
        "http://127.0.0.1/callback",
        "http://[::1]:9999/callback",
        "http://localhost:33418",
        "cursor://anysphere.cursor-mcp/oauth/callback",
    ],
)
def test_redirects_of_real_clients_may_be_registered(uri: str) -> None:
    check_redirect_uri(uri, private_use_schemes=SCHEMES)


@pytest.mark.parametrize("authority", ["client.example:0", "me@client.example", "client.example/a/.."])
def test_a_redirect_that_leads_elsewhere_than_it_says_may_not_be_registered(authority: str) -> None:
    with pytest.raises(OAuthError):
        check_redirect_uri(f"https://{authority}/callback", private_use_schemes=SCHEMES)
    check_redirect_uri("https://client.example:1/callback", private_use_schemes=SCHEMES)


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("https://client.example:8443/cb", "client.example"),
        ("http://127.0.0.1:1/cb", "127.0.0.1"),
        ("cursor://anysphere.cursor-mcp/cb", "cursor:"),
    ],
)
def test_a_person_is_shown_the_host_of_a_redirect(uri: str, host: str) -> None:
    assert redirect_host(uri) == host


@given(st.text(string.ascii_letters + string.digits + "-._~", min_size=43, max_size=128))
def test_a_verifier_fits_its_own_challenge_and_no_other(verifier: str) -> None:
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    assert verifier_matches(verifier, check_challenge(challenge, "S256"))
    assert not verifier_matches(verifier, challenge[::-1] if challenge[::-1] != challenge else "A" * 43)
    assert not verifier_matches(verifier + "\n", challenge)
    assert not verifier_matches(challenge, challenge)


@given(st.dictionaries(st.text(min_size=1, max_size=10), st.text(max_size=20), max_size=8))
def test_parameters_survive_the_way_to_the_client(values: dict[str, str]) -> None:
    clean = {name: value for name, value in values.items() if "\0" not in name + value}
    url = with_parameters("https://client.example/cb?known=1", clean)
    assert url.isascii()
    assert "\n" not in url
    assert parse_parameters(url.split("?known=1&", 1)[1] if clean else "").values == clean


@pytest.mark.parametrize("raw", ["a=%ff", "a=%00", "&".join(f"p{n}=1" for n in range(100))])
def test_unreadable_parameters_are_refused(raw: str) -> None:
    with pytest.raises(OAuthError):
        parse_parameters(raw)


PIECES = [*"ab1=&+%;~.ü é", "%41", "%c3%a4", "%C3", "%zz", "%00", "%26", "\0", "\u2028"]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_forms_are_read_as_the_standard_library_reads_them(raw: str) -> None:
    try:
        pairs = parse_qsl(raw, keep_blank_values=True, encoding="utf-8", errors="strict", separator="&")
    except ValueError:
        pairs = None
    if pairs is None or any("\0" in name + value for name, value in pairs):
        with pytest.raises(OAuthError):
            parse_parameters(raw)
        return
    found = parse_parameters(raw)
    first: dict[str, str] = {}
    for name, value in pairs:
        first.setdefault(name, value)
    assert found.values == first
    assert found.repeated == {name for name, _ in pairs if [one for one, _ in pairs].count(name) > 1}


def test_repeated_and_empty_parameters_are_seen() -> None:
    parameters = parse_parameters("a=1&b=&a=2")
    assert parameters.repeated == {"a"}
    assert parameters.get("b") is None
    with pytest.raises(OAuthError):
        parameters.refuse_repeated()
    with pytest.raises(OAuthError):
        parameters.require("b")


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_sane_json_is_read_as_it_was_written(value: object) -> None:
    raw = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    try:
        expected = json.loads(raw.decode())
    except UnicodeDecodeError:
        with pytest.raises(ValueError):
            parse_json(raw)
        return
    assert parse_json(raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 31 + b"]" * 31,
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":"\\ud800"}',
        b"\xff",
        b"",
        b"[]",
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"' + b"\\" * 999,
    ],
)
def test_json_that_could_be_read_in_two_ways_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        json_object(raw)


@pytest.mark.requirement("S-174")
@pytest.mark.parametrize("tail", [b"", b'"', b"\\", b'\\"', b"x"], ids=repr)
@pytest.mark.parametrize("unit", [b'"\\', b'\\"', b'"', b'"\\\\', b'["', b'{"":'], ids=repr)
def test_json_of_many_quotes_is_refused_in_linear_time(unit: bytes, tail: bytes) -> None:
    """Quadratic time took 15 s for the 64 KiB that anyone may send to /register."""
    raw = b"[" * 31 + unit * (100_000 // len(unit)) + tail
    started = time.perf_counter()
    with pytest.raises((ValueError, RecursionError)):
        json_object(raw)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("end", [b'"', b'\\""', b'\\\\"', b'x\\\\\\""'], ids=repr)
def test_depth_counts_after_each_way_in_which_a_string_can_end(end: bytes) -> None:
    for depth, is_read in ((MAX_JSON_DEPTH, True), (MAX_JSON_DEPTH + 1, False)):
        raw = b"[" * (depth - 1) + b'"[' + end + b"," + b"[" + b"]" * depth
        if is_read:
            parse_json(raw)
        else:
            with pytest.raises(ValueError, match="too deep"):
                parse_json(raw)


def test_brackets_inside_strings_are_not_depth() -> None:
    assert json_object(b'{"a":"' + b"[{" * 50 + b'\\"[[["}')


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("Claude\u202eedoC", "ClaudeedoC"),
        ("  Agent\u200b \x07Smith\n", "Agent Smith"),
        ("\U000e0041\ufeff", ""),
        ("Агент 漢字 🤖", "Агент 漢字 🤖"),
        ("x" * 500, "x" * 100),
    ],
)
def test_names_lose_what_could_disguise_them(name: str, clean: str) -> None:
    assert clean_name(name) == clean


def test_an_age_has_at_most_ten_digits() -> None:
    assert [parse_max_age(one) for one in (None, "0", "9" * 10)] == [None, 0, 9_999_999_999]
    with pytest.raises(OAuthError):
        parse_max_age("0" * 11)


def test_our_resources_are_known_in_both_spellings() -> None:
    public = "https://vault.example"
    assert own_resources(public) == {public, f"{public}/", f"{public}/mcp", f"{public}/sse"}
    assert canonical_resource(f"{public}/mcp/", public_url=public) == f"{public}/mcp"
    assert canonical_resource(f"{public}/", public_url=public) == public
    assert canonical_resource("https://other.example/", public_url=public) == "https://other.example/"


def test_only_machine_endpoints_are_open_to_other_origins() -> None:
    assert all(is_cross_origin_path(path) for path in ("/token", "/token/", "/register", "/register/x", "/revoke"))
    assert is_cross_origin_path("/.well-known/oauth-authorization-server")
    assert not any(is_cross_origin_path(path) for path in ("/authorize", "/consent", "/introspect", "/", "/mcp"))


@pytest.mark.parametrize(
    ("value", "is_id"), [("a", True), ("a" * 256, True), ("", False), ("a" * 257, False), (7, False)]
)
def test_the_id_of_a_token_that_works_once_has_a_bounded_length(value: object, is_id: bool) -> None:
    assert (jose.token_id({"jti": value}) == value) is is_id
    assert jose.token_id({}) is None


@pytest.mark.parametrize(("count", "more"), [(1, []), (5, []), (6, ["1 more"]), (9, ["4 more"])])
def test_an_event_shows_the_first_redirect_uris_cut_short(count: int, more: list[str]) -> None:
    uris = tuple(f"https://{n}.example/{'x' * 300}" for n in range(count))
    client = Client("id", ClientKind.DYNAMIC, "", "none", uris, created_at=0)
    assert shown_redirects(client) == [*(f"{one[:200]}…" for one in uris[:5]), *more]
    assert shown_redirects(replace(client, redirect_uris=("https://a.example/" + "x" * 182,)))[0][-1] == "x"


def test_what_a_stored_request_does_not_say_is_the_careful_reading() -> None:
    needed = {"client_id": "c", "redirect_uri": "https://c.example/", "challenge": "x", "scopes": [], "resource": "r"}
    read = stored_request(needed)
    assert (read.is_strong, read.auth_time, read.asks_always) == (False, None, False)
    assert read.names_redirect_uri and read.names_resource
    assert stored_request({**needed, "is_strong": True}).is_strong
