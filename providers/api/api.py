"""UpstreamAPI: the provider's API as a tool sees it. It never sees the account's token.

Binds the credential to the provider's own hosts, refuses a call that the scopes don't cover before anything is sent,
limits time and size, and turns every failure into one of five refusals. The vault gets and refreshes the token; the
tools know what a call means.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from itertools import count
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote, urlencode

from providers.api.masked_members import UnreadableAnswer, masked_names
from providers.api.masking import mask, mask_text
from providers.api.retries import UNANSWERED, Repeat, Wait, asks_to_wait, wait_of
from providers.api.rules import NOTHING, Call, Payload, allows, target_of
from providers.api.secrets import masks_of
from providers.api.text import as_data
from providers.api.xml_answers import parse_xml
from providers.credentials.choices import ChoiceRefused, ChosenToken, choose
from providers.credentials.entered_values import CredentialRefused
from providers.credentials.placement import CredentialMismatch, authorize_request
from providers.definitions.model import Provider
from providers.definitions.paths import path_problem
from providers.outbound.json_values import at, text_at
from providers.outbound.messages import HttpError, NotReached, OutboundRequest, OutboundResponse, TooLarge

if TYPE_CHECKING:
    from mcp.client.session import ClientSession

    from providers.outbound.client import Outbound
    from providers.outbound.sessions import StreamedAnswer

BUDGET: Final = 13.0  # seconds for all calls of one tool call, so that its answer is out within 15
CALL_TIMEOUT: Final = 10.0
ANSWER_LIMIT: Final = 1_000_000  # bytes
PARTLY_DONE: Final = (
    "An earlier part of this call was done, or may have been. Check what was done before you call again."
)
_UNSENT: Final = "Nothing was sent."
_WORTH_REPEATING: Final = 3.0  # seconds that must be left to repeat a call
OpenProgram = Callable[[], "AbstractAsyncContextManager[ClientSession]"]
Scalar = str | int | bool
Value = Scalar | Sequence[str]  # a query parameter; a list repeats its name
_FORM: Final = "application/x-www-form-urlencoded"
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Form = Literal["object", "any", "text"]  # the required form of an answer: a JSON object, any JSON or nothing, text
_JSON: Final = json.JSONEncoder(ensure_ascii=False)
logger = logging.getLogger("token_vault.api")


class ToolRefused(Exception):
    """Base class of all refusals; never raised itself. `description` says what happened, and includes `advice`: what
    was done and what to do. It may be shown.
    """

    code = "tool_refused"

    def __init__(self, description: str, *, advice: str = "") -> None:
        super().__init__(description)
        self._reason = description
        self.description = f"{description} {advice}".rstrip()

    def tell_earlier_write(self) -> None:
        """Replace the advice, because an earlier request of this call wrote something."""
        self.description = f"{self._reason} {PARTLY_DONE}"


class RuleRefused(ToolRefused):
    """The scopes don't cover this call, or no rule knows it. Nothing was sent."""

    code = "call_not_allowed"


class TokenRejected(ToolRefused):
    """The provider reports the token as dead. The call wasn't carried out."""

    code = "upstream_unauthorized"


class UpstreamRefused(ToolRefused):
    """The provider understood the call and refused it. `code` is its own code."""

    def __init__(self, code: str, description: str, *, advice: str = "") -> None:
        super().__init__(description, advice=advice)
        self.code = code


class ScopesMissing(ToolRefused):
    """The provider reports that the account must also grant these `scopes` (RFC 6750 §3.1). Nothing was done."""

    code = "insufficient_scope"

    def __init__(self, description: str, *, scopes: frozenset[str]) -> None:
        super().__init__(description)
        self.scopes = scopes


class RateLimited(ToolRefused):
    """The provider is rate limiting. The call wasn't carried out. `retry_after` is in seconds."""

    code = "rate_limited"

    def __init__(self, description: str, *, retry_after: int, repeat: Repeat | None = None, advice: str = "") -> None:
        super().__init__(description, advice=advice)
        self.retry_after = retry_after
        self.repeat = repeat


