"""The proxy: a client calls the provider's own API through the vault, with a handle in place of the credential.

A call passes an ordered list of checks: request line, handle, rule and parameters, exchange. Then the credential is
added, for that provider's hosts only, and the answer goes back with the credential masked. `server.proxy.wire` defines
valid requests; the provider file's rules and `vault.exchange` decide on each call whether it is allowed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from providers.api import rules
from providers.api.secrets import masks_of
from providers.credentials.aws import UnsignableBody, credential_of
from providers.credentials.choices import ChoiceRefused, ChosenToken, choice_at, choose
from providers.credentials.entered_values import CredentialRefused
from providers.credentials.placement import CredentialMismatch, authorize_request
from providers.definitions.model import Provider
from providers.outbound.messages import HttpError, OutboundRequest
from server.deployment import Deployment
from server.http import cors
from server.http.answers import SANDBOXED
from server.http.bodies import drain, next_piece
from server.oauth import dpop
from server.oauth.rules import OAuthError
from server.proxy import refusals
from server.proxy.answers import SMALL, hand_on, is_unauthorized, read_small
from server.proxy.call import OpenedToken, ProxiedCall, ProxyRequest
from server.proxy.downloads import NO_SUCH_PART, Download, download_headers, find_download, is_file
from server.proxy.large_bodies import LARGE, LargeBodies
from server.proxy.upload_sessions import UploadSessions
from server.proxy.wire import (
    CallParameters,
    ProxyRefused,
    Target,
    aim,
    announces_more,
    is_form,
    is_json,
    merge,
    parse_fields,
    query_names,
    query_pairs,
    read_body,
    read_query,
    read_target,
    request_headers,
)
from server.runtime.rate_limits import agent_place
from server.runtime.recent import RecentDecisions
from server.sign_in.password import cookie_name
from vault import clients, handles
from vault.exchange.exchange import ExchangeRequest, UpstreamToken, exchange
from vault.handles import Handle, HandleRefused, HandleState
from vault.records import Event, Narrowing
from vault.refusals import VaultError
from vault.spans import REQUEST_ID, span

_AGEING: Final = 120  # seconds before expiry at which each call exchanges the token, so that it is renewed in time
_LATER: Final = 5  # seconds; longer than the deadline of the whole call, which is the one reported
_LOOK_EVERY: Final = 1  # seconds after which we check while a body streams whether the call is still allowed
_SHARE: Final = 32  # calls in progress per account
CALLED_ADDRESS: Final = "token-vault-called-address"  # the API's address as the caller knows it
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
logger = logging.getLogger("token_vault.proxy")


class Proxy:
    """ASGI app for everything below `/proxy/`. `address_here`: where callers call a provider's API, if different.

    `tool`: the tool call that all calls are part of.
    """

    def __init__(
        self, deployment: Deployment, address_here: Callable[[Provider, str], str] | None = None, *, tool: str = ""
    ) -> None:
        self._deployment = deployment
        self._of_tool: Mapping[str, object] = {"tool": tool} if tool else {}
        self._address_here = address_here
        self._settings = deployment.settings.proxy
        self._recent = RecentDecisions[bytes, OpenedToken]()
        self._large = LargeBodies()
        self._read_limit = min(self._settings.read_limit, self._settings.body_limit)
        self._cookie = cookie_name(deployment, "session")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["method"] == "OPTIONS" and "access-control-request-method" in fields and "origin" in fields:
            answer = cors.preflight(fields["origin"], methods=METHODS, headers=self._allowed_headers())
            answer.raw_headers.extend(SANDBOXED)
            await answer.write(send)
            return
        incoming = ProxyRequest(scope, receive, send, fields=fields, started=time.monotonic())
        # in case the process ends first, since the provider may have carried out the call
        code: str | None = "interrupted"
        with incoming.ending:
            try:
                code = await self._attempt(incoming)
            finally:
                if incoming.large_of is not None:
                    self._large.give_back(incoming.large_of)
                self._record(incoming, code)
                if incoming.shown is not None:
                    incoming.shown.note(http_status=incoming.status, **({} if code is None else {"error": code}))

    def _address(self, incoming: ProxyRequest, provider: Provider, target: Target, api: str) -> str:
        if self._address_here is not None:
            return self._address_here(provider, api)
        if (called := incoming.fields.get(CALLED_ADDRESS)) is not None:  # a program's, on another machine
            return called if api == target.api else provider.apis[api].rstrip("/")
        return self._deployment.url(f"/proxy/{target.connection_id}/{api}")

    def _allowed_headers(self) -> str:
        passed = sorted({name for provider in self._deployment.catalog for name in provider.proxied.headers})
        return ", ".join([cors.ALLOWED_HEADERS, *passed])

    async def _attempt(self, incoming: ProxyRequest) -> str | None:
        """The outermost handler of a call: every failure becomes an answer here. Returns its code, if any."""
        try:
            async with asyncio.timeout(self._settings.deadline):
                return await self._pass(incoming)
        except ClientDisconnect:
            return "client_gone"
        except TimeoutError:
            refused = refusals.timeout(self._settings.deadline, is_write=incoming.judged_method != "GET")
        except HttpError as error:
            if isinstance(incoming.broken, ClientDisconnect):
                return "client_gone"
            if isinstance(incoming.broken, ProxyRefused):
                refused = incoming.broken
            elif isinstance(incoming.broken, VaultError):
                refused = await refusals.of_vault(self._deployment, incoming.broken, handle=incoming.handle)
            else:
                refused = refusals.of_http(error, is_write=incoming.judged_method != "GET")
        except ProxyRefused as error:
            refused = error.with_traceback(None)  # otherwise its frames would keep it alive
        except (VaultError, OAuthError) as error:
            refused = await refusals.of_vault(self._deployment, error, handle=incoming.handle)
        except Exception:  # the log gets the cause, and the caller an ID to quote
            logger.exception("call failed")
            refused = refusals.internal_error(REQUEST_ID.get())
        refused = self._count(incoming, refused)
        logger.info("call refused", extra={"code": refused.code, "detail": refused.detail})
        if not incoming.is_answering:  # otherwise cut off the answer, so that no client takes it for complete
            await self._refuse(incoming, refused)
        return refused.code

    def _count(self, incoming: ProxyRequest, refused: ProxyRefused) -> ProxyRefused:
        """The answer to the agent: a refused call counts toward its limit, like a tool call that reaches no
        provider."""
        if (
            incoming.handle is None
            or refused.code in refusals.FAILURES
            or refused.status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
        ):
            return refused
        who = incoming.handle.principal
        wait = self._deployment.budgets.spend(who.user_id, agent_place(who.client_id), now=time.monotonic())
        return refusals.too_often(wait, why="Too many calls of this agent are refused.") if wait else refused

    async def _pass(self, incoming: ProxyRequest) -> None:
        """The checks, in order, and the call."""
        self._check_request(incoming)
        incoming.target = target = read_target(incoming.scope["raw_path"])
        incoming.standing = standing = await self._check_handle(incoming)
        handle = standing.handle
        trace = None if self._of_tool else _trace_of(incoming.fields)
        incoming.shown = incoming.ending.enter_context(span("proxy", parent=trace, provider=handle.provider))
        await self._check_origin(incoming, handle)
        provider = self._deployment.catalog.get(handle.provider)
        aimed = None if provider is None else aim(target, provider, handle.connection_id)
        if provider is None or aimed is None or provider.is_remote:
            raise ProxyRefused("unknown_target", "This handle is for another account or API.")
        if provider.credential is not None and not provider.registration.is_on:
            raise ProxyRefused("upstream_unavailable", f"{provider.title} is turned off at this vault.")
        incoming.target = target = aimed
        if announces_more(incoming.headers, self._settings.body_limit):
            incoming.is_over = True
            raise refusals.too_much(self._settings.body_limit, is_read=False)
        call = await self._judge(incoming, handle, provider, target)
        if wait := self._deployment.proxy_calls.spend(
            handle.principal.user_id, handle.principal.client_id, now=time.monotonic()
        ):
            raise refusals.too_often(wait)
        if incoming.sent:  # while the body arrived, the person may have ended what the handle depends on
            standing = await handles.look_again(self._deployment.database, standing, now=self._deployment.now())
            incoming.standing = standing
        await self._call(incoming, call, standing)

    # Checks

    def _check_request(self, incoming: ProxyRequest) -> None:
        fields = incoming.fields
        if "upgrade" in fields:
            raise ProxyRefused("upgrade_refused", "Only plain HTTP works here.")
        if "cookie" in fields and any(
            part.strip().startswith(self._cookie + "=")
            for value in incoming.headers.getlist("cookie")
            for part in value.split(";")
        ):
            raise ProxyRefused("cookie_refused", "Send no cookies: a user's browser session can't be used here.")

    async def _check_handle(self, incoming: ProxyRequest) -> HandleState:
        """The handle, with the proof of its key if it is bound to one (RFC 9449 §7)."""
        is_single = sum(name == b"authorization" for name, _ in incoming.scope["headers"]) == 1
        scheme, _, value = incoming.fields["authorization"].partition(" ") if is_single else ("", "", "")
        scheme, value = scheme.lower(), value.strip()
        if access_key := credential_of(f"{scheme} {value}"):  # AWS SDKs sign with the handle as their access key
            scheme, value = "bearer", access_key
        if scheme not in {"bearer", "dpop", "token"} or not value:
            raise HandleRefused("the access token is missing, invalid or expired", detail="no handle, or several")
        now = self._deployment.now()
        opened = self._recent.find(handles.handle_hash(value), now=now)
        known = None if opened is None else opened.decided.standing
        standing = await handles.look(self._deployment.database, value, known=known, now=now)
        if value.encode() in incoming.scope["query_string"] or value.encode() in incoming.scope["raw_path"]:
            raise ProxyRefused("credential_refused", "Send the handle only in the Authorization header.")
        if scheme != "dpop":
            if self._deployment.settings.tokens.require_dpop:
                raise HandleRefused(
                    "the access token is missing, invalid or expired",
                    detail="the handle isn't bound to a DPoP key, as tokens.require_dpop demands",
                )
            standing.handle.check_key(None)
            return standing
        sent = dpop.read_proof(incoming.headers) or ""
        url = self._deployment.url(dpop.sent_path(incoming.scope))
        proof = dpop.check_proof(sent, method=incoming.method, url=url, now=now, access_token=value)
        standing.handle.check_key(proof.thumbprint)
        await dpop.spend(self._deployment, proof, now=now)
        return standing

    async def _check_origin(self, incoming: ProxyRequest, handle: Handle) -> None:
        """Refuse pages of other origins than the client's own."""
        origin = incoming.fields.get("origin")
        if origin is None:
            return
        client = await clients.get_client(self._deployment.database, handle.principal.client_id)
        if client is None or not cors.may_read(self._deployment.settings, client, origin):
            raise ProxyRefused("origin_refused", "Pages from this origin can't use this handle.")
        incoming.cors = cors.answer_headers(origin, exposed="*")

    async def _judge(self, incoming: ProxyRequest, handle: Handle, provider: Provider, target: Target) -> ProxiedCall:
        """The rule and the parameters. Reads the body if a rule needs it, or if it is small."""
        method = incoming.judged_method
        found = rules.of_path(provider, api=target.api, method=method, path=target.path)
        found = tuple(rule for rule in found if not rule.tells_secrets)
        if not found:
            raise refusals.no_rule(provider, target.path)
        incoming.rule = next(iter(found))
        if rules.first_rule(provider, found, handle.scopes) is None:
            raise refusals.not_covered(provider, found)
        texts = frozenset(name for rule in found for name in rule.json_fields)
        judged = {name for rule in found for name in rule.where} | texts
        query = read_query(incoming.scope["query_string"], provider)
        found = rules.of_query(
            provider, found, api=target.api, method=method, query=query_pairs(incoming.scope["query_string"])
        )
        if not found:
            raise refusals.no_rule(provider, target.path)
        if rules.first_rule(provider, found, handle.scopes) is None:
            raise refusals.not_covered(provider, found)
        # A file's content isn't a parameter, whatever its type.
        is_content = all(rule.body == "any" for rule in found)
        overridable = provider.overrides is not None and bool(provider.overrides.parameters)
        body, in_body = await self._read(incoming, provider, is_judged=bool(judged) or (overridable and not is_content))
        in_body = None if in_body is None else parse_fields(in_body, texts)
        payload = rules.Payload(
            query_names(query), {} if in_body is None else in_body.values, is_unread=in_body is None
        )
        headers = _lower_names(provider.headers) | request_headers(incoming.scope["headers"], provider)
        parameters, operation = merge(query, in_body or CallParameters(), judged), rules.target_of(headers)
        fitting = [rule for rule in found if rules.fits(rule, parameters, operation)]
        if not fitting:
            names_operation = operation or any(rule.target for rule in found)
            raise refusals.unfit(provider, {*judged, rules.TARGET} if names_operation else judged)
        if rules.first_rule(provider, fitting, handle.scopes) is None:
            raise refusals.not_covered(provider, fitting)
        session = UploadSessions.of(self._deployment.keys, provider, handle)
        opened = session.open(target, incoming.scope["query_string"].decode("latin-1"))
        url = provider.apis[target.api].rstrip("/") + target.path
        if opened.query:
            url += "?" + opened.query
        length = incoming.fields.get("content-length")
        if body is None and length is not None:
            headers["content-length"] = length
        call = ProxiedCall(
            provider,
            target,
            fitting,
            payload=payload,
            address_here=partial(self._address, incoming, provider, target),
            url=url,
            headers=headers,
            body=body,
            sessions=session,
            session=opened.session,
        )
        return call.outward()

    async def _read(
        self, incoming: ProxyRequest, provider: Provider, *, is_judged: bool
    ) -> tuple[bytes | None, CallParameters | None]:
        """The body (None if it streams) and its parameters (None if they weren't inspected)."""
        headers = incoming.fields
        length = headers.get("content-length", "0") if "transfer-encoding" not in headers else ""
        if length == "0":
            return b"", CallParameters()
        if incoming.judged_method == "GET":
            raise ProxyRefused("body_refused", f"Send {incoming.method} without a body.")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ProxyRefused("unsupported_body", "Send the body uncompressed.")
        kind = headers.get("content-type", "")
        if kind.lower().startswith("multipart/form-data"):
            raise ProxyRefused("unsupported_body", "Multipart forms aren't supported.")
        if is_judged or is_form(kind) or (is_json(kind) and (not length or int(length) <= self._read_limit)):
            body = await self._whole(incoming, limit=self._read_limit)
            return body, read_body(kind, body, provider, is_judged=is_judged)
        if not length or int(length) > SMALL:
            return None, None
        return await self._whole(incoming, limit=SMALL), None

    async def _whole(self, incoming: ProxyRequest, *, limit: int) -> bytes:
        parts: list[bytes] = []
        more = True
        while more:
            part, more = await self._part(incoming, limit=limit, is_kept=True)
            parts.append(part)
        return b"".join(parts)

    async def _parts(self, incoming: ProxyRequest, call: ProxiedCall, *, limit: int) -> AsyncGenerator[bytes]:
        """The body while the call is allowed: the person may end what the handle depends on before its last part."""
        length = None if "transfer-encoding" in incoming.fields else incoming.fields.get("content-length")
        looked, more = time.monotonic(), True
        while more:
            part, more = await self._part(incoming, limit=limit, is_kept=False)
            is_last = not more if length is None else bool(part) and incoming.sent >= int(length)
            if is_last or time.monotonic() - looked >= _LOOK_EVERY:
                await self._look_again(incoming, call, is_last=is_last)
                looked = time.monotonic()
            if part:
                yield part

    async def _look_again(self, incoming: ProxyRequest, call: ProxiedCall, *, is_last: bool) -> None:
        """Decide again if what the handle depends on has changed. Raises what breaks off the request to the
        provider."""
        known, now = incoming.standing, self._deployment.now()
        if known is None:
            return
        try:
            standing = await handles.look_again(self._deployment.database, known, now=now)
            incoming.standing = standing
            is_same = standing.facts == known.facts and (standing.until is None or now < standing.until)
            # Facts lack a group's members. With a policy, another decision could ask the person again.
            is_whole = standing.is_own or not is_last or self._deployment.vault.policy_check is not None
            if not (is_same and is_whole):
                await self._exchange(incoming, call, standing)
        except (VaultError, ProxyRefused) as error:
            incoming.broken = error
            raise

    async def _part(self, incoming: ProxyRequest, *, limit: int, is_kept: bool) -> tuple[bytes, bool]:
        """The body's next part, and whether there is more.

        Raises ClientDisconnect, or ProxyRefused past the limit and for one that can't be unpacked.
        """
        try:
            part, more = await next_piece(incoming.receive)
        except (ClientDisconnect, ProxyRefused) as error:
            incoming.broken = error
            raise
        incoming.sent += len(part)
        if incoming.sent > limit:
            incoming.is_over = more and limit == self._settings.body_limit
            incoming.broken = refusals.too_much(limit, is_read=is_kept and limit < self._settings.body_limit)
            raise incoming.broken
        if is_kept and incoming.sent > LARGE and incoming.large_of is None and incoming.handle is not None:
            principal = incoming.handle.principal
            agent = principal.user_id, principal.client_id
            if not self._large.take(agent):
                raise refusals.too_many_large()
            incoming.large_of = agent
        return part, more

    # The call

    async def _call(self, incoming: ProxyRequest, call: ProxiedCall, standing: HandleState) -> None:
        """Exchange, send, and answer; if the provider rejects the token, renew it once, if the call can be repeated.

        A 401 means that the call wasn't carried out.
        """
        opening = await self._exchange(incoming, call, standing)
        choice = choice_at(
            call.provider,
            call.target.api,
            address=incoming.fields.get(CALLED_ADDRESS, ""),
            authorization=incoming.fields["authorization"],
        )
        chosen = _choose(call.provider, opening.token, choice)
        call = call.at_account(chosen.value)
        for is_last in (False, True):
            async with self._deployment.http.open(self._request(incoming, call, chosen.value)) as answer:
                incoming.download = find_download(call.provider, answer, called=call.url, method=incoming.method)
                body = await read_small(answer)
                # a region that isn't turned on for the account knows no keys
                is_rejected = chosen.is_usual and is_unauthorized(call.provider, call.target.api, answer, body)
                if not is_rejected and incoming.download is None:
                    await hand_on(incoming, call, answer, body=body, secrets=opening.needles)
                    return
            if incoming.download is not None:
                await self._download(incoming, call, incoming.download, secrets=opening.needles)
                return
            if is_last:
                break
            opening = await self._exchange(incoming, call, standing, spoiled=opening.token.generation)
            chosen = _choose(call.provider, opening.token, choice)
            if call.body is None:
                raise refusals.token_renewed(call.provider)
        raise refusals.upstream_unauthorized(call.provider)

    async def _download(
        self, incoming: ProxyRequest, call: ProxiedCall, download: Download, *, secrets: Sequence[bytes]
    ) -> None:
        """Answer with the file at this address, which is requested without the credential."""
        headers = download_headers(call.headers, method=incoming.method, sent=incoming.headers)
        request = OutboundRequest(
            method=incoming.method,
            url=download.url,
            headers=headers,
            timeout=self._settings.deadline + _LATER,
            max_bytes=self._settings.answer_limit,
            policy=call.provider.registration.reach,
            peer=f"{call.provider.name}.downloads",
            account=call.target.connection_id,
            share=_SHARE,
            is_foreign=True,
        )
        async with self._deployment.http.open(request) as answer:
            if not is_file(answer, asked=headers):
                raise refusals.download_failed(call.provider, answer.status, method=incoming.method)
            # the text of a refusal could repeat the address
            body = b"" if answer.status == NO_SUCH_PART else await read_small(answer)
            await hand_on(incoming, call, answer, body=body, secrets=[*secrets, *download.secrets], is_file=True)

    async def _exchange(
        self, incoming: ProxyRequest, call: ProxiedCall, standing: HandleState, *, spoiled: int | None = None
    ) -> OpenedToken:
        now = self._deployment.now()
        key = standing.handle.digest
        if spoiled is not None:
            self._recent.drop(key)
        known = self._recent.find(key, now=now)
        opening = known.decided if known is not None and self._recent.is_current(key, standing.facts) else None
        if opening is None:
            handle = standing.handle
            request = ExchangeRequest(
                principal=handle.principal,
                provider=handle.provider,
                scopes=handle.scopes,
                purpose="proxy",
                connection_id=handle.connection_id,
                wire={
                    "method": incoming.method,
                    "api": call.target.api,
                    "path": "" if incoming.rule is None else incoming.rule.path,
                },
                details=self._of_tool,
            )
            token = await exchange(request, vault=self._deployment.vault, now=now, after_unauthorized=spoiled)
            opening = OpenedToken(token, masks_of(call.provider, token.value, token.entered), standing)
            ends = (standing.handle.expires_at, standing.until, _renewal_of(token))
            # otherwise the person is asked each time
            is_kept = self._deployment.vault.policy_check is None and not token.secret_source
            if standing.is_own and is_kept:
                self._recent.keep(key, opening, facts=standing.facts, ends=ends, now=now)
        token = opening.token
        granted = rules.authority(
            call.provider,
            scopes=token.scopes,
            granted=token.granted,
            is_narrow=token.narrowing is Narrowing.UPSTREAM,
        )
        incoming.token = token
        decided = rules.first_rule(call.provider, call.rules, token.scopes, granted=granted, payload=call.payload)
        if decided is None:
            plain = rules.first_rule(call.provider, call.rules, token.scopes, granted=granted)
            if plain is not None:
                names = rules.unknown(call.provider, plain, call.payload)
                raise refusals.unknown_parameter(call.provider, plain, names, limit=self._read_limit)
            raise refusals.inseparable(call.provider)
        incoming.rule = decided
        return opening

    def _request(self, incoming: ProxyRequest, call: ProxiedCall, token: str) -> OutboundRequest:
        body = call.body
        request = OutboundRequest(
            method=incoming.method,
            url=call.url,
            headers=call.headers,
            body=self._parts(incoming, call, limit=self._settings.body_limit) if body is None else body or None,
            timeout=self._settings.deadline + _LATER,
            max_bytes=self._settings.answer_limit,
            policy=call.provider.registration.reach,
            peer=f"{call.provider.name}.proxy",
            account=call.target.connection_id,
            share=_SHARE,
        )
        try:
            return authorize_request(call.provider, request, token)
        except CredentialMismatch as error:
            raise refusals.upstream_unauthorized(call.provider) from error
        except UnsignableBody as error:
            raise refusals.unsignable(call.provider, self._read_limit) from error

    # Reporting

    async def _refuse(self, incoming: ProxyRequest, refused: ProxyRefused) -> None:
        incoming.status = refused.status
        provider = None if incoming.handle is None else self._deployment.catalog.get(incoming.handle.provider)
        accept, headers = incoming.fields.get("accept", ""), incoming.cors
        if incoming.is_over:
            headers = [*headers, (b"connection", b"close")]
            if "expect" not in incoming.fields:  # otherwise the client may be waiting to be asked for the body
                await drain(incoming.receive)
        await refusals.send(incoming.send, refused, provider, accept=accept, headers=headers)

    def _record(self, incoming: ProxyRequest, code: str | None) -> None:
        """Record one event per call with a known handle, with the rule's template but never a path, a query, or a
        value."""
        if incoming.handle is None:
            return
        handle, rule, token = incoming.handle, incoming.rule, incoming.token
        details: dict[str, object] = {
            "provider": handle.provider,
            "api": "" if incoming.target is None else incoming.target.api,
            "method": incoming.method if incoming.judged_method in METHODS else "other",
            "path": "" if rule is None else rule.path,
            "status": incoming.status,
            "sent": incoming.sent,
            "received": incoming.received,
            "milliseconds": round((time.monotonic() - incoming.started) * 1000),
            **self._of_tool,
        }
        if code is not None:
            details["code"] = code
        if incoming.members is not None and incoming.members.found:
            details["masked"] = sorted(incoming.members.found)
        if incoming.download is not None:
            details["download"] = incoming.download.host
        if token is not None:
            details |= {"scopes": sorted(token.scopes), "narrowing": token.narrowing.value, "account": token.label}
        outcome = "ok" if code is None else "failed" if code in refusals.FAILURES else "refused"
        activity = self._deployment.activity
        note = activity.note_refusal if outcome == "refused" else activity.note
        note(
            Event(
                "proxy.called",
                outcome=outcome,
                user_id=handle.principal.user_id,
                client_id=handle.principal.client_id,
                connection_id=handle.connection_id,
                details=details,
            )
        )


def _choose(provider: Provider, token: UpstreamToken, choice: Mapping[str, str]) -> ChosenToken:
    try:
        return choose(provider, token.value, choice)
    except ChoiceRefused as error:
        raise ProxyRefused("unknown_target", f"{error} Nothing was sent.") from error
    except CredentialRefused as error:
        raise refusals.upstream_unauthorized(provider) from error


def _trace_of(fields: Mapping[str, str]) -> Mapping[str, str] | None:
    """The caller's W3C trace context."""
    found = {name: fields[name] for name in ("traceparent", "tracestate") if name in fields}
    return found if "traceparent" in found else None


def _lower_names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _renewal_of(token: UpstreamToken) -> int | None:
    return None if token.expires_at is None else token.expires_at - _AGEING
