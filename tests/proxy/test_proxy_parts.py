"""Small parts of the proxy alone: the format of refusals, signs of a dead token, and sealed upload sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast
from urllib.parse import unquote

import pytest

from providers.api.rules import Payload
from providers.definitions.catalog import read_provider, shipped_files
from providers.definitions.model import Errors, Provider
from providers.outbound.sessions import StreamedAnswer
from server.proxy.answers import is_unauthorized
from server.proxy.call import ProxiedCall
from server.proxy.refusals import content_of
from server.proxy.upload_sessions import UploadSessions
from server.proxy.wire import ProxyRefused, Target, read_body, read_target
from vault.envelope import Context

SHIPPED = {path.stem: path for path in shipped_files()}
REFUSED = ProxyRefused("rate_limited", "Try again.", more={"link": "https://vault.example/x"})
PROBLEM = {
    "type": "urn:token-vault:refusal:rate_limited",
    "title": "Try again.",
    "status": REFUSED.status,
    "code": "rate_limited",
    "link": "https://vault.example/x",
}


def provider(name: str) -> Provider:
    return read_provider(SHIPPED[name])


def body(errors: Mapping[str, object] | None) -> object:
    if errors is None:
        return content_of(REFUSED, None)
    return content_of(REFUSED, provider("slack").model_copy(update={"errors": Errors.model_validate(errors)}))


@pytest.mark.parametrize(
    ("errors", "wanted"),
    [
        (None, {"message": "Try again.", "error": {"code": "rate_limited", "message": "Try again."}}),
        ({"ok_flag": "ok", "code": ["error"], "message": []}, {"ok": False, "error": "rate_limited"}),
        (
            {"code": ["error.kind", "error"], "message": ["error.text"]},
            {"error": {"kind": "rate_limited", "text": "Try again."}},
        ),
        ({"code": ["said", "error"], "message": ["said"]}, {"said": "Try again."}),  # the text has priority
        ({"code": ["said.kind.more"], "message": ["said"]}, {"said": "Try again."}),  # a text can't contain anything
        (
            {"code": ["errors.0.code"], "message": ["errors.0.text", "errors.1.text"]},
            {"errors": [{"code": "rate_limited", "text": "Try again."}, {"text": "Try again."}]},
        ),
        ({"code": ["id"], "message": ["text"], "by_status": {str(REFUSED.status): "slow"}},
         {"id": "slow", "text": "Try again."}),
    ],
)  # fmt: skip
def test_a_refusal_has_the_form_of_the_providers_errors(
    errors: Mapping[str, object] | None, wanted: dict[str, object]
) -> None:
    assert body(errors) == {**wanted, **PROBLEM}


def test_a_refusal_of_a_service_whose_errors_are_lists_is_a_list() -> None:
    found = body({"code": ["items.0.errorCode"], "message": ["items.0.message"]})
    assert found == [{**PROBLEM, "errorCode": "rate_limited", "message": "Try again."}]


@dataclass
class AnswerWithStatus:
    status: int


def is_dead(name: str, status: int, text: bytes | None, *, api: str = "web") -> bool:
    return is_unauthorized(provider(name), api, cast("StreamedAnswer", AnswerWithStatus(status)), text)


DEAD, OTHER = b'{"ok":false,"error":"token_revoked"}', b'{"ok":false,"error":"channel_not_found"}'
KEY = b"<Error><Code>InvalidAccessKeyId</Code></Error>"
CLOCK = b"<Error><Code>SignatureDoesNotMatch</Code><Message>Signature expired</Message></Error>"


@pytest.mark.parametrize(
    ("name", "status", "text", "dead"),
    [
        ("slack", 401, b"", True),
        ("slack", 200, DEAD, True),
        ("slack", 200, OTHER, False),
        ("slack", 200, DEAD.replace(b'"ok":false', b'"ok":true,"is_bot":false'), False),
        ("slack", 200, DEAD.replace(b'"ok":false', b'"ok":0'), False),
        ("slack", 200, b'["token_revoked", false]', False),
        ("slack", 200, None, False),
        ("slack", 403, DEAD, False),
        ("github", 200, DEAD, False),  # GitHub's answers have no such flag
        ("aws", 403, KEY, True),
        ("aws", 400, KEY, True),
        ("aws", 404, KEY, False),
        ("aws", 403, CLOCK.replace(b"Signature expired", b"Wrong"), True),
        ("aws", 403, CLOCK, False),
        ("aws", 403, KEY.replace(b"InvalidAccessKeyId", b"AccessDenied"), False),
        ("aws", 403, None, False),
        ("github", 403, KEY, False),
    ],
)
def test_what_says_that_a_token_is_dead(name: str, status: int, text: bytes | None, dead: bool) -> None:
    assert is_dead(name, status, text) is dead
    assert is_dead(name, status, text, api="files") is (dead and (name, status) != ("slack", 200)), "someone's file"


SESSIONS = UploadSessions("upload_id", bytes(32), Context("upload-session", "default", "u", "google", "c", "agent"))
PLACE = Target("c", "drive", "/upload/files")


def call_at(name: str, api: str, *, url: str = "", body: bytes | None = b"{}") -> ProxiedCall:
    return ProxiedCall(
        provider(name),
        Target("c", api, "/x"),
        rules=(),
        payload=Payload(),
        address_here=lambda api: f"https://vault.example/proxy/c/{api}",
        url=url,
        headers={},
        body=body,
        sessions=SESSIONS,
    )


def test_a_call_goes_to_the_accounts_own_address() -> None:
    call = call_at("algolia", "main", url="https://{application_id}.algolia.net/1/indexes?page=2")
    token = '{"application_id":"ABC123DEF4","key":"0123456789abcdef0123456789abcdef"}'
    there = call.at_account(token)
    assert there.url == "https://ABC123DEF4.algolia.net/1/indexes?page=2"
    assert there.provider.apis == {"main": "https://ABC123DEF4.algolia.net"}
    same = call_at("slack", "web")
    assert same.at_account(token) is same
    with pytest.raises(ProxyRefused, match="upstream_unauthorized"):
        call.at_account('{"application_id":"a/b","key":"k"}')


def test_addresses_of_pages_and_of_single_accounts_stay_as_they_are() -> None:
    assert call_at("algolia", "main").links == []
    ours = b"https://vault.example/proxy/c/rest"
    assert call_at("github", "rest").links == [(b"https://api.github.com", ours)]
    sent = call_at("github", "rest", body=b'{"next":"' + ours + b'/a"}')
    assert sent.outward().body == b'{"next":"https://api.github.com/a"}'
    for call in (call_at("github", "rest"), call_at("github", "rest", body=None), call_at("slack", "web", body=ours)):
        assert call.outward() is call


def json_of(count: int, *, part: bytes) -> bytes:
    return b'{"a":[' + part * count + b"0]}"


def members_of(count: int) -> bytes:
    return b"{" + b",".join(b'"%x":0' % number for number in range(count)) + b"}"


@pytest.mark.parametrize(
    ("fitting", "larger", "code"),
    [
        (json_of(49_998, part=b"{},"), json_of(49_999, part=b"{},"), "body_too_large"),
        (json_of(200_000, part=b"0,"), json_of(200_001, part=b"0,"), "body_too_large"),
        (b'{"a":' + b"[" * 99 + b"]" * 99 + b"}", b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", "invalid_body"),
        (members_of(1000), members_of(1001), "body_too_large"),
    ],
    ids=["nested", "values", "depth", "members"],
)
def test_a_judged_body_is_read_up_to_its_limits(fitting: bytes, larger: bytes, code: str) -> None:
    github = provider("github")
    assert read_body("application/json", fitting, github, is_judged=True) is not None
    with pytest.raises(ProxyRefused, match=code):
        read_body("application/json", larger, github, is_judged=True)


def test_a_path_is_read_up_to_its_limit() -> None:
    longest = b"/proxy/c/web/" + b"a" * (8192 - 13)
    assert read_target(longest).path == longest[12:].decode()
    with pytest.raises(ProxyRefused):
        read_target(longest + b"a")
    assert read_target(b"/upload/drive/v3/files").path == "/upload/drive/v3/files"
    assert read_target(b"/proxy/c/web/") == Target("c", "web", "/")
    assert read_target(b"/proxy/c/web") == Target("c", "web", "/")
    for path in (b"/proxy/c/", b"/proxy//web/x", b"/proxies/c/web/x", b"/proxy/c/web/a%2Fb", b"/proxy/c/web/a//b"):
        with pytest.raises(ProxyRefused):
            read_target(path)


def seal_query(query: str, *, at: Target = PLACE) -> str:
    closed = SESSIONS.close(at, query)
    assert closed is not None
    return closed.query


def test_a_sealed_upload_session_opens_where_it_was_given_and_nowhere_else() -> None:
    closed = SESSIONS.close(PLACE, "a=1&Upload%5Fid=AB%2Fc%20d&z=2")
    assert closed is not None
    assert closed.session == "AB/c d"
    first, name, last = closed.query.split("&")
    assert (first, last) == ("a=1", "z=2")
    assert name.startswith("Upload%5Fid=")
    assert "AB/c" not in unquote(name)  # sealed text contains no slash
    opened = SESSIONS.open(PLACE, closed.query)
    assert (opened.query, opened.session) == ("a=1&Upload%5Fid=AB%2Fc%20d&z=2", "AB/c d")
    stranger = replace(SESSIONS, context=replace(SESSIONS.context, record_id="another"))
    for sessions, place in (
        (SESSIONS, replace(PLACE, path="/upload/others")),
        (SESSIONS, replace(PLACE, api="gmail")),
        (stranger, PLACE),
        (replace(SESSIONS, key=b"k" * 32), PLACE),
    ):
        with pytest.raises(ProxyRefused):
            sessions.open(place, closed.query)


def test_only_one_session_of_ours_is_opened() -> None:
    given = seal_query("upload_id=one")
    assert SESSIONS.open(PLACE, given).session == "one"
    for query in (f"{given}&{given}", f"{given}&upload_id=two", f"upload_id=two&{given}", "upload_id=one", "upload_id"):
        with pytest.raises(ProxyRefused, match="unknown_target"):
            SESSIONS.open(PLACE, query)
    assert SESSIONS.open(PLACE, "a=1").query == "a=1"
    assert SESSIONS.open(PLACE, "a=1").session is None


def test_what_has_no_session_or_two_is_not_sealed() -> None:
    assert SESSIONS.close(PLACE, "a=1") is None
    assert SESSIONS.close(PLACE, "upload_id=1&upload_id=2") is None
    without = replace(SESSIONS, parameter=None)
    assert without.close(PLACE, "upload_id=1") is None
    assert without.open(PLACE, "upload_id=1").query == "upload_id=1"
