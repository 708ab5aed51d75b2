"""Certificates and private keys that are kept elsewhere: opened in few processes, and not for each call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from providers.credentials.certificates import open_identity
from providers.credentials.entered_values import CredentialRefused
from providers.definitions.credential import Credential
from providers.oauth.secret_references import SecretUnavailable
from server.connecting.entered_keys import open_keys
from server.secret_settings import SecretSettings
from server.secret_sources import EnteredSecrets, SecretSources, opened_keys
from tests.credentials.test_costly_keys import BANK, SIGNED
from tests.credentials.test_signed_tokens import PEM
from tests.support.certificates import issue

CUSTOMER = issue()
TOKEN = "t" * 20
SEALED = {"bundle": CUSTOMER.pkcs12(b"open sesame"), "passphrase": "open sesame", "token": TOKEN}
PLAIN = {"bundle": CUSTOMER.private() + CUSTOMER.pem, "passphrase": "", "token": TOKEN}
SIGNING = {"user": "AGENT", "private_key": PEM, "passphrase": ""}


@dataclass
class KeyOpener:
    """The product's key opener, with counts of its calls and of concurrent calls."""

    times: int = 0
    now: int = 0
    most: int = 0

    async def open_keys(self, credential: Credential, values: Mapping[str, str]) -> Mapping[str, str]:
        self.times += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await open_keys(credential, values)
        finally:
            self.now -= 1

    def secrets(self, *, cache: int) -> EnteredSecrets:
        settings = SecretSettings.model_validate({"cache": cache})
        return EnteredSecrets(SecretSources(settings), (), self.open_keys)


@pytest.mark.parametrize(
    ("credential", "values", "cache", "times"),
    [(BANK, SEALED, 60, 1), (BANK, SEALED, 0, 3), (BANK, PLAIN, 0, 1), (SIGNED, SIGNING, 0, 1)],
    ids=["sealed", "sealed, not remembered", "plain", "signing"],
)
async def test_values_are_opened_once_unless_nothing_may_be_remembered_of_what_is_sealed(
    credential: Credential, values: Mapping[str, str], cache: int, times: int
) -> None:
    opening = KeyOpener()
    secrets = opening.secrets(cache=cache)
    found = [await secrets.open_keys(credential, values) for _ in range(3)]
    assert opening.times == times
    assert found[0] == found[1] == found[2]
    if (certificate := credential.send.certificate) is not None:
        assert CUSTOMER.pem.strip() in open_identity(certificate, found[2]).identity.pem.decode()
    await secrets.open_keys(credential, {**values, "token": "u" * 20})
    assert opening.times == times + 1, "other values are opened for themselves"


@pytest.mark.parametrize("passphrase", ["open barley", "open sesame"])
async def test_what_does_not_open_is_not_tried_again_at_once(passphrase: str) -> None:
    opening = KeyOpener()
    secrets, values = opening.secrets(cache=0), {**SEALED, "passphrase": passphrase}
    for _ in range(3):
        if passphrase == "open sesame":
            await secrets.open_keys(BANK, values)
            continue
        with pytest.raises(CredentialRefused) as refused:
            await secrets.open_keys(BANK, values)
        assert (refused.value.field, refused.value.reason) == ("bundle", "key")
    assert opening.times == (3 if passphrase == "open sesame" else 1)


async def test_what_was_opened_is_forgotten_after_the_seconds_of_the_settings() -> None:
    opening = KeyOpener()
    secrets = opening.secrets(cache=1)
    await secrets.open_keys(BANK, SEALED)
    assert "PRIVATE KEY" in str(secrets._opened._known)
    async with asyncio.timeout(30):
        while secrets._opened._known:
            await asyncio.sleep(0.05)
    await secrets.open_keys(BANK, SEALED)
    assert opening.times == 2


async def test_calls_at_the_same_time_start_few_processes() -> None:
    opening = KeyOpener()
    secrets = opening.secrets(cache=60)
    values = [{**SEALED, "token": TOKEN + str(number)} for number in range(4)]
    await asyncio.gather(*(secrets.open_keys(BANK, one) for one in values))
    assert (opening.times, opening.most) == (4, opened_keys.AT_ONCE)


@pytest.mark.parametrize("seconds", [0.0, opened_keys.PATIENCE])
async def test_a_call_waits_for_its_key_for_a_limited_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(opened_keys, "PATIENCE", seconds)
    opening = KeyOpener().secrets(cache=0).open_keys(BANK, SEALED)
    if seconds:
        assert "PRIVATE KEY" in (await opening)["bundle"]
        return
    with pytest.raises(SecretUnavailable, match="takes too long"):
        await opening