class UpstreamUnavailable(ToolRefused):
    """No usable answer. `unknown_outcome`: the call may have been carried out, so don't repeat it blindly."""

    code = "upstream_unavailable"

    def __init__(
        self, description: str, *, unknown_outcome: bool, repeat: Repeat | None = None, advice: str = ""
    ) -> None:
        super().__init__(description, advice=advice)
        self.unknown_outcome = unknown_outcome
        self.repeat = repeat


@dataclass(slots=True)
class WrittenState:
    """Whether a tool call changed something at the provider, or may have."""

    has_written: bool = False


@dataclass(frozen=True, slots=True)
class Authority:
    """A token and its authority; see `UpstreamAPI`."""

    token: str = field(repr=False)
    scopes: frozenset[str]
    granted: frozenset[str] | None = None


class UpstreamAPI:
    """One account at one provider, for the duration of one tool call.

    `scopes` is what this caller may do. `granted` is what the token itself can do: the connection's whole grant when we
    enforce the narrowing, the same as `scopes` (the default) when the token is narrow. `now` is the time that tools
    use. `renew` gets another token after the provider rejected this one, which happens mid-call when a refresh ends the
    old token; only the refused request is then sent once more. `entered`: client credentials to mask, too. `program`:
    opens a session of the MCP server that the vault runs for this caller. `written`: shared by all requests of one
    call.
    """

    def __init__(
        self,
        provider: Provider,
        outbound: Outbound,
        *,
        token: str,
        entered: str = "",
        scopes: frozenset[str],
        account: str | None = None,
        connection_id: str = "",
        granted: frozenset[str] | None = None,
        renew: Callable[[], Awaitable[Authority]] | None = None,
        now: int,
        deadline: float | None = None,
        program: OpenProgram | None = None,
        written: WrittenState | None = None,
    ) -> None:
        self.account = account
        self.connection_id = connection_id
        self.now = now
        self.title = provider.title
        self.program = program
        self._provider = provider
        self._outbound = outbound
        self._token = token
        self._secrets = masks_of(provider, token, entered)
        self._scopes = scopes
        self._granted = granted
        self._renew = renew
        self._renewing = asyncio.Lock()
        self._deadline = deadline
        self._written = WrittenState() if written is None else written

    def acting_with(self, token: str) -> UpstreamAPI:
        """The same API with a token for part of the account, such as a page; the token stays in memory."""
        acting = UpstreamAPI(
            self._provider,
            self._outbound,
            token=token,
            scopes=self._scopes,
            account=self.account,
            granted=self._granted,
            now=self.now,
            deadline=self._deadline,
            written=self._written,
        )
        acting._secrets += self._secrets
        return acting

    async def get(
        self, api: str, path: str, *, segments: Sequence[str] = (), params: Mapping[str, Value] | None = None
    ) -> Mapping[str, object]:
        """GET; repeated when the provider is busy or fails and time is left. `path` has `{}` for each of `segments`."""
        return await self._call("GET", api, path, segments, params=params or {})

    async def post(
        self,
        api: str,
        path: str,
        *,
        segments: Sequence[str] = (),
        params: Mapping[str, Value] | None = None,
        body: Mapping[str, object],
    ) -> Mapping[str, object]:
        """POST a JSON body.

        Repeated only when nothing was sent, or when the provider reports that it didn't process the call and when to
        retry.
        """
        return await self._call("POST", api, path, segments, params=params or {}, body=body)

    async def send(
        self,
        method: Method,
        api: str,
        path: str,
        *,
        segments: Sequence[str] = (),
        params: Mapping[str, Value] | None = None,
        body: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        choice: Mapping[str, str] | None = None,
        is_write: bool,
    ) -> Mapping[str, object]:
        """Send any call, with some of the provider's `proxied.headers`; repeated like `get`, or a write like `post`.

        `choice`: values chosen from those that the person entered for the account, by field.
        Returns a list as its `items`, and an answer without a body as an empty object. Raises RuleRefused for a header
        that isn't visible ASCII.
        """
        if any(not (value.isascii() and value.isprintable()) for value in (headers or {}).values()):
            raise RuleRefused("A header of this call has characters that can't be sent.", advice=_UNSENT)
        return await self._call(
            method,
            api,
            path,
            segments,
            params=params or {},
            body=body,
            headers=headers or {},
            choice=choice or {},
            is_write=is_write,
            form="any",
        )

    async def get_text(
        self, api: str, path: str, *, segments: Sequence[str] = (), params: Mapping[str, Value] | None = None
    ) -> str:
        """GET text, such as an exported document, of at most `ANSWER_LIMIT` bytes.

        Repeated like `get`. Refuses what is not text with `not_text`.
        """
        answer = await self._call("GET", api, path, segments, params=params or {}, form="text")
        return text_at(answer, "text") or ""

    async def open_remote(
        self, method: Literal["POST", "DELETE"], *, headers: Mapping[str, str], body: bytes, stack: AsyncExitStack
    ) -> StreamedAnswer:
        """Send to an MCP server's own address, with this account's token; the answer arrives until `stack` closes.

        Request rules don't know such calls; `providers.remote` limits each to the scope of its tool. Sends once more
        with a new token if the server refuses this one. Raises HttpError.
        """
        if not self._provider.is_remote:
            raise RuleRefused(f"{self.title} isn't an MCP server.", advice=_UNSENT)
        (url,) = self._provider.apis.values()
        for is_last in (False, True):
            used = self._token
            request = OutboundRequest(
                method=method,
                url=url,
                headers=headers,
                body=body,
                max_bytes=ANSWER_LIMIT,
                policy=self._provider.registration.reach,
                peer=f"{self._provider.name}.api",
                account=self.connection_id,
                timeout=self.time_left(),
            )
            answer = await stack.enter_async_context(self._outbound.open(self._with_token(request, used)))
            if answer.status != HTTPStatus.UNAUTHORIZED or is_last or not await self._renew_token(used):
                return answer
        raise AssertionError("the second answer is returned")  # pragma: no cover

    def mask_secrets(self, text: str) -> str:
        """The text without this account's credentials, in case the provider repeats them."""
        return mask_text(text, self._secrets)

    async def _call(
        self,
        method: Method,
        api: str,
        path: str,
        segments: Sequence[str],
        *,
        params: Mapping[str, Value],
        body: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        choice: Mapping[str, str] | None = None,
        is_write: bool | None = None,
        form: Form = "object",
    ) -> Mapping[str, object]:
        """Send; once more with a new token if the provider didn't process the call, even for a write."""
        is_write = method != "GET" if is_write is None else is_write
        is_later = self._written.has_written
        try:
            payload, target = Payload(frozenset(params), body or {}), target_of(headers or {})
            call = Call(api, method, path_of(path, segments), {**params, **(body or {})}, payload, target)
            request = self._request(call, params, body, headers or {}, form=form)
            used, chosen = self._token, self._choose(choice or {})
            content: Mapping[str, object] | None = None
            try:
                sent = self._with_token(request, chosen.value)
                content = await self._deliver(sent, call, is_write=is_write, form=form)
            except TokenRejected as error:
                if not chosen.is_usual:  # a region that the account hasn't enabled doesn't know the key
                    raise UpstreamRefused("unauthorized_there", f"{self.title} doesn't know the key there.") from error
                if not await self._renew_token(used):
                    raise
            if content is None:
                request = self._request(call, params, body, headers or {}, form=form)
                sent = self._with_token(request, self._choose(choice or {}).value)
                content = await self._deliver(sent, call, is_write=is_write, form=form)
        except ToolRefused as refused:
            self._written.has_written |= isinstance(refused, UpstreamUnavailable) and refused.unknown_outcome
            if is_later:
                refused.tell_earlier_write()
            raise
        self._written.has_written |= is_write
        return content

    def _choose(self, choice: Mapping[str, str]) -> ChosenToken:
        try:
            return choose(self._provider, self._token, choice)
        except ChoiceRefused as error:
            raise RuleRefused(str(error), advice=_UNSENT) from error
        except CredentialRefused as error:
            raise self._mismatch() from error

    def _mismatch(self) -> TokenRejected:
        return TokenRejected(f"The stored credential no longer fits {self.title}. Enter it again.")

    async def _renew_token(self, used: str) -> bool:
        """Whether there is a token other than the refused one; one renewal per tool call."""
        async with self._renewing:
            if self._token == used and self._renew is not None:
                renew, self._renew = self._renew, None
                fresh = await renew()
                self._token, self._scopes, self._granted = fresh.token, fresh.scopes, fresh.granted
                self._secrets += masks_of(self._provider, fresh.token)
            return self._token != used

    def _request(
        self,
        call: Call,
        params: Mapping[str, Value],
        body: Mapping[str, object] | None,
        more: Mapping[str, str],
        *,
        form: Form,
    ) -> OutboundRequest:
        """The request, without the token. Raises RuleRefused for a call that the scopes don't cover."""
        title, path = self._provider.title, call.path
        if not allows(self._provider, call, self._scopes, granted=self._granted):
            if allows(self._provider, replace(call, payload=NOTHING), self._scopes, granted=self._granted):
                names = ", ".join(sorted({*params, *(body or {})}))
                raise RuleRefused(f"No request rule of {title} covers all of {names} for {path}.", advice=_UNSENT)
            raise RuleRefused(f"The scopes of this call don't cover {call.method} {path} at {title}.", advice=_UNSENT)
        base, end = self._provider.apis[call.api].rstrip("/"), "/" * self._provider.trailing_slash
        query = urlencode(list(_pairs(params))) if params else ""
        accept = "*/*" if form == "text" else "application/json"
        headers = {**more, "Accept": accept, **self._provider.headers}
        if body is not None and "content-type" not in more:
            headers["Content-Type"] = "application/json; charset=utf-8"
        return OutboundRequest(
            method=call.method,
            url=base + path + end + ("?" + query if query else ""),
            headers=headers,
            body=None if body is None else _encode_body(body, headers),
            max_bytes=ANSWER_LIMIT,
            policy=self._provider.registration.reach,
            peer=f"{self._provider.name}.api",
            account=self.account or "",
            timeout=self._timeout(),
        )

    def _with_token(self, request: OutboundRequest, token: str) -> OutboundRequest:
        try:
            return authorize_request(self._provider, request, token)
        except CredentialMismatch as error:
            raise self._mismatch() from error
        except NotReached as error:
            raise self._failure(error, is_write=False) from error

    def _again(self, request: OutboundRequest) -> OutboundRequest:
        return replace(request, timeout=self._timeout())

    async def _deliver(
        self, request: OutboundRequest, call: Call, *, is_write: bool, form: Form
    ) -> Mapping[str, object]:
        """Send until there is an answer, or until repeating is no longer safe or in time."""
        for attempt in count(1):
            try:
                try:
                    answer = await self._outbound.send(request if attempt == 1 else self._again(request))
                except HttpError as error:
                    raise self._failure(error, is_write=is_write) from error
                return self._content(await self._without_members(answer, call), call.api, is_write=is_write, form=form)
            except (RateLimited, UpstreamUnavailable) as refused:
                spread = random.uniform(0.5, 1.5)  # noqa: S311 -- no secret
                pause = None if refused.repeat is None else refused.repeat.pause(attempt=attempt, spread=spread)
                if pause is None or self.time_left() < pause + _WORTH_REPEATING:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("counting has no end")  # pragma: no cover

    async def _without_members(self, answer: OutboundResponse, call: Call) -> OutboundResponse:
        where = {"api": call.api, "method": call.method, "path": call.path}
        kind = answer.headers.get("content-type", "")
        try:
            masked = masked_names(self._provider, self._scopes, **where, content_type=kind)
        except UnreadableAnswer as error:
            raise UpstreamRefused("unreadable", f"{self.title} answered in a form that can't be searched.") from error
        if masked is None:
            return answer
        return replace(answer, body=await masked.mask().whole_in_turns(answer.body))

    def _content(self, answer: OutboundResponse, api: str, *, is_write: bool, form: Form) -> Mapping[str, object]:
        if (body := mask(answer.body, self._secrets)) != answer.body:
            answer = replace(answer, body=body)
        logger.debug("called", extra={"provider": self._provider.name, "status": answer.status})
        if form == "text" and answer.status == HTTPStatus.OK:
            return {"text": self._text(answer)}
        content = answer.json_content() if form == "any" else answer.json_object()
        if content is None and "xml" in answer.headers.get("content-type", ""):
            content = parse_xml(answer.body, mask=lambda text: mask_text(text, self._secrets))  # text that markup hid
        return self._judge(answer, content, api, is_write=is_write)

    def _text(self, answer: OutboundResponse) -> str:
        charset = re.search(r"charset=[\"']?([A-Za-z0-9_.:-]+)", answer.headers.get("content-type", ""))
        try:
            text = answer.body.decode("utf-8-sig" if charset is None else charset[1], errors="replace")
        except (LookupError, UnicodeError):  # an unknown charset, or one that can't replace unreadable bytes
            text = answer.body.decode("utf-8-sig", errors="replace")
        if "\x00" in text:
            raise UpstreamRefused(
                "not_text", f"{self._provider.title} sent data that isn't text, so it can't be read here."
            )
        return mask_text(text.removeprefix("\ufeff"), self._secrets)  # again, because of text that a charset hid

    def _failure(self, error: HttpError, *, is_write: bool) -> ToolRefused:
        if isinstance(error, TooLarge) and not is_write:
            text = f"The answer of {self._provider.title} exceeds the limit of {ANSWER_LIMIT} bytes: ask for less."
            return UpstreamRefused("too_large", text)
        is_sent = not isinstance(error, NotReached)
        return self._unavailable(
            error.reason, is_write=is_write and is_sent, is_passing=not isinstance(error, TooLarge)
        )

    def _timeout(self) -> float:
        return min(self.time_left(), CALL_TIMEOUT)

    def time_left(self) -> float:
        """Seconds left for everything that this tool call sends."""
        now = asyncio.get_running_loop().time()
        if self._deadline is None:
            self._deadline = now + BUDGET
        return max(self._deadline - now, 0.05)

    def _judge(
        self, answer: OutboundResponse, content: Mapping[str, object] | None, api: str, *, is_write: bool
    ) -> Mapping[str, object]:
        """The answer's content. Raises the refusal that the answer means."""
        errors = self._provider.errors
        title = self._provider.title
        ok_flag = None if api in errors.file_apis else errors.ok_flag
        is_error = answer.status >= 300 or (ok_flag is not None and at(content, ok_flag) is not True)
        if content is not None and not is_error:
            return content
        said, code, message = self._error(content)
        if answer.status == HTTPStatus.UNAUTHORIZED or (answer.status < 500 and said in errors.unauthorized):
            raise TokenRejected(f"{title} no longer accepts the account's token.")
        if asks_to_wait(answer, message) or (answer.status < 500 and said in errors.busy):
            wait = wait_of(answer, message, now=self.now)
            if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                raise self._unavailable(f"it is unavailable ({code or answer.status})", is_write=is_write, wait=wait)
            advice = f"Nothing was done; try again in {wait.seconds} s."
            repeat = wait.repeat(is_write=is_write)
            raise RateLimited(f"{title} is rate limiting.", retry_after=wait.seconds, repeat=repeat, advice=advice)
        if answer.status < 300 and (content is None or code is None):
            raise self._unavailable("its answer can't be understood", is_write=is_write)
        if answer.status >= 500 or 300 <= answer.status < 400 or said in errors.unknown_outcome:
            is_passing = not 300 <= answer.status < 400
            reason = f"it answered with an error ({code or answer.status})"
            raise self._unavailable(reason, is_write=is_write, is_passing=is_passing)
        if said in errors.insufficient_scope:
            text = f"{title} says the account hasn't granted what this call needs: reconnect it with more permissions."
            raise UpstreamRefused(code or "insufficient_scope", text)
        meaning = errors.words.get(code or "") or message
        text = f"{title} refused the call: {code or f'status {answer.status}'}" + (f" ({meaning})" if meaning else "")
        raise UpstreamRefused(code or f"http_{answer.status}", text)

    def _error(self, content: Mapping[str, object] | None) -> tuple[str | None, str | None, str]:
        """The raw code of an error answer, to compare (GitHub's have spaces), and code and message cleaned for display.
        For AWS codes (`namespace#Name`), only the name.
        """
        errors = self._provider.errors
        said = code = _first(content, errors.code) or None
        credential = self._provider.credential
        if said is not None and credential is not None and credential.send.aws is not None:
            said = code = said.rpartition("#")[2] or None
        message = _first(content, errors.message) or ""
        if code is not None:
            code = re.sub(r"[^A-Za-z0-9_.-]", "", code)[:64] or None
        return said, code, as_data(message, limit=200).replace("\n", " ")

    def _unavailable(
        self, reason: str, *, is_write: bool, is_passing: bool = False, wait: Wait | None = None
    ) -> UpstreamUnavailable:
        when = "" if wait is None else f" in {wait.seconds} s"
        advice = (
            f"The call may have been carried out. Check before you try again{when}."
            if is_write
            else f"Nothing was changed; try again{when or ' later'}."
        )
        text = f"{self._provider.title}: {reason}."
        repeat = None
        if not is_write:
            repeat = wait.repeat(is_write=False) if wait is not None else UNANSWERED if is_passing else None
        return UpstreamUnavailable(text, unknown_outcome=is_write, repeat=repeat, advice=advice)


