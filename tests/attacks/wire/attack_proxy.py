"""The credential-injecting proxy in front of a hostile provider, with a client that tries to get too much."""

from __future__ import annotations

import base64
import contextlib
import json

import httpx2
import pytest

from tests.attacks.target import UPSTREAM, Target, new_key, proof, talk
from tests.attacks.wire.handles import Handle, handle
from tests.support.doubles.scripted_server import Reply, json_reply

SCOPES = "contents:read issues:write"
REPO = "/repos/alice/notes"


async def github(target: Target) -> Handle:
    found = target.kept.get("github handle")
    if not isinstance(found, Handle):
        target.kept["github handle"] = found = await handle(target, "github", SCOPES)
    target.kept["reply"] = json_reply({"ok": True})
    return found


async def raw(one: Handle, line: str, *headers: str, body: str = "", authorized: bool = True) -> bytes:
    """Send a request whose request line and headers go out exactly as written."""
    head = [line, f"Host: {one.target.host}", "Connection: close", *headers]
    head += [f"Authorization: Bearer {one.value}"] if authorized else []
    if body and not any("ontent-" in header or "ransfer-" in header for header in headers):
        head.append(f"Content-Length: {len(body)}")
    return await talk(one.target.place.port, ("\r\n".join(head) + "\r\n\r\n" + body).encode("latin-1"), seconds=5)


def arrivals(target: Target) -> int:
    return sum(one.path.startswith("/rest") for one in target.provider.arrivals)


async def test_an_honest_call_passes_with_the_credential(target: Target) -> None:
    """The twin of all attacks below."""
    one = await github(target)
    answer = await one.call("GET", f"{REPO}/readme")
    assert answer.status_code == 200, answer.text
    assert target.provider.arrivals[-1].headers["authorization"] == f"Bearer {UPSTREAM}"


PATHS = {
    "dot segments": f"{REPO}/../../../user",
    "encoded dot segments": f"{REPO}/%2e%2e/%2e%2e/user",
    "half encoded dots": f"{REPO}/.%2e/notes",
    "an encoded slash": "/repos/alice%2Fnotes/readme",
    "an encoded backslash": "/repos/alice%5Cnotes/readme",
    "a backslash": "/repos/alice\\notes/readme",
    "double encoding": "/repos/alice/..%252f..%252fuser/readme",
    "an empty segment": "//user",
    "a semicolon": f"{REPO};a=b/readme",
    "an encoded semicolon": f"{REPO}%3ba/readme",
    "an encoded question mark": f"{REPO}/readme%3fa=b",
    "an encoded fragment": f"{REPO}/readme%23a",
    "an encoded NUL": f"{REPO}/readme%00",
    "an encoded line break": f"{REPO}/readme%0d%0aX-Evil:%20a",
    "bad UTF-8": f"{REPO}/%ff/readme",
    "overlong UTF-8": f"{REPO}/%c0%ae%c0%ae/readme",
    "a full-width dot": f"{REPO}/%ef%bc%8e%ef%bc%8e/readme",
    "a full-width slash": "/repos/alice%ef%bc%8fnotes/readme",
    "a broken escape": f"{REPO}/%2/readme",
    "an encoded letter of a rule": f"{REPO}/%72eadme",
    "an encoded letter of an operation": f"{REPO}/i%73sues",
    "another operation": "/user/emails",
    "the operation of an app": "/app/installations",
    "a deletion": f"DELETE {REPO}",
    "a workflow": f"PUT {REPO}/contents/.github/workflows/a.yml",
    "a workflow in capitals": f"PUT {REPO}/contents/.GITHUB/Workflows/a.yml",
    "the contents": f"PUT {REPO}/contents/a.txt",
    "a token for another app": "POST /applications/ours/token/scoped",
    "GraphQL": "POST /graphql",
    "HEAD": f"HEAD {REPO}/collaborators/bob/permission",
}


@pytest.mark.parametrize("name", PATHS)
async def test_a_path_is_refused_before_anything_is_sent(target: Target, name: str) -> None:
    one = await github(target)
    before = arrivals(target)
    method, _, path = PATHS[name].rpartition(" ")
    body = "{}" if method in {"PUT", "POST"} else ""
    said = await raw(one, f"{method or 'GET'} {one.path}{path} HTTP/1.1", body=body)
    assert said[9:10] == b"4", said
    assert arrivals(target) == before


