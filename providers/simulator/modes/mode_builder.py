"""Builds the mode of one service from a line of words: client authentication, refresh behavior, lifetimes. `known` has
the table of services.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from providers.simulator.modes.model import ClientAuth, Mode, RevocationMode, Shape, lenient
from providers.simulator.rules import FaceRules, RotationRule

FOREVER = 10**9
HOUR, DAY = 3600, 86400
YEAR = 365 * DAY
_AUTH: Mapping[str, frozenset[ClientAuth]] = {
    "post": frozenset({"post"}),
    "basic": frozenset({"basic"}),
    "none": frozenset({"none"}),
    "secret_user": frozenset({"secret_user"}),
}
_ROTATION = {
    "?": RotationRule.NONE,
    "keeps": RotationRule.NONE,
    "strict": RotationRule.STRICT,
    "revokes": RotationRule.REUSE_REVOKES_FAMILY,
}
_PKCE: Mapping[str, Literal["required", "optional", "ignored", "refused"]] = {
    "must": "required",
    "may": "required",  # files with this fact send it
    "no": "refused",
    "?": "optional",
}


def _parse_revoking(text: str, *, auth: frozenset[ClientAuth]) -> RevocationMode:
    """`METHOD place name takes who`: where the token stands, what is taken, and whether the client authenticates."""
    if text == "none":
        return RevocationMode(exists=False)
    method, place, name, takes, who = text.split()
    form: Literal["form", "json", "any"] = "json" if place == "json" else "form" if place == "form" else "any"
    where: Mapping[str, Literal["body", "query", "path", "bearer", "account"]] = {
        "form": "body",
        "json": "body",
        "query": "query",
        "path": "path",
        "bearer": "bearer",
        "account": "account",
    }
    kinds: Mapping[str, frozenset[Literal["access", "refresh"]]] = {
        "both": frozenset({"access", "refresh"}),
        "access": frozenset({"access"}),
        "refresh": frozenset({"refresh"}),
    }
    ways: Mapping[str, frozenset[ClientAuth]] = {
        "client": auth,
        "basic": _AUTH["basic"],
        "secret_user": _AUTH["secret_user"],
        "nobody": frozenset(),
    }
    methods: Mapping[str, Literal["POST", "DELETE", "GET"]] = {"POST": "POST", "DELETE": "DELETE", "GET": "GET"}
    return RevocationMode(
        methods[method],
        token_in=where[place],
        format=form,
        name=name,
        takes=kinds[takes],
        client_auth=ways[who],
        unknown="refused",
    )


def service(
    title: str,
    auth: str,
    rotation: str,
    *,
    life: int = HOUR,
    identity: str | Mapping[str, str] = "",
    revoke: str = "none",
    pkce: str = "may",
    sep: str = " ",
    said_sep: str | None = None,
    app: bool = False,
    refresh: bool = True,
    grant: int | None = None,
    idle: int | None = None,
    ends_access: bool = False,
    ends: Literal["family", "grant", "token"] = "family",
    narrowing: Literal["ignored", "real", "sticky", "refused"] = "ignored",
    shape: Shape | None = None,
    **more: object,
) -> Mode:
    """One service; `more` are further fields of `Mode`."""
    rules: dict[str, object] = {
        "rotation": _ROTATION[rotation],
        "access_lifetime": life,
        "refresh_lifetime": grant,
        "refresh_idle": idle,
        "refresh_ends_access": ends_access,
        "revoke": ends,
        "narrowing": narrowing,
    }
    shape = replace(shape or Shape(), separator=said_sep or sep)
    mode = Mode(
        title,
        FaceRules.model_validate({**lenient().model_dump(), **rules}),
        client_auth=_AUTH[auth],
        pkce=_PKCE[pkce],
        scope_separator=sep,
        shape=shape if refresh or life < FOREVER else replace(shape, expiry="absent"),
        has_refresh=refresh,
        fixed_scopes=frozenset({"granted"}) if app else None,
        revoking=_parse_revoking(revoke, auth=_AUTH[auth]),
        rotation_known=rotation != "?",
        identity=_account_paths(identity),
    )
    return replace(mode, **more)


def _account_paths(identity: str | Mapping[str, str]) -> Mapping[str, str]:
    """Two paths, to an account's ID and to its name for people; or the values at them."""
    if not isinstance(identity, str):
        return identity
    paths = identity.split()
    return dict(zip(paths, ("{id}", "{email}"), strict=True)) if paths else {}