def path_of(template: str, segments: Sequence[str]) -> str:
    """The template with each `{}` filled by one percent-encoded segment. RuleRefused for one that isn't a name."""
    parts = template.split("{}")
    if len(parts) != len(segments) + 1:
        raise ValueError("segments do not fit the path")
    filled = parts[0]
    for segment, rest in zip(segments, parts[1:], strict=True):
        quoted = quote(segment, safe="")
        if path_problem(f"/{quoted}") is not None:
            raise RuleRefused("An ID in this call has characters that can't be used in a URL.", advice=_UNSENT)
        filled += quoted + rest
    return filled


def _first(content: Mapping[str, object] | None, paths: Sequence[str]) -> str | None:
    return next((found for path in paths if (found := text_at(content, path)) is not None), None)


def is_form(headers: Mapping[str, str]) -> bool:
    """Whether a body with these headers is a form; the type's case and parameters don't matter (RFC 9110 §8.3.1)."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == _FORM


def _encode_body(body: Mapping[str, object], headers: Mapping[str, str]) -> bytes:
    """JSON, or a form if the headers say so. RuleRefused for a value that a form can't hold."""
    if not is_form(headers):
        return _JSON.encode(body).encode()
    fields: dict[str, str] = {}
    for name, value in body.items():
        if not isinstance(value, str | int):
            raise RuleRefused(f"A form can't hold the value of {name}.", advice=_UNSENT)
        fields[name] = _as_text(value)
    return urlencode(fields).encode()


def _pairs(params: Mapping[str, Value]) -> Iterator[tuple[str, str]]:
    for name, value in params.items():
        if isinstance(value, str | int):
            yield name, _as_text(value)
        else:
            yield from ((name, one) for one in value)


def _as_text(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
