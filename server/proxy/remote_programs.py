"""Programs on other machines: the hosts that they call through this vault, and a handle for each call.

`token-vault run --url` sends its agent's access token (`server.programs.remote_calls`). The handle comes from a token
exchange (RFC 8693) under the usual conditions; credentials are never released.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from providers.definitions.model import Provider
from server.deployment import Deployment
from server.errors import as_sentence, status_of
from server.http.addresses import address_of
from server.http.bodies import BodyTooLarge, read_body
from server.oauth import tokens
from server.oauth.dpop import sent_path
from server.oauth.exchange.exchange import check_client, exchange
from server.oauth.parameters import Parameters
from server.oauth.rules import EXCHANGE_SCOPE, OAuthError
from server.oauth.token_request import ACCESS_TOKEN, TokenRequest
from server.proxy import refusals
from server.proxy.program_access import (
    PURPOSE,
    AccountChoice,
    PermissionWait,
    ProgramAccess,
    WantedCall,
    stores_encoding,
)
from server.proxy.program_hosts import HOST_REFUSED, hosts_of, note_host
from server.proxy.wire import ProxyRefused
from server.runtime.rate_limits import agent_place, host_place
from vault import clients
from vault.records import Client, Principal
from vault.refusals import VaultError

HOSTS: Final = "/programs/hosts"
CALLS: Final = "/programs/calls"
_LIMIT: Final = 64 * 1024  # bytes of a body
_MOST: Final = 1000  # number of tokens with handles that are kept for reuse
_MOST_OF_AGENT: Final = 20  # likewise, of one person's agent
_LATIN: Final = r"^[\x21-\xff]*$"  # as in a request line
_UNSTORED: Final = {"Cache-Control": "no-store"}


class RemoteRun(BaseModel):
    """A run's own options: the accounts to use if there are several."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_max_length=16_384)

    accounts: tuple[Annotated[str, Field(max_length=200)], ...] = Field(default=(), max_length=20)


class RemoteCall(RemoteRun):
    """A call that a program is about to make."""

    method: str = Field(pattern=r"^[A-Z]{1,20}$")
    host: str = Field(max_length=253)
    port: int = Field(ge=1, le=65_535)
    path: str = Field(pattern=_LATIN)
    query: str = Field(default="", pattern=_LATIN, repr=False)
    operation: str = Field(default="", pattern=_LATIN, max_length=200)


@dataclass(frozen=True, slots=True)
class _Agent:
    principal: Principal
    client: Client
    address: str
    token: str = field(repr=False)
    key_thumbprint: str | None  # of the key that was proved


