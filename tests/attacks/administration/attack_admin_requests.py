"""Requests to the Admin API: invalid bodies, queries, paths, and methods; foreign pages; secrets in answers."""

from __future__ import annotations

import asyncio
import secrets
from urllib.parse import quote

import pytest

from tests.attacks.administration.attack_admin_api import ALL, ROOT, SCOPES, account, admin_token, call, path_of
from tests.attacks.administration.attack_administration import someone
from tests.attacks.target import PASSWORD, UPSTREAM, Target

BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "application/json"),
    "a form": (b"name=intruder", "application/x-www-form-urlencoded"),
    "text": (b'{"name": "intruder"}', "text/plain"),
    "no type": (b'{"name": "intruder"}', ""),
    "two types": (b'{"name": "intruder"}', "application/json, text/plain"),
    "a list": (b'[{"name": "intruder"}]', "application/json"),
    "a name twice": (b'{"name": "x", "name": "intruder"}', "application/json"),
    "NaN": (b'{"name": "intruder", "admin": NaN}', "application/json"),
    "a number for a truth": (b'{"name": "intruder", "admin": 1}', "application/json"),
    "a text for a truth": (b'{"name": "intruder", "admin": "true"}', "application/json"),
    "an unknown member": (b'{"name": "intruder", "is_admin": true}', "application/json"),
    "a prototype": (b'{"name": "intruder", "__proto__": {"admin": true}}', "application/json"),
    "NUL": (b'{"name": "intruder\\u0000"}', "application/json"),
    "half a pair": (b'{"name": "intruder\\ud800"}', "application/json"),
    "broken UTF-8": (b'{"name": "intruder\xff"}', "application/json"),
    "UTF-16": ('{"name": "intruder"}'.encode("utf-16"), "application/json; charset=utf-16"),
    "controls": (b'{"name": "intruder\\u001b[2J"}', "application/json"),
    "a turn of direction": ('{"name": "intruder\u202e"}'.encode(), "application/json"),
    "200,000 lists": (b'{"name": ' + b"[" * 200_000, "application/json"),
    "a name of a megabyte": (b'{"name": "' + b"x" * 2**20 + b'"}', "application/json"),
    "an endless number": (b'{"name": "intruder", "admin": ' + b"9" * 200_000 + b"}", "application/json"),
    "something behind": (b'{"name": "intruder"} {"admin": true}', "application/json"),
    "a signature in front": (b'\xef\xbb\xbf{"name": "intruder"} x', "application/json"),
}


@pytest.mark.parametrize("what", BODIES)
async def test_a_body_that_is_none_makes_nobody(target: Target, what: str) -> None:
    token = await admin_token(target, "people", "read")
    body, kind = BODIES[what]
    answer = await call(target, "POST", "/people", token, content=body, headers={"content-type": kind} if kind else {})
    assert answer.status_code in {400, 413, 415}, answer.text[:200]
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await call(target, "GET", "/people?find=intruder", token)).json()["items"] == []


QUERIES = (
    "cursor=x", "cursor=WzFd", "cursor=WyJ4Il0", "cursor=W10", "cursor=%00", "cursor=" + "A" * 3000, "limit=0",
    "limit=201", "limit=-1", "limit=1e3", "limit=%D9%A1", "limit=1&limit=2", "x=1", "find=%ff", "find=%00",
    "&".join(f"a{n}=1" for n in range(60)), "cursor=WzkyMjMzNzIwMzY4NTQ3NzU4MDgsICJ4Il0", "cursor=WyJcdWQ4MDAiXQ",
    "cursor=W3RydWUsICJ4Il0",
)  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("path", ["/people", "/agents", "/activity"])
async def test_a_query_that_is_none_is_refused_in_words(target: Target, path: str, query: str) -> None:
    answer = await call(target, "GET", f"{path}?{query}", await admin_token(target, "read"))
    is_place = (path, query) in {("/people", "cursor=WyJ4Il0"), ("/activity", "cursor=WzFd")}  # as our tokens look
    assert answer.status_code == (200 if is_place else 400), answer.text[:200]
    if answer.status_code == 400:
        assert answer.json()["code"] == "invalid_request"


