"""The vault's signatures for shipped services, compared with those of the services' SDKs for the same key."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping

import github
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from google.oauth2 import service_account
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from providers.credentials.entered_values import CredentialRefused
from providers.credentials.signing import NotNarrowable, open_key, sign
from providers.definitions.catalog import KEYS, ProviderOverrides, load_catalog, read_provider
from providers.definitions.model import Provider

NOW = 1_800_000_000
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


PEM, EC_PEM = pem(RSA_KEY), pem(EC_KEY)
EMAIL = "agent@project.iam.gserviceaccount.com"
INFO = {
    "type": "service_account",
    "client_email": EMAIL,
    "private_key_id": "0123456789abcdef0123",
    "private_key": PEM,
    "token_uri": "https://oauth2.googleapis.com/token",
}


def provider_with_inputs(name: str, **inputs: str) -> Provider:
    overrides = {name: ProviderOverrides(inputs=inputs, enabled=True)}
    return load_catalog((), overrides).provider(name)


def read(token: str, *, is_rsa: bool = True) -> tuple[Mapping[str, object], dict[str, object]]:
    """Verify the token's signature; return header and claims."""
    public = (RSA_KEY if is_rsa else EC_KEY).public_key()
    text = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    key = RSAKey.import_key(text) if is_rsa else ECKey.import_key(text)
    found = jwt.decode(token, key, algorithms=["RS256" if is_rsa else "ES256"])
    return found.header, dict(found.claims)


@pytest.mark.parametrize("subject", ["", "carol@example.com"])
def test_google_s_own_library_makes_the_same_assertion(subject: str) -> None:
    scopes = frozenset(
        {"https://www.googleapis.com/auth/drive.readonly", "https://www.googleapis.com/auth/gmail.readonly"}
    )
    theirs = service_account.Credentials.from_service_account_info(  # pyright: ignore[reportUnknownMemberType]
        INFO, scopes=sorted(scopes), subject=subject or None
    )
    made = getattr(theirs, "_make_authorization_grant_assertion")()  # noqa: B009 -- what it sends
    their_header, expected = read(made.decode())
    values = {"key_file": json.dumps(INFO), "subject": subject}
    header, claims = read(sign(provider_with_inputs("google-service-account"), values, scopes=scopes, now=NOW))
    assert header == their_header
    times = {name: claims.pop(name) for name in ("iat", "exp")}
    assert times == {"iat": NOW, "exp": NOW + 3600}
    assert expected.pop("exp") == int(str(expected.pop("iat"))) + 3600
    assert claims.pop("jti")
    assert claims == expected


def test_pygithub_makes_the_same_token_of_an_app() -> None:
    _, expected = read(github.Auth.AppAuth(123456, PEM, jwt_expiry=540).create_jwt())
    values = {"app_id": "123456", "installation_id": "1", "private_key": PEM}
    _, claims = read(sign(provider_with_inputs("github-app"), values, scopes=None, now=NOW))
    assert claims == {"iss": "123456", "iat": NOW - 60, "exp": NOW + 540}
    assert {name: str(value) for name, value in expected.items()}.keys() == claims.keys()
    assert str(expected["iss"]) == claims["iss"]


def test_snowflake_is_told_account_user_and_key_in_capitals() -> None:
    der = RSA_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fingerprint = base64.b64encode(hashlib.sha256(der).digest()).decode()
    provider = provider_with_inputs("snowflake-key-pair", account="myorg-acme")
    values = {"user": "agent_user", "private_key": PEM, "passphrase": ""}
    _, claims = read(sign(provider, values, scopes=None, now=NOW))
    assert claims == {
        "iss": f"MYORG-ACME.AGENT_USER.SHA256:{fingerprint}",
        "sub": "MYORG-ACME.AGENT_USER",
        "iat": NOW,
        "exp": NOW + 3540,
    }
    assert provider.apis["sql"] == "https://myorg-acme.snowflakecomputing.com/api/v2"


def test_apple_is_told_the_operations_where_each_scope_has_them() -> None:
    provider = read_provider(KEYS / "app-store-connect.toml")
    issuer = "57246542-96fe-1a63-e053-0824d011072a"
    values = {"issuer_id": issuer, "key_id": "2X9R4HXF34", "private_key": EC_PEM}
    header, claims = read(sign(provider, values, scopes=frozenset({"apps.list"}), now=NOW), is_rsa=False)
    assert header == {"alg": "ES256", "typ": "JWT", "kid": "2X9R4HXF34"}
    times = {"iat": NOW, "exp": NOW + 1140}
    assert claims == {"iss": issuer, "aud": "appstoreconnect-v1", "scope": ["GET /v1/apps"], **times}
    _, whole = read(sign(provider, values, scopes=None, now=NOW), is_rsa=False)
    assert "scope" not in whole
    with pytest.raises(NotNarrowable):
        sign(provider, values, scopes=frozenset({"apps.list", "write"}), now=NOW)


@pytest.mark.parametrize(
    ("key", "is_right"),
    [
        (RSA_KEY, True),
        (rsa.generate_private_key(public_exponent=65537, key_size=1024), False),
        (EC_KEY, False),
    ],
)
def test_only_a_key_of_the_algorithm_and_a_safe_size_signs(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, is_right: bool
) -> None:
    credential = provider_with_inputs("github-app").credential
    assert credential is not None
    values = {"app_id": "1", "installation_id": "1", "private_key": pem(key)}
    if is_right:
        assert open_key(credential, values).key_size == 2048
        return
    with pytest.raises(CredentialRefused, match="private_key: key"):
        open_key(credential, values)


def test_an_installation_has_the_rules_of_a_person_s_token_but_for_those_about_the_person() -> None:
    app, person = provider_with_inputs("github-app"), load_catalog().provider("github")
    shared = [rule for rule in person.rules if rule.api == "rest" and not rule.path.startswith("/user")]
    assert app.rules == tuple(shared)