class RemotePrograms:
    """Both endpoints, for agents that may exchange their token."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._opened = OrderedDict[tuple[str, str, str, tuple[str, ...]], ProgramAccess]()

    def routes(self) -> list[BaseRoute]:
        return [Route(HOSTS, self.hosts, methods=["POST"]), Route(CALLS, self.call, methods=["POST"])]

    async def hosts(self, request: Request) -> Response:
        """A client that is registered for token exchange, with a person's token of the scope `exchange`: the hosts that
        its programs call through this vault, and what is wrong with the names of `accounts`.
        """
        try:
            agent = await self._agent(request)
            run = RemoteRun.model_validate_json(await _body(request))
        except (ProxyRefused, ValidationError) as error:
            return _refusal(error)
        found = await hosts_of(self._deployment, agent.principal)
        members = ("provider", "api", "scheme", "host", "port", "path")
        hosts = [{name: getattr(one, name) for name in members} for one in found]
        problem = await self._new_access(agent, run).unknown_account()
        return JSONResponse({"hosts": hosts, "problem": problem}, headers=_UNSTORED)

    async def call(self, request: Request) -> Response:
        """The same client: a handle for one call, as by token exchange (RFC 8693), bound to the token's DPoP key if it
        has one; or why there is none, with a link if the person can help.
        """
        try:
            agent = await self._agent(request)
            call = RemoteCall.model_validate_json(await _body(request))
        except (ProxyRefused, ValidationError) as error:
            return _refusal(error)
        hosts = await hosts_of(self._deployment, agent.principal)
        found = hosts.find(call.host, call.port, call.path)
        named = found or hosts.at(call.host, call.port)
        try:
            access = self._access(agent, call)
            wanted = WantedCall(call.method, call.path, call.query.encode("latin-1"), call.operation)
            chosen = await access.choose(found, wanted)
            await access.check_place(chosen)
            handle = await access.handle(chosen, partial(self._issue, agent))
        except (ProxyRefused, VaultError) as error:
            refused = error
            if isinstance(refused, VaultError):
                refused = await refusals.of_vault(self._deployment, refused, handle=None)
            provider = next((self._deployment.catalog.get(one.provider) for one in named), None)
            told = self._count(agent, refused, place=agent_place if named else host_place)
            if not named and told is refused:
                note_host(self._deployment, agent.principal, call.host, call.port, code=HOST_REFUSED)
            return _refusal(told, provider=provider)
        answer = {
            "handle": handle,
            "token_type": "Bearer" if agent.key_thumbprint is None else "DPoP",
            "connection_id": chosen.connection_id,
            "provider": chosen.address.provider,
            "api": chosen.address.api,
            "address": chosen.address.url,
            "path": chosen.address.path,
            "keeps_encoding": stores_encoding(self._deployment, chosen),
        }
        return JSONResponse(answer, headers=_UNSTORED)

    def _count(self, agent: _Agent, refused: ProxyRefused, *, place: Callable[[str], str]) -> ProxyRefused:
        """The answer to the agent: a refused call counts toward its limit, unless it waits for its person."""
        if "connect_uri" in refused.more:
            return refused
        who = agent.principal
        wait = self._deployment.budgets.spend(who.user_id, place(who.client_id), now=monotonic())
        return refusals.too_often(wait, why="Too many calls of this agent are refused.") if wait else refused

    async def _agent(self, request: Request) -> _Agent:
        """The caller, who must be allowed to exchange. Raises ProxyRefused."""
        headers, scope, settings = Headers(scope=request.scope), request.scope, self._deployment.settings
        try:
            scheme, token = tokens.read_authorization(headers)
            if scheme == "bearer" and settings.tokens.require_dpop:
                raise ProxyRefused(
                    "unauthorized_client",
                    "tokens.require_dpop is on, and programs can't prove a key: ask an admin to turn it off.",
                    kind="forbidden",
                )
            principal = await tokens.authenticate(
                self._deployment, headers, method=scope["method"], path=sent_path(scope)
            )
            claims = await tokens.read_claims(self._deployment, token, now=self._deployment.now())
        except tokens.TokenRefused as error:
            raise _signed_out(error.code) from error
        except VaultError as error:
            raise await refusals.of_vault(self._deployment, error, handle=None) from error
        client = await clients.get_client(self._deployment.database, principal.client_id)
        if client is None:  # removed since
            raise _signed_out("invalid_token")
        try:
            check_client(self._deployment, client)
        except OAuthError as error:
            raise ProxyRefused(error.code, as_sentence(error.description), kind="forbidden") from error
        if EXCHANGE_SCOPE not in principal.scopes:
            raise ProxyRefused(
                "insufficient_scope", f"Sign in again and request the scope {EXCHANGE_SCOPE}: the token lacks it."
            )
        return _Agent(principal, client, address_of(request), token, claims.key_thumbprint)

    async def _issue(self, agent: _Agent, chosen: AccountChoice, now: int) -> tuple[str, int]:
        """A handle by exchange, and its life in seconds. Raises ProxyRefused."""
        form = {
            "subject_token": agent.token,
            "subject_token_type": ACCESS_TOKEN,
            "audience": chosen.connection_id,
        }
        asked = TokenRequest(
            agent.client,
            Parameters(form),
            scopes=chosen.scopes,
            resource=None,
            key_thumbprint=agent.key_thumbprint,
            now=now,
            address=agent.address,
            needs_handle=True,
            purpose=PURPOSE,
        )
        try:
            answer = await exchange(self._deployment, asked)
        except OAuthError as error:
            refused = ProxyRefused(
                error.code,
                as_sentence(error.description),
                kind="forbidden",
                detail=error.detail,
                headers=error.headers,
                more=error.members,
            )
            refused.status = error.status
            raise refused from error
        return answer.access_token, answer.expires_in or 0

    def _access(self, agent: _Agent, run: RemoteRun) -> ProgramAccess:
        """The access object for this token, which reuses valid handles."""
        who = agent.principal
        key = who.user_id, who.client_id, who.token_id, tuple(sorted(run.accounts))
        if key not in self._opened:
            own = [one for one in self._opened if one[:2] == key[:2]]
            if len(own) >= _MOST_OF_AGENT:
                del self._opened[next(iter(own))]
            elif len(self._opened) >= _MOST:
                self._opened.popitem(last=False)  # its handles end by themselves
            self._opened[key] = self._new_access(agent, run)
        self._opened.move_to_end(key)
        return self._opened[key]

    def _new_access(self, agent: _Agent, run: RemoteRun) -> ProgramAccess:
        asking = PermissionWait(lambda message, url: None, 0.0)  # the program's own machine informs the person
        return ProgramAccess(self._deployment, agent.principal, asking, agent=agent.client.name, accounts=run.accounts)


def _signed_out(code: str) -> ProxyRefused:
    return ProxyRefused(code, "Sign in again: the access token isn't valid.", kind="invalid_token")


def routes(deployment: Deployment) -> list[BaseRoute]:
    """Both endpoints."""
    return RemotePrograms(deployment).routes()


async def _body(request: Request) -> bytes:
    try:
        return await read_body(request.receive, limit=_LIMIT)
    except BodyTooLarge as error:
        raise ProxyRefused("invalid_body", "The request is too large.", kind="invalid_request") from error


def _refusal(error: ProxyRefused | ValidationError, *, provider: Provider | None = None) -> Response:
    """The refusal for the program, in its provider's format."""
    if isinstance(error, ValidationError):
        error = ProxyRefused(
            "invalid_request", "This version of the vault doesn't support this request: update Token Vault."
        )
    content = {
        "code": error.code,
        "text": error.description,
        "provider": "" if provider is None else provider.name,
        "headers": dict(error.headers),
        "body": refusals.content_of(error, provider),
        "link": error.more.get("connect_uri"),
    }
    is_unauthorized = error.status == status_of("invalid_token")
    challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'} if is_unauthorized else {}
    return JSONResponse(content, status_code=error.status, headers={**_UNSTORED, **challenge})
