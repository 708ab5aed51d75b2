"""Which web pages may read answers to a client."""

from __future__ import annotations

import pytest

from server.http import cors
from server.settings import load_settings
from vault.records import Client, ClientKind

SETTINGS = load_settings(
    overrides={"server": {"public_url": "https://vault.example", "allowed_origins": ("https://console.example",)}}
)


def client(*redirect_uris: str, origins: tuple[str, ...] = ()) -> Client:
    return Client(
        id="c",
        kind=ClientKind.DYNAMIC,
        name="c",
        auth_method="none",
        redirect_uris=redirect_uris,
        created_at=0,
        metadata={"origins": list(origins)},
    )


APP = client("https://app.example/callback", "https://other.example:8443/cb", "com.app:/cb", "http://127.0.0.1/cb")


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example",
        "https://other.example:8443",
        "http://127.0.0.1",
        "http://127.0.0.1:5173",
        "https://vault.example",
        "https://console.example",
    ],
)
def test_pages_of_registered_origins_may_read(origin: str) -> None:
    assert cors.may_read(SETTINGS, APP, origin)
    headers = dict(cors.answer_headers(origin, is_allowed=True))
    assert headers[b"access-control-allow-origin"] == origin.encode()
    assert b"access-control-allow-credentials" not in headers
    assert headers[b"vary"] == b"Origin"


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.evil.example",
        "https://other.example",
        "https://app.example/",
        "https://user@app.example",
        "http://localhost",
        "https://127.0.0.1",
        "null",
        "",
        "com.app:",
        "http://[::1",
    ],
)
def test_other_pages_may_not(origin: str) -> None:
    assert not cors.may_read(SETTINGS, APP, origin)
    assert b"access-control-allow-origin" not in dict(cors.answer_headers(origin, is_allowed=False))


def test_an_origin_can_be_named_for_one_client() -> None:
    assert cors.may_read(SETTINGS, client(origins=("https://spa.example",)), "https://spa.example")
    assert not cors.may_read(SETTINGS, client(), "https://spa.example")


def test_what_any_page_may_read_is_the_same_for_all_of_them() -> None:
    headers = dict(cors.answer_headers(cors.ANY))
    assert headers[b"access-control-allow-origin"] == b"*"
    assert b"vary" not in headers


def test_a_preflight_never_allows_credentials() -> None:
    headers = cors.preflight("https://app.example", methods=("POST",)).headers
    assert headers["Access-Control-Allow-Methods"] == "POST"
    assert "Access-Control-Allow-Credentials" not in headers
