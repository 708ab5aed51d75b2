"""One function per parser: it takes any bytes, and raises only what the parser's callers expect."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from joserfc.jwk import OctKey

from providers.definitions.catalog import Provider, load_catalog
from providers.oauth.token_responses import ResponseContext, judge
from providers.outbound.client import OutboundResponse
from providers.outbound.json_values import at, parse_content, parse_object
from server.http.addresses import counting_key, network_of
from server.http.strict_json import has_more_parts, json_object, parse_json
from server.mcp import fast_path, mcp_bodies
from server.oauth.clients.metadata_documents import MAX_FRESH, MIN_FRESH, freshness, is_document_url
from server.oauth.dpop import check_proof
from server.oauth.parameters import parse_parameters
from server.oauth.redirect_uris import check_redirect_uri, is_loopback_redirect, redirect_matches
from server.oauth.rules import OAuthError, clean_name
from server.proxy.wire import ProxyRefused, merge, read_body, read_query, read_target
from server.runtime.printable import printable
from server.signatures import jose
from vault.envelope import KEY_LENGTH, Context, open_sealed, seal
from vault.keys.sealed_file import MAGIC, read_content, read_header
from vault.refresh.journal_slots import JournalEntry, decode, encode
from vault.refusals import VaultError
from vault.upstream import TokenAnswer

NOW = 1_800_000_000
KEY = bytes(KEY_LENGTH)
CONTEXT = Context("fuzz", "default", "user", "slack", "account", "record", 7)


@dataclass(frozen=True)
class Target:
    """A parser under test, and its seeds."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


TARGETS: dict[str, Target] = {}


