"""The parameters of a client's question, parsed strictly: message, lifetime, authorization details (RFC 9396), ping
token."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeGuard

from server.http.strict_json import parse_json
from server.oauth.backchannel.clients import details_types, is_told
from server.oauth.parameters import Parameters
from server.oauth.rules import OAuthError
from vault.records import Client

USUAL_EXPIRY: Final = 300  # seconds
LONGEST_EXPIRY: Final = 259_200
_MESSAGE: Final = re.compile(r"[A-Za-z0-9 +\-_.,:#]{1,64}")  # as for Auth0; every device can show it
_DIGITS: Final = re.compile(r"[0-9]{1,7}")
_PING_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]{1,1024}=*")  # RFC 6750 §2.1
_MOST_DETAILS: Final = 10
_LONGEST_DETAILS: Final = 8192  # characters


def message_of(form: Parameters) -> str:
    """`binding_message`, which the person compares with what the client shows."""
    message = form.get("binding_message")
    if message is None:
        return ""
    if _MESSAGE.fullmatch(message) is None:
        raise OAuthError(
            "invalid_binding_message", "use up to 64 letters, digits, spaces, and + - _ . , : # in binding_message"
        )
    return message


def expiry_of(form: Parameters) -> int:
    """`requested_expiry`, the seconds that the person has to answer."""
    asked = form.get("requested_expiry")
    if asked is None:
        return USUAL_EXPIRY
    if _DIGITS.fullmatch(asked) is None or not 1 <= int(asked) <= LONGEST_EXPIRY:
        raise OAuthError("invalid_request", f"requested_expiry must be a number of seconds from 1 to {LONGEST_EXPIRY}")
    return int(asked)


def ping_token_of(form: Parameters, client: Client) -> str | None:
    """`client_notification_token` of a client with ping or push (§7.1); others need none."""
    if not is_told(client):
        return None
    token = form.get("client_notification_token")
    if token is None or _PING_TOKEN.fullmatch(token) is None:
        raise OAuthError("invalid_request", "client_notification_token must be a bearer token of up to 1024 characters")
    return token


def details_of(form: Parameters, client: Client) -> tuple[Mapping[str, object], ...]:
    """`authorization_details` (RFC 9396 §2), each of a type that the operator allows this client."""
    sent = form.get("authorization_details")
    if sent is None:
        return ()
    try:
        content = parse_json(sent.encode()) if len(sent) <= _LONGEST_DETAILS else None
    except (ValueError, RecursionError) as error:
        raise _wrong_details("authorization_details isn't valid JSON") from error
    if not _is_list(content) or not 1 <= len(content) <= _MOST_DETAILS:
        problem = f"authorization_details is a list of 1 to {_MOST_DETAILS} objects of {_LONGEST_DETAILS} characters"
        raise _wrong_details(problem)
    found = tuple(one for one in content if _is_object(one))
    allowed = details_types(client)
    if len(found) != len(content) or any(one.get("type") not in allowed for one in found):
        raise _wrong_details(f"each needs a type that this client may use: {', '.join(allowed) or 'none'}")
    return found


def _wrong_details(description: str) -> OAuthError:
    return OAuthError("invalid_authorization_details", description)


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _is_object(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)