HEADERS = {
    "a method override": "X-HTTP-Method-Override: DELETE",
    "another method override": "X-Method-Override: DELETE",
    "a third method override": "X-HTTP-Method: DELETE",
    "an upgrade": "Upgrade: websocket",
    "a second authorization": "Authorization: Bearer gho_other",
    "the portal's cookie": "Cookie: COOKIES",
    "a foreign origin": "Origin: https://evil.example",
    "a null origin": "Origin: null",
    "two content types": "Content-Type: text/plain",
}


@pytest.mark.parametrize("name", HEADERS)
async def test_a_header_is_refused_before_anything_is_sent(target: Target, name: str) -> None:
    one = await github(target)
    before = arrivals(target)
    cookies = "; ".join(f"{item.name}={item.value}" for item in target.alice.http.cookies.jar)
    line = HEADERS[name].replace("COOKIES", cookies)
    said = await raw(
        one,
        f"POST {one.path}{REPO}/issues HTTP/1.1",
        "Content-Type: application/json",
        line,
        "Content-Length: 2",
        body="{}",
    )
    assert said[9:10] in {b"4", b"5"}, said
    assert not said.startswith(b"HTTP/1.1 500")
    assert arrivals(target) == before


LEFT_BEHIND = (
    *(
        "Cookie: a=b",
        "X-Forwarded-For: 9.9.9.9",
        "X-Forwarded-Host: evil.example",
        "Forwarded: for=9.9.9.9",
        "Range: bytes=0-1",
    ),
    *(
        "X-GitHub-Token: a",
        "Proxy-Authorization: Basic YTpi",
        "TE: trailers",
        "Via: 1.1 evil",
        "X-Original-URL: /user",
        "Expect: 100-continue",
    ),
)


@pytest.mark.parametrize("header", LEFT_BEHIND)
async def test_a_header_does_not_reach_the_provider(target: Target, header: str) -> None:
    one = await github(target)
    said = await raw(one, f"GET {one.path}{REPO}/readme HTTP/1.1", header)
    assert b" 200 " in said.split(b"\r\n")[0] + b" ", said
    name = header.partition(":")[0].lower()
    assert name not in target.provider.arrivals[-1].headers


async def test_what_connection_names_does_not_reach_the_provider_and_takes_nothing_away(target: Target) -> None:
    one = await github(target)
    said = await raw(one, f"GET {one.path}{REPO}/readme HTTP/1.1", "Connection: close, authorization, host, user-agent")
    last = target.provider.arrivals[-1].headers
    if said.startswith(b"HTTP/1.1 200"):
        assert last["authorization"] == f"Bearer {UPSTREAM}"


