"""Choosing one of several values that a person entered for an account, such as AWS regions. Pure. A call may choose
only what was entered; the first value is the default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

from providers.credentials.aws import region_of
from providers.credentials.entered_values import pack, unpack
from providers.definitions.credential import NAMES, Credential
from providers.definitions.model import Provider


class ChoiceRefused(Exception):
    """The credential isn't for this value. The text lists the values that it is for, and what to do."""


@dataclass(frozen=True, slots=True)
class ChosenToken:
    """A token as the vault holds it, with only the chosen values. `is_usual`: they are the first ones that were
    entered."""

    value: str = field(repr=False)
    is_usual: bool


def choice_at(provider: Provider, api: str, *, address: str, authorization: str) -> dict[str, str]:
    """What a call of an API chooses, by field name; empty if it makes no choice. Determined by the `address` that the
    caller uses for the API, such as `https://s3.{region}.amazonaws.com`; without one, by the client's own signature.
    """
    credential = provider.credential
    many = frozenset[str]() if credential is None else _many(credential)
    if credential is None or not many:
        return {}
    if address:
        parts = NAMES.split(provider.apis[api].rstrip("/"))
        ways = (f"(?P<{one}>[a-z0-9-]+)" if at % 2 else re.escape(one) for at, one in enumerate(parts))
        found = re.fullmatch("".join(ways), address.rstrip("/"))
        return {} if found is None else {name: text for name, text in found.groupdict().items() if name in many}
    signing, region = credential.send.aws, region_of(authorization)
    return {} if signing is None or not region else {name: region for name in many if f"{{{name}}}" == signing.region}


def choose(provider: Provider, token: str, chosen: Mapping[str, str]) -> ChosenToken:
    """The token for this choice. Raises ChoiceRefused, and CredentialRefused for a credential with another shape."""
    credential, limit = provider.credential, provider.registration.regions
    if credential is None or not (chosen or limit):
        return ChosenToken(token, is_usual=True)
    values = unpack(credential, token)
    firsts: dict[str, str] = {}
    for name, value in chosen.items():
        about = credential.fields[name]
        allowed = about.parts(values[name])
        if value not in allowed:
            raise ChoiceRefused(
                f"This account of {provider.title} is for {', '.join(allowed)}, and the call for {value[:60]}. "
                "Use one of these, or have its person replace the key with one for more."
            )
        firsts[name] = allowed[0]
    if limit and (name := credential.region_field) is not None:
        region = chosen.get(name) or credential.fields[name].parts(values[name])[0]
        if region not in limit:
            raise ChoiceRefused(
                f"This vault calls {provider.title} only in {', '.join(sorted(limit))}, and the call is for "
                f"{region[:60]}. Use one of these, or ask the operator to add it to providers.{provider.name}.regions."
            )
    return ChosenToken(pack(credential, {**values, **chosen}), is_usual=firsts == dict(chosen))


def every_choice(provider: Provider, token: str) -> tuple[str, ...]:
    """The token for each possible choice. Raises CredentialRefused."""
    credential = provider.credential
    if credential is None or not (names := _many(credential)):
        return (token,)
    values = unpack(credential, token)
    parts = [credential.fields[name].parts(values[name]) for name in names]
    return tuple(pack(credential, {**values, **dict(zip(names, one, strict=True))}) for one in product(*parts))


def outside_limit(provider: Provider, values: Mapping[str, str]) -> str | None:
    """The field with a region that the operator doesn't allow; None if there is none."""
    credential, limit = provider.credential, provider.registration.regions
    name = None if credential is None else credential.region_field
    if credential is None or name is None or not limit:
        return None
    return None if limit.issuperset(credential.fields[name].parts(values[name])) else name


def within_limit(provider: Provider, token: str) -> str | None:
    """The token with the regions that the operator allows; None if that leaves none. Raises CredentialRefused."""
    credential, limit = provider.credential, provider.registration.regions
    name = None if credential is None else credential.region_field
    if credential is None or name is None or not limit:
        return token
    values = unpack(credential, token)
    allowed = [one for one in credential.fields[name].parts(values[name]) if one in limit]
    return pack(credential, {**values, name: ",".join(allowed)}) if allowed else None


def _many(credential: Credential) -> frozenset[str]:
    return frozenset(name for name, about in credential.fields.items() if about.many)
