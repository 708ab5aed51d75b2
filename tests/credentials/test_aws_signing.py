"""Requests that the vault signs with an access key, compared with botocore's signatures for the same requests."""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.credentials.aws import UNSIGNED, AccessKey, UnsignableBody, credential_of, sign_request
from providers.outbound.messages import OutboundRequest

auth: Any = importlib.import_module("botocore.auth")  # untyped
awsrequest: Any = importlib.import_module("botocore.awsrequest")
credentials: Any = importlib.import_module("botocore.credentials")

NOW = 1_800_000_000
KEY = AccessKey("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "", "eu-west-1", "s3")
NAMES = st.text("aZ09-_.~ /!()*+,:;=@&?%$#'\"äß漢😀", min_size=1, max_size=6)
ENDS: tuple[str, ...] = ("Authorization", "X-Amz-Date", "X-Amz-Content-SHA256", "X-Amz-Security-Token")


def botocore_s(request: OutboundRequest, key: AccessKey) -> str:
    """The Authorization header that botocore makes for a request with these headers at the same time."""
    sent = {name.lower(): value for name, value in request.headers.items()}
    listed = sent["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    signed = {name: value for name, value in sent.items() if name in listed}
    assert {"host", "x-amz-date"} <= set(listed)
    asked = awsrequest.AWSRequest(request.method, request.url, headers=signed, data=request.body or b"")
    asked.context["timestamp"] = sent["x-amz-date"]
    asked.context["client_config"] = None
    kind = auth.S3SigV4Auth if key.service == "s3" else auth.SigV4Auth
    signer = kind(credentials.Credentials(key.id, key.secret, key.session_token or None), key.service, key.region)
    prepared = signer.canonical_request(asked)
    signature = signer.signature(signer.string_to_sign(asked, prepared), asked)
    names = signer.signed_headers(signer.headers_to_sign(asked))
    return f"AWS4-HMAC-SHA256 Credential={signer.scope(asked)}, SignedHeaders={names}, Signature={signature}"


@settings(max_examples=60)
@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE"]),
    segments=st.lists(NAMES, max_size=4),
    query=st.dictionaries(NAMES, NAMES | st.just(""), max_size=4),
    body=st.binary(max_size=64),
    service=st.sampled_from(["s3", "sts", "ses"]),
    token=st.sampled_from(["", "IQoJb3JpZ2luX2VjEXAMPLE"]),
    port=st.sampled_from(["", ":8443"]),
)
def test_a_request_is_signed_as_botocore_signs_it(
    method: str, segments: list[str], query: dict[str, str], body: bytes, service: str, token: str, port: str
) -> None:
    path = "/" + "/".join(quote(one, safe="-_.~") for one in segments if one.strip("."))
    url = f"https://s3.eu-west-1.amazonaws.com{port}{path}"
    url += "?" + urlencode(query, quote_via=quote, safe="-_.~") if query else ""
    key = AccessKey(KEY.id, KEY.secret, token, KEY.region, service)
    headers = {"Content-Type": "text/plain;  charset=utf-8", "X-Amz-Meta-Color": " blue ", "User-Agent": "x"}
    made = sign_request(OutboundRequest(method, url, headers=headers, body=body), key, now=NOW)
    assert made.headers["authorization"] == botocore_s(made, key)
    assert made.headers["x-amz-date"] == datetime.fromtimestamp(NOW, UTC).strftime("%Y%m%dT%H%M%SZ")
    assert made.headers.get("x-amz-security-token", "") == token


def test_what_a_client_signed_is_gone() -> None:
    theirs: dict[str, str] = dict.fromkeys(ENDS, "theirs")
    made = sign_request(OutboundRequest("GET", "https://s3.example/", headers=theirs), KEY, now=NOW)
    assert not any("theirs" in value for value in made.headers.values())
    assert len({name.lower() for name in made.headers}) == len(made.headers)
    assert sign_request(OutboundRequest("GET", "https://s3.example/"), KEY, now=NOW).headers == made.headers


def test_a_blank_in_a_query_is_signed_as_it_is_sent() -> None:
    made = sign_request(OutboundRequest("GET", "https://s3.example/b?prefix=a+b&acl"), KEY, now=NOW)
    same = sign_request(OutboundRequest("GET", "https://s3.example/b?prefix=a%20b&acl="), KEY, now=NOW)
    assert made.url == "https://s3.example/b?prefix=a%20b&acl"
    assert made.headers == same.headers


def test_a_plus_in_a_path_stays_what_it_is() -> None:
    made = sign_request(OutboundRequest("GET", "https://s3.example/box/a+b.txt?x=y+z"), KEY, now=NOW)
    same = sign_request(OutboundRequest("GET", "https://s3.example/box/a%2Bb.txt?x=y%20z"), KEY, now=NOW)
    assert made.url == "https://s3.example/box/a+b.txt?x=y%20z"
    assert made.headers == same.headers


async def test_a_body_that_streams_is_signed_only_where_the_service_takes_that() -> None:
    async def body() -> AsyncGenerator[bytes]:
        yield b"x"

    request = OutboundRequest("PUT", "https://s3.example/b/k", body=body())
    assert sign_request(request, KEY, now=NOW).headers["x-amz-content-sha256"] == UNSIGNED
    with pytest.raises(UnsignableBody):
        sign_request(request, AccessKey(KEY.id, KEY.secret, "", "eu-west-1", "ses"), now=NOW)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (
            "AWS4-HMAC-SHA256 Credential=handle_1/20270115/eu-west-1/s3/aws4_request, SignedHeaders=h, Signature=0",
            "handle_1",
        ),
        ("aws4-hmac-sha256 SignedHeaders=h,Credential=handle_1/x", "handle_1"),
        ("AWS4-HMAC-SHA256 Signature=0", None),
        ("Bearer handle_1", None),
        ("", None),
    ],
)
def test_the_access_key_of_a_client_s_signature_is_its_handle(header: str, found: str | None) -> None:
    assert credential_of(header) == found