@pytest.mark.parametrize("wanted", ["%", "_", "%25", "'", "\\", "*", "p%' or '1'='1"])
async def test_a_search_means_itself(target: Target, wanted: str) -> None:
    token = await admin_token(target, "read")
    for path in ("/people", "/agents"):
        items = (await call(target, "GET", f"{path}?find={quote(wanted, safe='')}", token)).json()["items"]
        assert all(wanted in one["name"] or wanted in one["id"] for one in items)


PLACES = (
    "/people/%2e%2e", "/people/..%2fagents", "/people/%00", "/people/x%0d%0aset-cookie:a=b", "/people/" + "x" * 5000,
    "/agents/%2e%2e%2fpeople", "/agents/%ff", "/apis/%2e%2e", "/providers/..%2f..%2fetc%2fpasswd", "/providers/%00",
    "/x", "//people", "/people//", "/PEOPLE", "/people;x=1", "/people/../me", "/me/../people",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
async def test_a_path_is_the_one_of_an_operation_or_nothing(target: Target, place: str) -> None:
    token = await admin_token(target)
    for method in ("GET", "DELETE", "PATCH"):
        answer = await call(target, method, place, token, json={} if method == "PATCH" else None)
        if "../" in place:  # the client resolves it, as any client would
            continue
        assert answer.status_code in {400, 404, 405, 414}, (method, answer.status_code, answer.text[:200])
        assert "set-cookie" not in answer.headers


async def test_only_the_method_counts(target: Target) -> None:
    user_id, _ = await someone(target)
    token = await admin_token(target)
    headers = {"x-http-method-override": "DELETE", "x-method-override": "DELETE", "x-http-method": "DELETE"}
    for method in ("GET", "HEAD"):
        answer = await call(target, method, f"/people/{user_id}", token, headers=headers)
        assert answer.status_code == 200
    assert (await call(target, "GET", f"/people/{user_id}?_method=DELETE", token)).status_code == 400
    for method in ("PUT", "TRACE", "OPTIONS", "PROPFIND"):
        answer = await call(target, method, f"/people/{user_id}", token)
        assert answer.status_code in {400, 404, 405, 501}
    assert (await call(target, "GET", f"/people/{user_id}", token)).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
async def test_a_foreign_page_reads_and_changes_nothing(target: Target, origin: str) -> None:
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    preflight = await target.http.request("OPTIONS", f"{ROOT}/people", headers=asked)
    assert "access-control-allow-origin" not in preflight.headers
    answer = await call(target, "GET", "/people", await admin_token(target), headers={"origin": origin})
    assert "access-control-allow-origin" not in answer.headers
    simple = {"origin": origin, "content-type": "text/plain"}
    answer = await target.alice.http.post(f"{ROOT}/people", content='{"name": "intruder"}', headers=simple)
    assert answer.status_code in {401, 403}


async def test_no_answer_shows_a_secret(target: Target) -> None:
    token, service = await admin_token(target), await account(target, *SCOPES)
    texts: list[str] = []
    for one in ALL:
        if one.method == "GET":
            answer = await call(target, "GET", await path_of(target, one), token)
            texts.append(answer.text)
    texts.append((await target.http.get(f"{ROOT}/openapi.json")).text)
    texts.append((await call(target, "GET", "/agents?limit=200", token)).text)
    texts.append((await call(target, "GET", "/settings", token)).text)
    secret = [UPSTREAM, PASSWORD, "upstream-secret-canary", service["client_secret"], token, "argon2"]
    secret += [one["client_secret"] for one in target.clients.values() if "client_secret" in one]
    for text in texts:
        for one in secret:
            assert one not in text, text[:200]


async def test_a_link_by_this_api_works_once_and_ends_the_one_before(target: Target) -> None:
    token, name = await admin_token(target, "people"), f"api{secrets.token_hex(4)}"
    made = (await call(target, "POST", "/people", token, json={"name": name})).json()
    again = (await call(target, "POST", f"/people/{made['person']['id']}/sign-in-links", token)).json()["url"]
    assert (await (await target.browser()).http.get(made["sign_in_link"])).status_code == 403
    person = await target.browser()
    page = await person.open(again)
    form = {"password": PASSWORD, "password_again": PASSWORD}
    tries = await asyncio.gather(*(person.submit(page, dict(form), form="/sign-in/link") for _ in range(5)))
    assert [str(one.url).endswith("/sign-in/link") for one in tries].count(False) >= 1
    assert (await (await target.browser()).http.get(again)).status_code == 403
