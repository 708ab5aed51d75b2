"""Reads a request of a family mode: maps its names to the standard's, authenticates the client, parses scopes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from pydantic import JsonValue

from providers.simulator.accounts import RegisteredClient
from providers.simulator.calls import SimulatedCall
from providers.simulator.modes.model import PREFIX, ClientAuth, Mode
from providers.simulator.state.authorize import RequestRefused, SimulatedRequest, read_challenge
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.wire import ClientRefused, authenticate


class TokenRequestRefused(Exception):
    """A token request refused before any token is checked. `error` is the standard's code."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(error)
        self.error = error
        self.description = description


def face_name(call: SimulatedCall) -> str:
    """The face that this request is for."""
    return PREFIX + call.path_params["mode"]


def standard_query(mode: Mode, query: Mapping[str, str]) -> dict[str, str]:
    """An authorization request's parameters under the standard's names; a name that the mode replaced is not known."""
    replaced = _replaced_names(mode.names)
    return {_standard(mode.names, name): value for name, value in query.items() if name not in replaced}


def token_call(mode: Mode, call: SimulatedCall) -> SimulatedCall:
    """A request with its parameters under the standard's names. Raises TokenRequestRefused."""
    arguments: Mapping[str, JsonValue] = call.arguments
    if mode.body == "query":
        arguments = dict(call.query)
    elif mode.body == "json" and not call.is_json:
        raise TokenRequestRefused("invalid_request", "The body must be JSON.")
    elif mode.body == "form" and call.is_json:
        raise TokenRequestRefused("invalid_request", "The body must be a form.")
    for name, value in mode.required_headers.items():
        if call.headers.get(name.lower()) != value:
            raise TokenRequestRefused("invalid_request", f"The header {name} is missing or wrong.")
    names = mode.names if mode.token_names is None else mode.token_names
    is_refresh = names.get("refresh_token", "refresh_token") in arguments
    for name, value in (mode.required_refresh if is_refresh else mode.required_token).items():
        if arguments.get(name) != value:
            raise TokenRequestRefused("invalid_request", f"The parameter {name} is missing or wrong.")
    replaced = _replaced_names(names)
    known = {_standard(names, name): value for name, value in arguments.items() if name not in replaced}
    grant_type = known.get("grant_type")
    theirs = {name: standard for standard, name in mode.grant_types.items()}
    if grant_type in theirs:
        known["grant_type"] = theirs[grant_type]
    elif grant_type in mode.grant_types:
        known["grant_type"] = "unknown"
    return replace(call, arguments=known)


def identify(
    call: SimulatedCall, clients: Mapping[str, RegisteredClient], *, allowed: frozenset[ClientAuth]
) -> tuple[RegisteredClient, str]:
    """The client of a token request, authenticated in one of the allowed ways. Raises ClientRefused."""
    has_no_secret = call.basic is None and call.text("client_secret") is None
    if "none" in allowed and has_no_secret and (known := clients.get(call.text("client_id") or "")) is not None:
        return known, "none"
    scheme, _, credentials = call.headers.get("authorization", "").partition(" ")
    if "client_header" in allowed:
        known = clients.get(call.text("client_id") or "")
        if scheme != "Client" or known is None or credentials != known.client_secret:
            raise ClientRefused("secret")
        return known, "client_header"
    if "secret_user" in allowed and call.basic is not None and call.text("client_secret") is None:
        named = next((one for one in clients.values() if one.client_secret == call.basic[0]), None)
        if named is not None and not call.basic[1]:
            return named, "secret_user"
        raise ClientRefused("secret")
    client, method = authenticate(call, clients)
    if method not in allowed:
        raise ClientRefused("method")
    return client, method


def asked_scopes(mode: Mode, call: SimulatedCall) -> tuple[str, ...] | None:
    """The scopes that a refresh or exchange asks for, in their order; None when it asks for none."""
    value = call.arguments.get(mode.refresh_scope_parameter)
    if mode.refresh_scope_is_array:
        listed = value if isinstance(value, list) else None
        return None if listed is None else tuple(item for item in listed if isinstance(item, str))
    return split_scopes(mode, value) if isinstance(value, str) and value else None


def split_scopes(mode: Mode, value: str) -> tuple[str, ...]:
    """A scope parameter as single scopes."""
    parts = re.split(rf"[{re.escape(mode.scope_separator)}]", value) if mode.scope_separator != " " else value.split()
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def read_authorization(
    sandbox: Sandbox, name: str, query: Mapping[str, str], client: RegisteredClient
) -> SimulatedRequest:
    """An authorization request of this mode, under the standard's names. Raises RequestRefused."""
    mode = sandbox.mode(name)
    if query.get("response_type", "code") != "code":
        raise RequestRefused("unsupported_response_type", "response_type must be code.")
    for parameter, value in mode.required_authorize.items():
        if query.get(parameter) != value:
            raise RequestRefused("invalid_request", f"The parameter {parameter} must be {value}.")
    scopes = _asked_at_consent(mode, query)
    challenge, method = (None, "plain") if mode.pkce == "ignored" else _challenge(mode, query)
    return SimulatedRequest(
        face=name,
        client=client,
        redirect_uri=query["redirect_uri"],
        scopes=scopes,
        bot_scopes=(),
        state=query.get("state"),
        challenge=challenge,
        challenge_method="S256" if method == "S256" else "plain",
        created_at=sandbox.clock.now(),
        offline=_is_offline(mode, query, scopes),
        prompt=frozenset(query.get("prompt", "").split()),
        nonce=query.get("nonce"),
        login_hint=query.get("login_hint"),
    )


def _asked_at_consent(mode: Mode, query: Mapping[str, str]) -> tuple[str, ...]:
    if mode.fixed_scopes is not None:
        return tuple(sorted(mode.fixed_scopes)) or ("account",)
    scopes = split_scopes(mode, query.get(mode.scope_parameter, ""))
    unknown = [] if mode.scopes is None else sorted(set(scopes) - mode.scopes)
    if unknown:
        raise RequestRefused("invalid_scope", f"Unknown scopes: {', '.join(unknown)}.")
    if not scopes:
        raise RequestRefused("invalid_scope", f"{mode.scope_parameter} asks for nothing.")
    return scopes


def _challenge(mode: Mode, query: Mapping[str, str]) -> tuple[str | None, str]:
    if mode.pkce == "refused" and "code_challenge" in query:
        raise RequestRefused("invalid_request", "Unknown parameter: code_challenge.")
    challenge, method = read_challenge(query.get("code_challenge"), query.get("code_challenge_method"), plain=False)
    if mode.pkce == "required" and challenge is None:
        raise RequestRefused("invalid_request", "code_challenge is required.")
    return challenge, method


def _is_offline(mode: Mode, query: Mapping[str, str], scopes: tuple[str, ...]) -> bool:
    if not mode.has_refresh:
        return False
    if mode.offline_parameter is not None and query.get(mode.offline_parameter[0]) != mode.offline_parameter[1]:
        return False
    return mode.offline_scope is None or mode.offline_scope in scopes


def _replaced_names(names: Mapping[str, str]) -> frozenset[str]:
    return frozenset(standard for standard, name in names.items() if standard != name)


def _standard(names: Mapping[str, str], name: str) -> str:
    return next((standard for standard, theirs in names.items() if theirs == name), name)
