"""AWS Signature Version 4: signs a request with an access key, as docs.aws.amazon.com/IAM describes it. Pure.

A client's own signature is replaced: the request that is sent has only the signature of the account's own key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from providers.outbound.json_values import parse_object, text_at
from providers.outbound.messages import OutboundRequest

ALGORITHM: Final = "AWS4-HMAC-SHA256"
UNSIGNED: Final = "UNSIGNED-PAYLOAD"  # for a body that streams; S3 accepts it over TLS
_OURS: Final = frozenset({"authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"})
_UNRESERVED: Final = "-_.~"
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_OWN_HEADERS: Final = _OURS | {"x-amz-user-agent"}  # headers of a client that signs, which can be dropped
_XML_CODE: Final = re.compile(rb"<Code>([A-Za-z.]{1,80})</Code>")
_CLOCK: Final = (b"Signature expired", b"Signature not yet current", b"RequestTimeTooSkewed")  # ours, or theirs


class UnsignableBody(Exception):
    """The service requires signed bodies, and this one streams, so its hash is unknown."""


@dataclass(frozen=True, slots=True)
class AccessKey:
    """The key and the scope of its signatures."""

    id: str
    secret: str = field(repr=False)
    session_token: str = field(repr=False)
    region: str
    service: str


def sign_request(request: OutboundRequest, key: AccessKey, *, now: float) -> OutboundRequest:
    """The request with date, payload hash, and signature in its headers. Raises UnsignableBody."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    parts = urlsplit(request.url)
    query = _canonical_query(parts.query)
    payload = _payload_hash(request, key.service)
    headers = {name.lower(): " ".join(value.split()) for name, value in request.headers.items()}
    headers = {name: value for name, value in headers.items() if name not in _OURS}
    added = {"x-amz-date": stamp, "x-amz-content-sha256": payload}
    if key.session_token:
        added["x-amz-security-token"] = key.session_token
    signed = {name: value for name, value in headers.items() if name.startswith("x-amz-") or name == "content-type"}
    signed |= added | {"host": _host(parts.hostname or "", parts.port, parts.scheme)}
    names = ";".join(sorted(signed))
    lines = [request.method, _canonical_path(parts.path, key.service), query]
    lines += [*(f"{name}:{signed[name]}" for name in sorted(signed)), "", names, payload]
    scope = f"{stamp[:8]}/{key.region}/{key.service}/aws4_request"
    to_sign = "\n".join((ALGORITHM, stamp, scope, hashlib.sha256("\n".join(lines).encode()).hexdigest()))
    signature = hmac.new(_signing_key(key, stamp[:8]), to_sign.encode(), hashlib.sha256).hexdigest()
    added["authorization"] = f"{ALGORITHM} Credential={key.id}/{scope}, SignedHeaders={names}, Signature={signature}"
    kept = {name: value for name, value in request.headers.items() if name.lower() not in _OURS}
    before, mark, after = request.url.partition("?")
    url = before + mark + after.replace("+", "%20")  # "+" is literal in a path, but may be a space in a query
    return replace(request, url=url, headers={**kept, **added})


def header_passes(name: str, listed: Collection[str]) -> bool | None:
    """Whether a client's header is passed on; None to refuse the call, which would do something else without it.
    `listed`: headers that the provider file names. `x-amz-meta-` has people's own metadata of an object.
    """
    if name in listed or name.startswith("x-amz-meta-"):
        return True
    return None if name.startswith("x-amz-") and name not in _OWN_HEADERS else False


def error_code(body: bytes) -> str:
    """The code of an error in XML, or in JSON as `namespace#Code`; empty if there is none."""
    if (content := parse_object(body)) is not None:
        return (text_at(content, "__type") or "").rpartition("#")[2]
    found = _XML_CODE.search(body)
    return "" if found is None else found[1].decode()


def is_clock_error(body: bytes) -> bool:
    """Whether two clocks differ too much for any signature, which says nothing about the key."""
    return any(text in body for text in _CLOCK)


def credential_of(authorization: str) -> str | None:
    """The access key ID of a client's own signature; None if there is none."""
    scheme, _, parameters = authorization.partition(" ")
    if scheme.upper() != ALGORITHM:
        return None
    parts = (one.strip() for one in parameters.split(","))
    return next((one[11:].partition("/")[0] for one in parts if one.startswith("Credential=")), "") or None


def region_of(authorization: str) -> str:
    """The region of a client's own signature; empty where there is none."""
    scheme, _, parameters = authorization.partition(" ")
    found = re.search(r"(?:^|[ ,])Credential=[^/,]*/[0-9]*/([a-z0-9-]+)/", parameters)
    return found[1] if found is not None and scheme.upper() == ALGORITHM else ""


def _payload_hash(request: OutboundRequest, service: str) -> str:
    if request.body is None or isinstance(request.body, bytes):
        return hashlib.sha256(request.body or b"").hexdigest()
    if service != "s3":
        raise UnsignableBody
    return UNSIGNED


def _canonical_path(path: str, service: str) -> str:
    """The path, encoded once for S3 and twice for all others."""
    once = "/".join(quote(unquote(segment), safe=_UNRESERVED) for segment in (path or "/").split("/"))
    return once if service == "s3" else quote(once, safe="/" + _UNRESERVED)


def _canonical_query(query: str) -> str:
    pairs = [one.partition("=") for one in query.split("&") if one]
    encoded = [(_encode(name), _encode(value)) for name, _, value in pairs]
    return "&".join(f"{name}={value}" for name, value in sorted(encoded))


def _encode(text: str) -> str:
    return quote(unquote_plus(text), safe=_UNRESERVED)


def _host(name: str, port: int | None, scheme: str) -> str:
    host = f"[{name}]" if ":" in name else name
    return host if port is None or port == _DEFAULT_PORTS.get(scheme) else f"{host}:{port}"


def _signing_key(key: AccessKey, day: str) -> bytes:
    made = f"AWS4{key.secret}".encode()
    for part in (day, key.region, key.service, "aws4_request"):
        made = hmac.new(made, part.encode(), hashlib.sha256).digest()
    return made