def target(*seeds: bytes) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Register the function with its seeds under its name."""

    def enter(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        TARGETS[run.__name__] = Target(run, seeds)
        return run

    return enter


@functools.cache
def provider(name: str) -> Provider:
    return load_catalog().provider(name)


@target(b'{"a":[1,{"b":null}],"c":"\\u00e9"}', b"[" * 40, b'{"a":1,"a":2}', b"NaN", b'"\\\\')
def strict_json(data: bytes) -> None:
    has_more_parts(data, nested=10, values=100)
    with contextlib.suppress(ValueError):
        assert parse_json(data) == json.loads(data)
    with contextlib.suppress(ValueError):
        json_object(data)


@target(b"grant_type=refresh_token&refresh_token=a%20b&scope=x+y", b"a=1&a=2", b"%zz=%", b"=&&;")
def form_parameters(data: bytes) -> None:
    with contextlib.suppress(OAuthError):
        parameters = parse_parameters(data.decode("latin-1"))
        parameters.refuse_repeated()


@target(
    b"http://127.0.0.1:33418/callback", b"https://app.example/cb?x=1", b"cursor://anysphere/x", b"http://[::1]:1/",
    b"https://app.example@evil.example/", b"https://app.example\\.evil/", b"javascript:alert(1)",
)  # fmt: skip
def redirect_uri(data: bytes) -> None:
    uri = data.decode("utf-8", "replace")
    is_loopback_redirect(uri)
    redirect_matches(["http://127.0.0.1/callback", "https://app.example/cb"], uri)
    with contextlib.suppress(OAuthError):
        check_redirect_uri(uri, private_use_schemes={"cursor"})
        assert redirect_matches([uri], uri)
        assert not uri.lower().startswith(("javascript:", "data:", "file:"))
        assert "#" not in uri
        assert uri.isprintable()


@target(b"https://app.example/client.json", b"https://app.example", b"https://u:p@app.example/x", b"https://10.0.0.1/x")
def document_address(data: bytes) -> None:
    address = data.decode("utf-8", "replace")
    if is_document_url(address, allow_loopback=False):
        assert address.startswith("https://")
        assert "@" not in address.split("/")[2]


@target(b"max-age=600", b"public, max-age=99999999999999", b"no-store", b"Thu, 01 Dec 1994 16:00:00 GMT", b"0")
def document_freshness(data: bytes) -> None:
    text = data.decode("latin-1")
    for header in ("cache-control", "expires"):
        assert MIN_FRESH <= freshness({header: text}, now=NOW) <= MAX_FRESH


def _jws(header: Mapping[str, object], claims: Mapping[str, object], signature: bytes = bytes(64)) -> bytes:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


JWK = {  # RFC 7515 appendix A.3
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
PROOF = {"htm": "POST", "htu": "https://vault.example/token", "iat": NOW, "jti": "1"}


@target(
    _jws({"alg": "ES256", "typ": "dpop+jwt", "jwk": JWK}, PROOF),
    _jws({"alg": "none", "typ": "dpop+jwt"}, PROOF),
    b"a.b.c",
)
def dpop_proof(data: bytes) -> None:
    try:
        check_proof(data.decode("latin-1"), method="POST", url="https://vault.example/token", now=NOW)
    except OAuthError:
        return
    raise AssertionError("a proof that nobody signed counts")


@target(_jws({"alg": "RS256", "kid": "1", "typ": "at+jwt"}, {"iss": "x", "exp": NOW}), b"e30.e30.AA", b"....")
def signed_token(data: bytes) -> None:
    token = data.decode("latin-1")
    with contextlib.suppress(jose.TokenMalformed):
        jose.check_header(
            jose.unverified_header(token), algorithms=jose.FOREIGN_ALGORITHMS, allowed=("alg", "typ", "kid")
        )
    with contextlib.suppress(jose.TokenMalformed):
        jose.integer_claim(jose.unverified_claims(token), "exp")


@target(
    json.dumps(JWK).encode(),
    b'{"kty":"RSA","n":"AQAB","e":"AQAB"}',
    b'{"kty":"oct","k":"AA"}',
    b'{"kty":"OKP","crv":"Ed25519","x":"AA"}',
)
def public_key(data: bytes) -> None:
    with contextlib.suppress(ValueError, jose.TokenMalformed):
        members = parse_json(data)
        for algorithm in jose.FOREIGN_ALGORITHMS:
            with contextlib.suppress(jose.TokenMalformed):
                key = jose.public_key(members, algorithm=algorithm)
                assert not isinstance(key, OctKey)
                assert not key.is_private


@target(
    b"/proxy/c1/web/chat.postMessage",
    b"/proxy/c1/web/../x",
    b"/proxy/c1/web/%2e%2e/x",
    b"/proxy/c1/web/a%2fb",
    b"/upload/x",
)
def proxy_target(data: bytes) -> None:
    with contextlib.suppress(ProxyRefused):
        found = read_target(data)
        parts = found.path.lower().replace("%2e", ".").split("/")
        assert found.path.startswith("/")
        assert ".." not in parts
        assert "%2f" not in found.path.lower()
        assert "\\" not in found.path


@target(
    b"q\x00a=1&b=2",
    b"q\x00a=1&A=2",
    b"q\x00" + b"_" * 60 + b"=1",
    b'application/json\x00{"a":1}',
    b"application/x-www-form-urlencoded\x00a=b&a=c",
)
def proxy_content(data: bytes) -> None:
    kind, _, rest = data.partition(b"\x00")
    for name in ("slack", "google", "github"):
        with contextlib.suppress(ProxyRefused):
            query = read_query(rest, provider(name))
            body = read_body(kind.decode("latin-1"), rest, provider(name), is_judged=True)
            if body is not None:
                merge(query, body, ("channel", "q"))


@target(
    b'{"ok":true,"access_token":"xoxe.xoxp-1","expires_in":3600}',
    b'{"error":"invalid_grant"}',
    b'{"expires_in":1e400}',
    b"<html>",
)
def token_answer(data: bytes) -> None:
    asked = ResponseContext(is_refresh=True, secrets=("spent-secret-value",), now=NOW)
    for status in (200, 400, 503):
        for name in ("slack", "google", "github"):
            answer = OutboundResponse(status, {"content-type": "application/json"}, data)
            outcome = judge(provider(name), answer, asked)
            assert "spent-secret-value" not in repr(outcome)
            assert not isinstance(outcome, TokenAnswer) or status == 200


@target(b'{"a":{"b":[{"c":1}]}}', b"[]", b'{"a":"\\ud800"}')
def foreign_json(data: bytes) -> None:
    for parse in (parse_object, parse_content):
        at(parse(data), "a.b.c")


@target(
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"slack_post","arguments":{"text":"x"}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}',
    b'[{"jsonrpc":"2.0"}]',
)
def mcp_message(data: bytes) -> None:
    mcp_bodies.is_costly(data)
    with contextlib.suppress(ValueError):
        mcp_bodies.parse(data)
    fast_path.read_message(data, None)
    headers = ((b"mcp-method", b"tools/call"), (b"mcp-protocol-version", b"2026-07-28"), (b"mcp-name", data[:40]))
    fast_path.read(
        (*headers, (b"accept", b"application/json, text/event-stream"), (b"content-type", b"application/json")), data
    )


@target(seal(b"secret", key=KEY, key_id="k1", context=CONTEXT), b"\x01\x02k1", b"")
def sealed_value(data: bytes) -> None:
    try:
        opened = open_sealed(data, key=KEY, context=CONTEXT)
    except VaultError:
        return
    assert opened == b"secret", "another value opens"


@target(
    encode(JournalEntry("c1", 3, "owner", 4, NOW, b"sealed" * 20)),
    encode(JournalEntry("c2", 1, "o", 1, 1, b"x" * 9000)),
    b"TVJ1",
)
def journal_record(data: bytes) -> None:
    entry = decode(data)
    if entry is not None:
        assert decode(encode(entry)) == entry


@target(b"TVB", b"", MAGIC + b"\x00\x00\x00\x05hello" + b"\x00\x00\x00\x20" + bytes(32))
def backup_file(data: bytes) -> None:
    file = io.BytesIO(data)
    with contextlib.suppress(VaultError):
        header = read_header(file)
        for _ in read_content(file, key=KEY, header=header):
            raise AssertionError("content that nobody sealed opens")


@target(b"192.0.2.1", b"::ffff:10.0.0.1", b"2001:db8::1%eth0", b"localhost", b"unknown")
def address(data: bytes) -> None:
    text = data.decode("latin-1")
    counting_key(text)
    network_of(text)


@target(b"Claude\xe2\x80\xae Desktop", b"\x1b[2J", b"\xff\x00name")
def shown_text(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    assert "\x1b" not in printable(text)
    assert "\u202e" not in printable(text)
    assert len(clean_name(text)) <= 100
