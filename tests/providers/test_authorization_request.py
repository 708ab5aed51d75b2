"""The only way in which an authorization request is written."""

from __future__ import annotations

import pytest

from providers.oauth.authorization_request import authorization_url

# RFC 7636, appendix B
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


@pytest.mark.parametrize(
    ("endpoint", "begin"),
    [
        ("https://a.example/auth", "https://a.example/auth?"),
        ("https://a.example/auth?t=1", "https://a.example/auth?t=1&"),
    ],
)
def test_parameters_follow_the_endpoints_own_query_and_inject_nothing(endpoint: str, begin: str) -> None:
    url = authorization_url(endpoint, {"state": "a b&client_id=x#"}, code_verifier=None)
    assert url == f"{begin}response_type=code&state=a+b%26client_id%3Dx%23"


def test_a_verifier_adds_its_challenge_under_the_servers_names() -> None:
    names = {"client_id": "client_key", "response_type": ""}
    url = authorization_url("https://a.example/", {"client_id": "c"}, code_verifier=VERIFIER, names=names)
    assert url == f"https://a.example/?client_key=c&code_challenge={CHALLENGE}&code_challenge_method=S256"
