"""Tokens with less authority, issued for an access token: GitHub's scoped tokens, and the core of RFC 8693 at Box."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from providers.simulator.accounts import PEOPLE, Person, RegisteredClient
from providers.simulator.calls import SimulatedCall
from providers.simulator.families.answers import iso
from providers.simulator.families.requests import face_name, identify
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.state.tokens import AccessToken, SimulatedTokens, fingerprint
from providers.simulator.wire import ClientRefused

WEB = "https://github.com"
_USER_PLACES = {
    "followers": "followers",
    "following": "following{/other_user}",
    "gists": "gists{/gist_id}",
    "starred": "starred{/owner}{/repo}",
    "subscriptions": "subscriptions",
    "organizations": "orgs",
    "repos": "repos",
    "events": "events{/privacy}",
    "received_events": "received_events",
}


@dataclass(frozen=True, slots=True)
class Derivation:
    """What is requested from an access token: these scopes, and only this item. No scopes: everything it has."""

    token: str = field(repr=False)
    client: RegisteredClient
    scopes: frozenset[str]
    item: str | None = None


class DerivationRefused(Exception):
    """`error` is the standard's code."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(error)
        self.error = error
        self.description = description


def derive(
    sandbox: Sandbox, name: str, derivation: Derivation, *, fault: str | None = None
) -> tuple[SimulatedTokens, AccessToken]:
    """The narrower token and its parent. Raises DerivationRefused; no token is used up either way."""
    mode, face, now = sandbox.mode(name), sandbox.face(name), sandbox.clock.now()
    parent = face.tokens.find_access(derivation.token)
    entry = sandbox.books.write(
        "derivations",
        now,
        face=name,
        outcome="ok",
        token=None if parent is None else parent.label,
        token_hash=fingerprint(derivation.token),
        family=None if parent is None else parent.family.label,
        requested_scopes=sorted(derivation.scopes),
        item=derivation.item,
        issued_access=None,
        fault=fault,
    )
    dead = parent is None or face.tokens.is_dead(parent) or now >= parent.expires_at
    if parent is None or dead or parent.family.client_id != derivation.client.client_id:
        entry["outcome"] = "refused:token"
        raise DerivationRefused("invalid_grant", "The token is not known, or no longer good.")
    if parent.parent is not None:
        entry["outcome"] = "refused:derived"
        raise DerivationRefused("invalid_request", "The token is limited already.")
    if not derivation.scopes <= mode.expand(parent.scopes):
        entry["outcome"] = "refused:scope"
        raise DerivationRefused("invalid_scope", "That is more than the token may do.")
    if derivation.item is not None and not mode.resources:
        entry["outcome"] = "refused:item"
        raise DerivationRefused("invalid_target", "Tokens cannot be limited to one item here.")
    issued = face.tokens.derive(parent, derivation.scopes or parent.scopes, item=derivation.item)
    entry["issued_access"] = issued.access_label
    return issued, parent


def scoped_token(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """`POST /applications/{client_id}/token/scoped`: permissions, and the repositories of one owner.

    docs.github.com/rest/apps/apps, create a scoped access token: Basic with the app's id and secret, 404 for a token
    that is no good, 422 for what is wrong in the body.
    """
    name = face_name(call)
    if sandbox.mode(name).downscope != "scoped":
        return _problem(404, "Not Found")
    try:
        client, _ = identify(call, sandbox.clients, allowed=frozenset({"basic"}))
    except ClientRefused:
        return _problem(401, "Requires authentication")
    if client.client_id != call.path_params["client_id"]:
        return _problem(404, "Not Found")
    target = call.text("target")
    if target is None and "target_id" not in call.arguments:
        return _problem(422, "Invalid request: target or target_id is needed.")
    if "repositories" in call.arguments and "repository_ids" in call.arguments:
        return _problem(422, "repositories may not be specified if repository_ids is specified.")
    permissions, repositories = _permissions(call.arguments.get("permissions")), call.arguments.get("repositories")
    if permissions is None:
        return _problem(422, "permissions must be an object of read, write or admin.")
    names = [item for item in repositories if isinstance(item, str)] if isinstance(repositories, list) else []
    item = f"{target}/{','.join(sorted(names))}" if names and target is not None else None
    derivation = Derivation(call.text("access_token") or "", client, scopes=permissions, item=item)
    try:
        issued, parent = derive(sandbox, name, derivation, fault=call.fault)
    except DerivationRefused as refused:
        if refused.error == "invalid_scope":
            return _problem(422, "The permissions requested are not granted to this app.")
        return _problem(404, "Not Found")
    person = PEOPLE[parent.family.account]
    said: dict[str, JsonValue] = {"metadata": "read"}  # comes with every other permission
    for scope in sorted(issued.scopes):
        permission, _, level = scope.partition(":")
        said[permission] = level
    owner = PEOPLE.get(target or "", person)
    api = f"{sandbox.url}/families/{call.path_params['mode']}/api"
    now = iso(sandbox.clock.now())
    return JSONResponse(
        {
            "id": 1,
            "url": f"{api}/authorizations/1",
            "app": {"client_id": client.client_id, "name": client.name, "url": sandbox.url},
            "token": issued.access_token,
            "hashed_token": fingerprint(issued.access_token),
            "token_last_eight": issued.access_token[-8:],
            **dict.fromkeys(("note", "note_url", "fingerprint")),
            "scopes": [],
            "created_at": now,
            "updated_at": now,
            "expires_at": iso(issued.expires_at),
            "user": github_user(person, api=api),
            "installation": {
                "permissions": said,
                "repository_selection": "selected" if names else "all",
                "single_file_name": None,
                "repositories_url": f"{api}/installation/repositories",
                "account": {**github_user(owner, api=api), "login": target or person.name},
            },
        }
    )


def github_user(person: Person, *, api: str) -> dict[str, JsonValue]:
    """A GitHub user, as others see them; `api` is the base of absolute addresses."""
    at = f"{api}/users/{person.name}"
    number = int(f"9{person.google_id}"[-9:])
    return {
        "login": person.name,
        "id": number,
        "node_id": f"U_{person.name}",
        "avatar_url": f"https://avatars.githubusercontent.com/u/{number}?v=4",
        "gravatar_id": "",
        "url": at,
        "html_url": f"{WEB}/{person.name}",
        **{f"{name}_url": f"{at}/{place}" for name, place in _USER_PLACES.items()},
        "type": "User",
        "site_admin": False,
    }


def _permissions(value: JsonValue) -> frozenset[str] | None:
    if value is None:
        return frozenset()
    if not isinstance(value, dict):
        return None
    if not all(level in ("read", "write", "admin") for level in value.values()):
        return None
    return frozenset(f"{name}:{level}" for name, level in value.items())


def _problem(status: int, message: str) -> Response:
    return JSONResponse({"message": message, "documentation_url": "https://docs.github.com/rest"}, status_code=status)
