"""Opens the private key among the entered values in a separate process.

The private key is sealed without a passphrase, so that an agent's call doesn't have to derive a key. A key that is kept
elsewhere is opened again for calls, since `server.secret_sources.opened_keys` remembers it only briefly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from providers.credentials.entered_values import CredentialRefused, all_values
from providers.credentials.key_files import SECONDS
from providers.definitions.credential import Credential
from providers.outbound.json_values import parse_object
from server.runtime.isolated_process import run_isolated

TIMEOUT: Final = 30.0  # seconds
_PROGRAM: Final = (
    "from token_vault import claim_names; claim_names(); from providers.credentials.key_files import main; main()"
)


async def open_keys(credential: Credential, values: Mapping[str, str], *, seconds: int = SECONDS) -> dict[str, str]:
    """The values with a private key that no longer needs a passphrase. `seconds`: limit of CPU time.

    Raises CredentialRefused: `key` if the key can't be opened, `costly` if opening it takes too long.
    """
    found, passphrase = dict(values), values.get(credential.passphrase or "", "")
    certificate, signed = credential.send.certificate, credential.signed_token
    if certificate is not None:
        text = await _open(
            certificate.file, values[certificate.file], passphrase, has_certificate=True, seconds=seconds
        )
        found[certificate.file] = text
    if signed is not None:
        field, _, member = signed.key.partition(".")
        entered = all_values(credential, values).get(member or field, "")
        text = await _open(field, entered, passphrase, has_certificate=False, seconds=seconds)
        if passphrase:
            found[field] = (
                text if not member else json.dumps({**(parse_object(found[field].encode()) or {}), member: text})
            )
    if credential.passphrase is not None:
        found[credential.passphrase] = ""
    return found


async def _open(field: str, text: str, passphrase: str, *, has_certificate: bool, seconds: int) -> str:
    job = {"text": text, "passphrase": passphrase, "has_certificate": has_certificate, "seconds": seconds}
    opened = await run_isolated(_PROGRAM, job, seconds=TIMEOUT)
    if opened is None:
        raise CredentialRefused(field, "costly")
    if not opened:
        raise CredentialRefused(field, "key")
    return opened.decode()