BODIES = {
    "a credential in a form": ("application/x-www-form-urlencoded", "access_token=gho_other"),
    "a credential in capitals": ("application/x-www-form-urlencoded", "Access_Token=gho_other"),
    "a method override in a form": ("application/x-www-form-urlencoded", "_method=DELETE"),
    "a form with files": ("multipart/form-data; boundary=a", "--a--"),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_is_refused_before_anything_is_sent(target: Target, name: str) -> None:
    one = await github(target)
    before = arrivals(target)
    kind, body = BODIES[name]
    answer = await one.call("POST", f"{REPO}/issues", content=body, headers={"content-type": kind})
    assert answer.status_code in {400, 415}, answer.text
    assert arrivals(target) == before


@pytest.mark.parametrize(
    "query", ["access_token=a", "ACCESS_TOKEN=a", "_method=DELETE", "access%5ftoken=a", "client_secret=a", "HANDLE"]
)
async def test_a_query_is_refused_before_anything_is_sent(target: Target, query: str) -> None:
    one = await github(target)
    before = arrivals(target)
    answer = await one.call("GET", f"{REPO}/readme?{query.replace('HANDLE', 'q=' + one.value)}")
    assert answer.status_code == 400, answer.text
    assert arrivals(target) == before


def reply_spelling(way: str) -> Reply:
    """A provider's answer that repeats the credential in this form."""
    plain = {"content-type": "application/json"}
    match way:
        case "as it is":
            return Reply(200, UPSTREAM.encode(), plain)
        case "in JSON with escaped slashes":
            return Reply(200, json.dumps({"a": UPSTREAM}).replace("/", "\\/").encode(), plain)
        case "with a \\u-escaped letter":
            return Reply(200, ('{"a":"' + UPSTREAM.replace("c", "\\u0063") + '"}').encode(), plain)
        case "with every letter \\u-escaped":
            return Reply(200, ('{"a":"' + "".join(f"\\u{ord(one):04X}" for one in UPSTREAM) + '"}').encode(), plain)
        case "percent-encoded":
            return Reply(200, UPSTREAM.replace("/", "%2F").replace("=", "%3D").replace("+", "%2B").encode(), plain)
        case "in a header":
            return Reply(200, b"{}", {"x-echo": f"token {UPSTREAM}"})
        case "in an error":
            return Reply(422, json.dumps({"message": f"bad token {UPSTREAM}"}).encode(), plain)
        case "behind 70 KB":
            return Reply(200, b" " * 70_000 + UPSTREAM.encode(), plain)
        case "in base64 of Basic":
            return Reply(200, base64.b64encode(f"x-access-token:{UPSTREAM}".encode()), plain)
        case _:
            return Reply(200, f"Authorization: bearer {UPSTREAM}\r\n".encode(), {"content-type": "text/plain"})


SPELLINGS = (
    *(
        "as it is",
        "in JSON with escaped slashes",
        "with a \\u-escaped letter",
        "with every letter \\u-escaped",
        "percent-encoded",
    ),
    *("in a header", "in an error", "behind 70 KB", "in an echo of the request"),
)


@pytest.mark.parametrize("way", SPELLINGS)
async def test_a_credential_that_the_provider_repeats_does_not_get_out(target: Target, way: str) -> None:
    one = await github(target)
    target.kept["reply"] = reply_spelling(way)
    answer = await one.call("GET", f"{REPO}/readme")
    text = answer.text + str(answer.headers)
    with contextlib.suppress(ValueError):
        text += str(answer.json())
    assert "canary" not in text, text[-300:]
    assert UPSTREAM.encode() not in answer.content


@pytest.mark.parametrize(
    "name",
    [
        '"temp_clone_token"',
        '"temp_clone_token" ',
        '"temp\\u005fclone_token"',
        '"\\u0074emp_clone_token"',
        '"a":{},"temp_clone_token"',
        '"temp_clone_token":"","temp_clone_token"',
    ],
)
@pytest.mark.parametrize("before", [0, 70_000])
async def test_a_credential_that_an_answer_contains_does_not_get_out(target: Target, name: str, before: int) -> None:
    one = await github(target)
    body = f'{{"full_name":"alice/notes",{name}:"canary-of-a-clone","private":true}}'
    target.kept["reply"] = Reply(200, b" " * before + body.encode(), {"content-type": "application/json"})
    answer = await one.call("GET", f"{REPO}/readme", headers={"accept-charset": "utf-16"})
    assert answer.status_code == 200, answer.text
    assert "canary" not in answer.text
    assert answer.json() | {"a": 0} == {  # the twin: everything else is there
        "full_name": "alice/notes",
        "temp_clone_token": "*" * len("canary-of-a-clone"),
        "private": True,
        "a": 0,
    }


PLACES = {
    "another host": "https://evil.example/",
    "another host without a scheme": "//evil.example/",
    "the metadata service": "http://169.254.169.254/latest/",
    "dot segments out of the API": "/rest/../token",
    "a javascript address": "javascript:alert(1)",
    "our own pages": "/connections",
}


@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("name", PLACES)
async def test_a_redirect_leads_nowhere(target: Target, name: str, status: int) -> None:
    one = await github(target)
    before = len(target.provider.arrivals)
    target.kept["reply"] = Reply(status, b"", {"location": PLACES[name]})
    answer = await one.call("GET", f"{REPO}/readme")
    assert answer.status_code == 502, answer.text
    assert "evil" not in answer.headers.get("location", "")
    assert len(target.provider.arrivals) <= before + 1


ANSWERS = {
    "a cookie": {"set-cookie": "token_vault_session=a; Path=/"},
    "a policy": {"content-security-policy": "default-src *"},
    "cross-origin access": {"access-control-allow-origin": "*", "access-control-allow-credentials": "true"},
    "caching": {"cache-control": "public, max-age=31536000"},
    "a service worker": {"service-worker-allowed": "/"},
    "a challenge": {"www-authenticate": "Basic realm=vault"},
    "transport security": {"strict-transport-security": "max-age=31536000"},
    "a refresh": {"refresh": "0; url=https://evil.example"},
    "a refusal of ours": {"token-vault-refusal": "grant_ended"},
    "clearing of site data": {"clear-site-data": '"*"'},
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_does_not_set_on_our_origin(target: Target, name: str) -> None:
    one = await github(target)
    target.kept["reply"] = Reply(200, b"<script>alert(1)</script>", {"content-type": "text/html", **ANSWERS[name]})
    answer = await one.call("GET", f"{REPO}/readme")
    for header, value in ANSWERS[name].items():
        assert answer.headers.get(header) != value
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["cache-control"] == "no-store"


_WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
RAW = {
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 30\r\n\r\n{}",
    "a length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.0\r\n",
    "an endless status": b"HTTP/1.1 200 " + b"a" * 200_000 + b"\r\n\r\n",
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "a second answer behind the first": _WHOLE + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsteal",
    "an encoding nobody asked for": b"HTTP/1.1 200 OK\r\nContent-Encoding: aes128gcm\r\nContent-Length: 2\r\n\r\n{}",
    "a cut body": b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}",
    "a header with a line break": b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("name", RAW)
async def test_a_hostile_answer_ends_in_a_refusal_or_a_clean_answer(target: Target, name: str) -> None:
    one = await github(target)
    target.kept["reply"] = Reply(raw=RAW[name])
    try:
        answer = await one.call("GET", f"{REPO}/readme")
    except httpx2.HTTPError:
        assert name == "a cut body"
        return
    assert answer.status_code in {200, 502}, answer.text
    assert "steal" not in answer.text
    assert "set-cookie" not in answer.headers
    target.kept["reply"] = json_reply({"next": True})
    assert (await one.call("GET", f"{REPO}/readme")).json() == {"next": True}


@pytest.mark.parametrize(
    "who",
    [
        "nobody",
        "an access token",
        "a foreign handle",
        "another connection",
        "another API",
        "a cut handle",
        "a bound scheme",
    ],
)
async def test_a_call_is_refused_for(target: Target, who: str) -> None:
    one = await github(target)
    before = arrivals(target)
    base, value = one.base, one.value
    match who:
        case "nobody":
            value = ""
        case "an access token":
            value = (await target.agent()).token
        case "a foreign handle":
            value = (await handle(target, "slack", "chat:write")).value
        case "another connection":
            base = base.replace(one.path.split("/")[2], (await target.connection_ids("mallory"))["github"])
        case "another API":
            base = base.rpartition("/")[0] + "/web"
        case "a cut handle":
            value = value[:-1]
        case _:
            pass
    headers = {"authorization": f"Bearer {value}"} if value else {}
    if who == "a bound scheme":
        made = proof(new_key(), "GET", f"{base}{REPO}/readme")
        headers = {"authorization": f"DPoP {value}", "dpop": made}
    answer = await target.http.get(f"{base}{REPO}/readme", headers=headers)
    assert answer.status_code in {401, 404}, answer.text
    assert arrivals(target) == before
    assert UPSTREAM not in answer.text


async def test_a_preflight_says_yes_to_reading_without_credentials_only(target: Target) -> None:
    one = await github(target)
    sent = {"origin": "https://evil.example", "access-control-request-method": "GET"}
    answer = await target.http.options(f"{one.base}{REPO}/readme", headers=sent)
    assert "access-control-allow-credentials" not in answer.headers
    called = await one.call("GET", f"{REPO}/readme", headers={"origin": "https://evil.example"})
    assert called.status_code == 403


async def test_a_chunked_body_with_trailers_reaches_the_provider_without_them(target: Target) -> None:
    one = await github(target)
    body = "2\r\n{}\r\n0\r\nAuthorization: Bearer gho_other\r\nX-HTTP-Method-Override: DELETE\r\n\r\n"
    said = await raw(
        one,
        f"POST {one.path}{REPO}/issues HTTP/1.1",
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
        body=body,
    )
    if said.startswith(b"HTTP/1.1 200"):
        last = target.provider.arrivals[-1]
        assert last.headers["authorization"] == f"Bearer {UPSTREAM}"
        assert "x-http-method-override" not in last.headers
