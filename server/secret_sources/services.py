"""Secret sources that are services over HTTP: a 1Password Connect server, and OpenBao or HashiCorp Vault.

Written from their documentation: developer.1password.com, Connect Server API reference 1.8.1; openbao.org, KV secrets
engine version 2 (API). The addresses are the operator's, so they may be private; plain http is for loopback.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urlsplit

import httpx2

from providers.credentials.references import Reference
from providers.oauth.secret_references import SecretUnavailable
from providers.outbound.json_values import at, is_array, is_object
from server.provider_settings import LOOPBACK_HOSTS, SettingsRefused
from server.secret_settings import SecretSettings

_CONNECT_ID: Final = re.compile(r"[a-z0-9]{26}")
_TIMEOUT: Final = 8.0  # seconds of one request


async def read_connect(reference: Reference, settings: SecretSettings) -> str:
    """Read one field of an item, by names or ids. Raises SecretUnavailable."""
    vault, item, *section = reference.parts
    token = _token(reference, settings, "onepassword")
    async with _client(
        reference, settings.onepassword_url, "secrets.onepassword_url", token={"Authorization": f"Bearer {token}"}
    ) as http:
        vault_id = await _connect_id(http, reference, "/v1/vaults", "name", vault)
        item_id = await _connect_id(http, reference, f"/v1/vaults/{vault_id}/items", "title", item)
        content = await _get(http, reference, f"/v1/vaults/{vault_id}/items/{item_id}")
    fields = content.get("fields") if is_object(content) else None
    sections = content.get("sections") if is_object(content) else None
    titles = {
        str(one.get("id")): str(one.get("label", ""))
        for one in (sections if is_array(sections) else ())
        if is_object(one)
    }
    for one in fields if is_array(fields) else ():
        if not is_object(one) or reference.field not in (one.get("label"), one.get("id")):
            continue
        there = str(at(one, "section.id") or "")
        if not section or section[0] in (there, titles.get(there)):
            value = one.get("value")
            return value if isinstance(value, str) else ""
    raise SecretUnavailable(f"{reference.text}: the item has no such field; correct the reference.")


async def _connect_id(http: httpx2.AsyncClient, reference: Reference, path: str, by: str, name: str) -> str:
    """The id of the only vault or item with this name."""
    if _CONNECT_ID.fullmatch(name) is not None:
        return name
    named = name.replace("\\", "\\\\").replace('"', '\\"')
    found = await _get(http, reference, path, params={"filter": f'{by} eq "{named}"'})
    ids = [one.get("id") for one in (found if is_array(found) else ()) if is_object(one)]
    if len(ids) != 1 or not isinstance(ids[0], str) or _CONNECT_ID.fullmatch(ids[0]) is None:
        many = "several have the name" if len(ids) > 1 else "nothing that the token can read has the name"
        raise SecretUnavailable(f"{reference.text}: {many} {name}; correct the reference, or use the id.")
    return ids[0]


async def read_openbao(reference: Reference, settings: SecretSettings) -> str:
    """Read one field of the newest version of a secret. Raises SecretUnavailable."""
    mount, *path = reference.parts
    headers = {"X-Vault-Token": _token(reference, settings, "openbao")}
    if settings.openbao_namespace is not None:
        headers["X-Vault-Namespace"] = settings.openbao_namespace
    where = "/".join(quote(part, safe="") for part in path)
    async with _client(reference, settings.openbao_url, "secrets.openbao_url", token=headers) as http:
        content = await _get(http, reference, f"/v1/{quote(mount, safe='')}/data/{where}")
    data = at(content, "data.data") if is_object(content) else None
    value = data.get(reference.field) if is_object(data) else None
    if not isinstance(value, str):
        raise SecretUnavailable(f"{reference.text}: the secret has no such text field; correct the reference.")
    return value


def _token(reference: Reference, settings: SecretSettings, source: str) -> str:
    try:
        token = settings.token(source)
    except SettingsRefused as error:
        raise SecretUnavailable(f"{reference.text} can't be read: {error}") from error
    if token is None:
        raise SecretUnavailable(f"{reference.text} can't be read: set secrets.{source}_token_file.")
    return token


def _client(reference: Reference, url: str | None, setting: str, *, token: Mapping[str, str]) -> httpx2.AsyncClient:
    if url is None:
        raise SecretUnavailable(f"{reference.text} can't be read: set {setting}.")
    parts = urlsplit(url)
    is_loopback = (parts.hostname or "") in LOOPBACK_HOSTS
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback):
        raise SecretUnavailable(f"{reference.text} can't be read: {setting} must be an https address.")
    return httpx2.AsyncClient(base_url=url, headers=token, timeout=_TIMEOUT, trust_env=not is_loopback)


async def _get(
    http: httpx2.AsyncClient, reference: Reference, path: str, *, params: Mapping[str, str] | None = None
) -> object:
    try:
        answer = await http.get(path, params=params)
    except httpx2.RequestError as error:
        raise SecretUnavailable(
            f"{reference.text} can't be read: {http.base_url.host} doesn't answer ({type(error).__name__}); check that "
            "it runs and can be reached."
        ) from error
    match answer.status_code:
        case HTTPStatus.OK:
            pass
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            raise SecretUnavailable(
                f"{reference.text} can't be read: {http.base_url.host} denied access; check the token's permissions."
            )
        case HTTPStatus.NOT_FOUND | HTTPStatus.BAD_REQUEST:
            raise SecretUnavailable(f"{reference.text}: no such secret; correct the reference.")
        case status:
            raise SecretUnavailable(
                f"{reference.text} can't be read: {http.base_url.host} answered {status}; try later."
            )
    try:
        return answer.json()
    except ValueError as error:
        raise SecretUnavailable(
            f"{reference.text}: {http.base_url.host} didn't send JSON; check its address."
        ) from error
