"""Puts a token or credential into a request: in headers, the query, Basic, or a signature; and fills in the account's
own address. Only this module puts a secret into a request to an API, and only for the provider file's hosts.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlencode

from providers.credentials.aws import AccessKey, sign_request
from providers.credentials.certificates import client_identity, open_identity
from providers.credentials.entered_values import CredentialRefused, all_values, public_values, unpack
from providers.definitions.credential import NAMES, AwsSignature, Credential
from providers.definitions.model import Provider
from providers.outbound.messages import OutboundRequest


class CredentialMismatch(Exception):
    """The stored credential no longer fits the provider file: the person has to enter it again."""


def authorize_request(provider: Provider, request: OutboundRequest, token: str) -> OutboundRequest:
    """The request with the token, to the account's own address. Raises CredentialMismatch, or NotReached."""
    credential = provider.credential
    if credential is None or credential.kind != "key":
        pair = _git_pair(provider, token) if _is_git(provider, request.url) else ""
        header = {"Authorization": f"Basic {pair}"} if pair else provider.authorize(token)
        if provider.certificate_bound:
            request = replace(request, identity=client_identity(provider.registration))
        return request.with_headers(_merge(request.headers, header))
    try:
        values = unpack(credential, token)
        url = _address(provider, credential, request.url, values)
        if credential.send.aws is not None:
            return _sign(provider, credential.send.aws, replace(request, url=url), all_values(credential, values))
        headers, query = _placement(credential, all_values(credential, values))
        if credential.send.certificate is not None:
            identity = open_identity(credential.send.certificate, values).identity
            request = replace(request, identity=identity)
    except CredentialRefused as error:
        raise CredentialMismatch from error
    if query:
        url += ("&" if "?" in url else "?") + urlencode(query)
    return replace(request, url=url, headers=_merge(request.headers, headers))


def _sign(
    provider: Provider, facts: AwsSignature, request: OutboundRequest, values: Mapping[str, str]
) -> OutboundRequest:
    """The request, signed for the API that it is addressed to."""
    api = _api_at({key: _fill(url, values) for key, url in provider.apis.items()}, request.url)
    if api is None:
        raise CredentialMismatch
    key = AccessKey(
        _fill(facts.access_key_id, values),
        _fill(facts.secret_access_key, values),
        _fill(facts.session_token, values),
        region=_fill(facts.region, values),
        service=facts.services[api],
    )
    return sign_request(request, key, now=time.time())


def _api_at(addresses: Mapping[str, str], url: str) -> str | None:
    """The API that is called. One can be below another, so the longest matching address counts."""
    bases = {key: address.rstrip("/") for key, address in addresses.items()}
    fits = [key for key, base in bases.items() if url.startswith((base + "/", base + "?")) or url == base]
    return max(fits, key=lambda one: len(bases[one]), default=None)


def composed_secrets(provider: Provider, token: str) -> tuple[str, ...]:
    """What requests contain instead of the secrets of a token: the Basic pair, whose parts base64 hides."""
    credential = provider.credential
    if credential is None or credential.kind != "key":
        return _both_alphabets(_git_pair(provider, token)) if provider.git is not None else ()
    if credential.send.basic is None:
        return ()
    try:
        headers, _ = _placement(credential, all_values(credential, unpack(credential, token)))
    except CredentialRefused:
        return ()
    return _both_alphabets(headers["Authorization"].removeprefix("Basic "))


def _both_alphabets(pair: str) -> tuple[str, ...]:
    return pair.rstrip("="), pair.rstrip("=").translate(str.maketrans("+/", "-_"))


def _is_git(provider: Provider, url: str) -> bool:
    return provider.git is not None and _api_at(provider.apis, url) == provider.git.api


def _git_pair(provider: Provider, token: str) -> str:
    """The content of Basic for git."""
    user = "" if provider.git is None else provider.git.user
    return b64encode(f"{user}:{token}".encode()).decode()


def provider_of_account(provider: Provider, token: str) -> Provider:
    """The provider with the addresses of the account, or itself if all have the same. Raises CredentialMismatch."""
    credential = provider.credential
    if credential is None or credential.kind != "key" or not any("{" in url for url in provider.apis.values()):
        return provider
    try:
        public = public_values(credential, unpack(credential, token))
    except CredentialRefused as error:
        raise CredentialMismatch from error
    return provider.model_copy(update={"apis": {key: _fill(url, public) for key, url in provider.apis.items()}})


def _address(provider: Provider, credential: Credential, url: str, values: Mapping[str, str]) -> str:
    """The URL with the account's values in the API's base; the part below it stays unchanged."""
    for base in provider.apis.values():
        start = base.rstrip("/")
        if "{" in start and url.startswith(start):
            return _fill(start, public_values(credential, values)) + url[len(start) :]
    return url


def _fill(text: str, values: Mapping[str, str]) -> str:
    return NAMES.sub(lambda found: values.get(found[1], ""), text)


def _placement(credential: Credential, values: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Headers and query parameters; empty ones are left out."""
    send = credential.send
    headers = {name: value for name, text in send.headers.items() if (value := _fill(text, values))}
    if send.basic is not None:
        pair = f"{_fill(send.basic.user, values)}:{_fill(send.basic.password, values)}"
        headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    return headers, {name: value for name, text in send.query.items() if (value := _fill(text, values))}


def _merge(headers: Mapping[str, str], credential: Mapping[str, str]) -> dict[str, str]:
    """The headers with the credential's in place of any with the same name, ignoring case."""
    taken = {name.lower() for name in credential}
    return {**{name: value for name, value in headers.items() if name.lower() not in taken}, **credential}
