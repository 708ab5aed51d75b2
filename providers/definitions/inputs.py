"""Inputs that only the operator knows and a provider's addresses need: tenant, region, instance. Pure.

`{subdomain}` in an address stands for the input with that name. A value matches its file's pattern and consists of
letters, digits, dots, dashes and underscores, so that it can't reach beyond its place in the address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from providers.definitions.model import Provider

_NAME = re.compile(r"\{([^{}]*)\}")
_SAFE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


class InputRefused(Exception):
    """An input is missing, unknown or malformed. One line."""


def names_in(text: str) -> frozenset[str]:
    """The names in braces."""
    return frozenset(_NAME.findall(text))


def examples(provider: Provider) -> Mapping[str, str]:
    """The file's own example of each input, to check the addresses with."""
    return {name: about.example for name, about in provider.inputs.items()}


def input_values(
    provider: Provider, values: Mapping[str, str], *, needed: frozenset[str] | None = None
) -> Mapping[str, str]:
    """The value of each input, or its default. Raises InputRefused for a `needed` one (None: all) without either."""
    found: dict[str, str] = {}
    for name in sorted(set(values) - set(provider.inputs)):
        known = ", ".join(provider.inputs) or "none"
        raise InputRefused(f"inputs.{name}: {provider.title} has no such input; known: {known}")
    for name, about in provider.inputs.items():
        value = values.get(name, about.default)
        if value is None and needed is not None and name not in needed:
            continue
        if value is None:
            raise InputRefused(f"inputs.{name}: missing; set it to {about.title}, for example {about.example}")
        if problem := value_problem(provider, name, value):
            raise InputRefused(f"inputs.{name}: {problem}")
        found[name] = value
    return found


def value_problem(provider: Provider, name: str, value: str) -> str | None:
    """Why this can't be the value of that input; None when it can."""
    about = provider.inputs[name]
    if re.fullmatch(about.pattern, value) is None or _SAFE.fullmatch(value) is None or ".." in value:
        return f"{value!r} doesn't have the form of {about.title}; use a value like {about.example}"
    return None


def input_problems(provider: Provider) -> Iterator[str]:
    """Problems with the inputs of a file."""
    for name, about in provider.inputs.items():
        try:
            re.compile(about.pattern)
        except re.error:
            yield f"inputs.{name}.pattern: not a regular expression; correct it"
            continue
        for field, value in (("example", about.example), ("default", about.default)):
            if value is not None and value_problem(provider, name, value):
                yield f"inputs.{name}.{field}: {value!r} does not match its own pattern; correct it"


def with_inputs(provider: Provider, values: Mapping[str, str]) -> Provider:
    """The provider with these values in its addresses and extra parameters."""
    if not provider.inputs:
        return provider

    def fill(text: str) -> str:
        return _NAME.sub(lambda found: values.get(found.group(1), found.group(0)), text)

    def claim(text: str) -> str:
        capitals = {f"{name}:upper": value.upper() for name, value in values.items()}
        return _NAME.sub(lambda found: capitals.get(found.group(1), found.group(0)), fill(text))

    def each(texts: Mapping[str, str]) -> dict[str, str]:
        return {name: fill(text) for name, text in texts.items()}

    hosts, identity, params = provider.hosts, provider.identity, provider.params
    changes: dict[str, object] = {
        "hosts": hosts.model_copy(
            update={
                name: None if (url := getattr(hosts, name)) is None else fill(url) for name in type(hosts).model_fields
            }
        ),
        "apis": each(provider.apis),
        "identity": identity.model_copy(update={"url": None if identity.url is None else fill(identity.url)}),
        "params": params.model_copy(
            update={
                "authorize": each(params.authorize),
                "token": each(params.token),
                "refresh": each(params.refresh),
            }
        ),
    }
    if provider.credential is not None and (facts := provider.credential.signed_token) is not None:
        claims = {name: claim(text) for name, text in facts.claims.items()}
        filled = facts.model_copy(update={"header": each(facts.header), "claims": claims})
        changes["credential"] = provider.credential.model_copy(update={"signed_token": filled})
    if provider.revoke.probe.url is not None:
        probe = provider.revoke.probe.model_copy(update={"url": fill(provider.revoke.probe.url)})
        changes["revoke"] = provider.revoke.model_copy(update={"probe": probe})
    if provider.console is not None:
        url = fill(provider.console.url)
        changes["console"] = provider.console.model_copy(update={"url": url}) if not names_in(url) else None
    return provider.model_copy(update=changes)
