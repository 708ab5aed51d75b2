"""JSON in a field of a form is judged by its members, as every parser reads them."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from tests.support.doubles.proxied_api import Upstream, reply_in_pieces
from tests.support.rooms.proxy_room import ProxyHandle, ProxyRoom

WRITE = frozenset({"users.profile:write"})
FORM = {"content-type": "application/x-www-form-urlencoded"}
PATH = "/users.profile.set"


@pytest.fixture
async def handle(room: ProxyRoom, upstream: Upstream) -> ProxyHandle:
    upstream.answer = reply_in_pieces(b'{"ok":true}')
    agent = await room.agent()
    connection = await room.account(agent, scopes=WRITE)
    return await room.handle(agent, connection, scopes=WRITE)


async def refusal(one: ProxyHandle, text: str, *, query: str = "", kind: str = FORM["content-type"]) -> str:
    """The code of the vault's refusal; empty if the call passed."""
    answer = await one.call("POST", PATH + query, content=text, headers={"content-type": kind})
    assert answer.status_code == 200 or "token-vault-refusal" in answer.headers, answer.text
    return answer.headers.get("token-vault-refusal", "")


async def test_a_profile_in_a_form_passes_as_it_was_sent(room: ProxyRoom, upstream: Upstream) -> None:
    agent = await room.agent()
    one = await room.handle(agent, await room.account(agent, scopes=WRITE), scopes=WRITE)
    upstream.answer = reply_in_pieces(b'{"ok":true}')
    for profile in ({"title": "x"}, {"status_text": 'a "b" \\ \u00e9', "fields": {"Xf1": {"value": "email"}}}, {}):
        assert await refusal(one, urlencode({"profile": json.dumps(profile)})) == ""
        assert await refusal(one, urlencode({"profile": json.dumps(profile, ensure_ascii=False, indent=1)})) == ""
    assert await refusal(one, urlencode({"name": "title", "value": "x"})) == ""


@pytest.mark.parametrize(
    ("profile", "code"),
    [
        ('{"email":"e@x.example"}', "unknown_parameter"),
        ('{"Email":"e@x.example"}', "unknown_parameter"),
        ('{"\\u0065mail":"e@x.example"}', "unknown_parameter"),
        ('{"title":"x","email":"e@x.example"}', "unknown_parameter"),
        ('{"title":"x",\n"email" :"e@x.example"}', "unknown_parameter"),
        ('[{"title":"x"},{"email":"e@x.example"}]', "unknown_parameter"),
        ('"{\\"email\\":\\"e@x.example\\"}"', "unknown_parameter"),  # JSON inside a text of JSON
        ('"x"', "unknown_parameter"),
        ("1", "unknown_parameter"),
        ('{"title":"x","title":"y"}', "invalid_body"),
        ('{"title":"x"}{"email":"e@x.example"}', "invalid_body"),
        ("{'email':'e@x.example'}", "invalid_body"),
        ('{"title":NaN}', "invalid_body"),
        ('{"title":"x"', "invalid_body"),
        ("[" * 200 + "]" * 200, "invalid_body"),
        ("title=x", "invalid_body"),
    ],
)
async def test_no_spelling_of_a_profile_changes_the_address(handle: ProxyHandle, profile: str, code: str) -> None:
    assert await refusal(handle, urlencode({"profile": profile})) == code
    assert await refusal(handle, json.dumps({"profile": profile}), kind="application/json") == code
    assert await refusal(handle, urlencode({"profile": '{"title":"x"}'})) == ""  # the twin


@pytest.mark.parametrize(
    ("text", "query", "code"),
    [
        ('profile={"title":"x"}&profile={"email":"x"}', "", "ambiguous_parameter"),
        ('profile={"email":"x"}&profile={"title":"x"}', "", "ambiguous_parameter"),
        ('profile={"title":"x"}&Profile={"email":"x"}', "", "ambiguous_parameter"),
        ('profile={"title":"x"}&profile[email]=x', "", "ambiguous_parameter"),
        ('profile={"title":"x"}', '?profile={"email":"x"}', "ambiguous_parameter"),
        ("", '?profile={"email":"x"}', "unknown_parameter"),
        ("value=x&name=email", "", "call_not_allowed"),
        ('profile={"title":"x"}&user=U2', "", "call_not_allowed"),
    ],
)
async def test_there_is_one_profile(handle: ProxyHandle, text: str, query: str, code: str) -> None:
    assert await refusal(handle, text, query=query) == code
    assert await refusal(handle, 'profile={"title":"x"}') == ""  # the twin
