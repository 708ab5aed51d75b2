"""Private keys made to take very long to open: the vault gives up on them, and nothing else waits."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from providers.api.masking import mask_text
from providers.api.secrets import masks_of
from providers.credentials.certificates import open_identity
from providers.credentials.entered_values import CredentialRefused, pack, unpack
from providers.credentials.signing import open_key
from providers.definitions.catalog import KEYS, read_provider
from providers.definitions.credential import Credential
from providers.definitions.model import Provider
from server.connecting import entered_keys
from server.connecting.entered_keys import open_keys
from tests.credentials.test_client_certificates import issue

MOST = 2**31 - 1  # iterations: about five minutes
TELLER, SNOWFLAKE = read_provider(KEYS / "teller.toml"), read_provider(KEYS / "snowflake-key-pair.toml")


def credential_of(provider: Provider) -> Credential:
    assert provider.credential is not None
    return provider.credential


BANK, SIGNED = credential_of(TELLER), credential_of(SNOWFLAKE)
CUSTOMER = issue()
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2)
    return bytes([tag]) + length + content


def children(content: bytes) -> list[bytes]:
    """The complete values inside a sequence."""

    def size(at: bytes) -> tuple[int, int]:
        more = at[1] & 127 if at[1] & 128 else 0
        return 2 + more, int.from_bytes(at[2 : 2 + more]) if more else at[1]

    head, length = size(content)
    rest, found = content[head : head + length], list[bytes]()
    while rest:
        head, length = size(rest)
        found.append(rest[: head + length])
        rest = rest[head + length :]
    return found


def integer(value: int) -> bytes:
    return der(2, value.to_bytes(value.bit_length() // 8 + 1))


def costly_pem(iterations: int) -> str:
    """An encrypted key (RFC 5958 §3) with PBKDF2 (RFC 8018 §A.2) whose passphrase nobody has."""
    pbkdf2 = der(48, bytes.fromhex("06092a864886f70d01050c"), der(48, der(4, b"saltsalt"), integer(iterations)))
    aes = der(48, bytes.fromhex("060960864801650304012a"), der(4, bytes(16)))
    scheme = der(48, bytes.fromhex("06092a864886f70d01050d"), der(48, pbkdf2, aes))
    text = b64encode(der(48, scheme, der(4, bytes(1200)))).decode()
    return f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{text}\n-----END ENCRYPTED PRIVATE KEY-----\n"


def costly_pkcs12(iterations: int) -> str:
    """A valid file, except for the iteration count of its MAC key (RFC 7292 §4)."""
    version, safe, mac = children(b64decode(CUSTOMER.pkcs12(b"open sesame")))
    digest, salt, *_ = children(mac)
    return b64encode(der(48, version, safe, der(48, digest, salt, integer(iterations)))).decode()


@pytest.mark.parametrize(
    ("form", "iterations", "reason"),
    [("pem", MOST, "costly"), ("pem", 1000, "key"), ("pkcs12", MOST, "costly"), ("pkcs12", 1000, "key")],
)
async def test_a_key_that_takes_minutes_is_given_up_while_others_are_served(
    form: str, iterations: int, reason: str
) -> None:
    made = CUSTOMER.pem + costly_pem(iterations) if form == "pem" else costly_pkcs12(iterations)
    values = {"bundle": made, "passphrase": "open sesame", "token": "t" * 20}
    opening = asyncio.create_task(open_keys(BANK, values, seconds=1 if iterations == MOST else 60))
    served = 0
    while not opening.done():
        await asyncio.sleep(0.01)
        served += 1
    with pytest.raises(CredentialRefused) as refused:
        await opening
    assert (refused.value.reason, refused.value.field) == (reason, "bundle")
    assert served > 5


@pytest.mark.parametrize("seconds", [0.0, entered_keys.TIMEOUT])
async def test_a_machine_that_is_too_slow_opens_no_key(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(entered_keys, "TIMEOUT", seconds)
    opening = open_keys(BANK, {"bundle": CUSTOMER.pkcs12(b"x"), "passphrase": "x", "token": "t" * 20})
    if seconds:
        assert "PRIVATE KEY" in (await opening)["bundle"]
        return
    with pytest.raises(CredentialRefused) as refused:
        await opening
    assert (refused.value.reason, refused.value.field) == ("costly", "bundle")


async def test_what_is_sealed_is_open_and_calls_derive_nothing() -> None:
    sealed = RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")).decode()
    values = {"user": "AGENT", "private_key": sealed, "passphrase": "x"}
    with pytest.raises(CredentialRefused):
        open_key(SIGNED, values)  # the passphrase isn't tried, whoever stored the file
    opened = await open_keys(SIGNED, values)
    assert opened == {**values, "private_key": opened["private_key"], "passphrase": ""}
    assert open_key(SIGNED, unpack(SIGNED, pack(SIGNED, opened))).key_size == 2048
    certificate = BANK.send.certificate
    assert certificate is not None
    bundle = {"bundle": CUSTOMER.pkcs12(b"x"), "passphrase": "x", "token": "t" * 20}
    with pytest.raises(CredentialRefused):
        open_identity(certificate, bundle)
    shown = open_identity(certificate, await open_keys(BANK, bundle)).identity
    key = load_pem_private_key(shown.pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey) and key.private_numbers() == CUSTOMER.key.private_numbers()


def test_a_key_whose_use_takes_seconds_signs_nothing() -> None:
    for key in (RSA_KEY, rsa.generate_private_key(public_exponent=65537, key_size=4352)):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        if key is RSA_KEY:
            assert open_key(SIGNED, {"private_key": pem}).key_size == 2048
            continue
        with pytest.raises(CredentialRefused, match="private_key: key"):
            open_key(SIGNED, {"private_key": pem})


def test_a_short_passphrase_masks_nothing_in_answers() -> None:
    token = pack(BANK, {"bundle": "b" * 40, "passphrase": "1", "token": "t" * 20})
    secrets = masks_of(TELLER, token)
    assert mask_text('{"balance": "110.41"}', secrets) == '{"balance": "110.41"}'
    assert "t" * 20 not in mask_text(f"of {'t' * 20}", secrets)
