"""What a person enters: whether it has the shape that the provider file requires, and the single text that the vault
seals.

A credential with one field is sealed unchanged, one with several as a JSON object. Errors name fields, never values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from providers.definitions.credential import SAFE_PART, Credential, CredentialField
from providers.definitions.model import Provider
from providers.outbound.json_values import parse_object

SHORTEST: Final = 8  # characters: a shorter secret couldn't be masked in answers, because it may occur by chance
LONGEST: Final = 16_384
SESSION: Final = ":session"  # the refresh token of the newest session; no field can have this name


class CredentialRefused(Exception):
    """What was entered isn't a credential of this service.

    `reason`: `missing`, `shape`, `short`, `unknown`; `key`: no such private key, or its passphrase is wrong; `costly`:
    a private key that takes too long to open; `ended` and `early`: a certificate that isn't valid anymore, or not yet;
    `admin`: only admins may enter it.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def read_credential(credential: Credential, given: Mapping[str, str], *, by_admin: bool = False) -> dict[str, str]:
    """The value of each field. Raises CredentialRefused for the first invalid one."""
    for name, value in given.items():
        if name not in credential.fields:
            raise CredentialRefused(name, "unknown")
        if value.strip() and credential.fields[name].by_admin and not by_admin:
            raise CredentialRefused(name, "admin")
    return {
        name: _read(name, field, given.get(name, ""), shortest=1 if name == credential.passphrase else SHORTEST)
        for name, field in credential.fields.items()
    }


def _read(name: str, field: CredentialField, value: str, *, shortest: int) -> str:
    value = value.strip() or field.default
    if not value:
        if field.optional:
            return ""
        raise CredentialRefused(name, "missing")
    if field.many:
        return ",".join(_read_one(name, field, one, shortest=shortest) for one in field.parts(value[:LONGEST]))
    return _read_one(name, field, value, shortest=shortest)


def _read_one(name: str, field: CredentialField, value: str, *, shortest: int) -> str:
    matched = None if len(value) > LONGEST else field.shape.fullmatch(value)
    if matched is None or (field.choices and value not in field.choices):
        raise CredentialRefused(name, "shape")
    if field.secret and len(value) < shortest:
        raise CredentialRefused(name, "short")
    _members(name, field, value)
    public = [*matched.groupdict("").values(), *([] if field.secret else [value])]
    if any(part and not _is_printable(part) for part in public):
        raise CredentialRefused(name, "shape")
    return value


def _members(name: str, field: CredentialField, value: str) -> dict[str, str]:
    """The values inside a key file. Raises CredentialRefused for a file that lacks one or has one in another form."""
    if not field.members:
        return {}
    content, found = parse_object(value.encode()), dict[str, str]()
    for member, pattern in field.members.items():
        text = None if content is None else content.get(member)
        if not isinstance(text, str) or re.fullmatch(pattern, text) is None:
            raise CredentialRefused(name, "shape")
        found[member] = text
    return found


def _is_printable(value: str) -> bool:
    return value.isascii() and value.isprintable()


def pack(credential: Credential, values: Mapping[str, str], *, session: str = "") -> str:
    """The text to seal. `session`: the refresh token of the newest session."""
    if len(credential.fields) == 1 and not session:
        return values[next(iter(credential.fields))]
    kept = {**values, **({SESSION: session} if session else {})}
    return json.dumps(kept, separators=(",", ":"), sort_keys=True)


def session_of(packed: str) -> str:
    """The refresh token of the newest session in a sealed text; empty without one."""
    held = (parse_object(packed.encode()) or {}).get(SESSION)
    return held if isinstance(held, str) else ""


def unpack(credential: Credential, packed: str) -> dict[str, str]:
    """The values in a sealed text, even from a file with other fields. Raises CredentialRefused if those no longer
    fit."""
    first = next(iter(credential.fields))
    content = parse_object(packed.encode())
    if len(credential.fields) == 1 and (content is None or first not in content):
        if content is not None and credential.fields[first].shape.fullmatch(packed) is None:
            raise CredentialRefused(first, "shape")  # sealed with several fields: none may be sent in another's place
        return {first: packed}
    if content is None:
        content = {next(iter(credential.secrets), first): packed}
    found: dict[str, str] = {}
    for name, field in credential.fields.items():
        value = content.get(name, field.default)
        if not isinstance(value, str) or not (value or field.optional or name == credential.passphrase):
            raise CredentialRefused(name, "missing")
        found[name] = value
    return found


def all_values(credential: Credential, values: Mapping[str, str]) -> dict[str, str]:
    """The fields, each with its first value, and the values that are groups of their patterns."""
    found = dict(values)
    for name, field in credential.fields.items():
        if name in values:
            found[name] = field.parts(values[name])[0]
        matched = field.shape.fullmatch(found.get(name, ""))
        found |= {} if matched is None else {key: text for key, text in matched.groupdict().items() if text}
        found |= _members(name, field, values.get(name, ""))
    return found


def public_values(
    credential: Credential, values: Mapping[str, str], *, needed: frozenset[str] | None = None
) -> dict[str, str]:
    """The values that may be part of addresses; only the `needed` ones are used. Raises CredentialRefused for one that
    wouldn't stay in its place.
    """
    names = credential.public_names if needed is None else credential.public_names & needed
    found = {name: text for name, text in all_values(credential, values).items() if name in names}
    for name, text in found.items():
        if text and (SAFE_PART.fullmatch(text) is None or ".." in text):
            raise CredentialRefused(name, "shape")
    return found


def secrets_of(provider: Provider, token: str, entered: str = "") -> tuple[str, ...]:
    """The secrets in a token as the vault holds it, which answers and logs must not show. `entered`: the client
    credentials that it was issued for, if any. Excludes a passphrase, which may be short and is never sent.
    """
    credential = provider.credential
    if credential is None or (credential.kind != "key" and not entered):
        return (token,)
    issued = () if credential.kind == "key" else (token,)
    try:
        values = unpack(credential, entered or token)
    except CredentialRefused:
        return (token,)
    kept = parse_object(entered.encode()) or {}
    if isinstance(held := kept.get(SESSION), str):
        issued = (*issued, held)
    return *issued, *(value for name in credential.secrets if name != credential.passphrase and (value := values[name]))
