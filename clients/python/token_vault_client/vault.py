"""A vault from its client's side: exchange a person's token for a token of their account, and tools that do so."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import typing
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self, TypeVar

import httpx2

from token_vault_client.refusals import ConnectionNeeded, content_of, refusal_of
from token_vault_client.tokens import ACCESS_TOKEN, KeptTokens, TokenRequest, UpstreamToken, request_of, token_of

Made = TypeVar("Made", bound=Callable[..., Any])
_PARAMETER = "token"
_subject: ContextVar[str | None] = ContextVar("token_vault_subject", default=None)


@contextmanager
def acting_for(subject: str) -> Generator[None]:
    """Within the block, tools get tokens for the person of this access token; separate for each task and thread."""
    mark = _subject.set(subject)
    try:
        yield
    finally:
        _subject.reset(mark)


def _subject_of(given: str | None) -> str:
    found = _subject.get() if given is None else given  # an empty one is a mistake, not the surrounding person
    if not found:
        raise LookupError("whose token? Pass subject=ACCESS_TOKEN, or work within `acting_for(ACCESS_TOKEN)`")
    return found


class _Client:
    """What both classes share."""

    def __init__(self, url: str, *, client_id: str, client_secret: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._client_id = client_id
        self._auth = None if client_secret is None else httpx2.BasicAuth(client_id, client_secret)
        self._kept = KeptTokens()

    def _form(self, request: TokenRequest) -> dict[str, str]:
        return request.form() | ({"client_id": self._client_id} if self._auth is None else {})

    def _read(self, request: TokenRequest, answer: httpx2.Response) -> UpstreamToken:
        content = content_of(answer)
        if answer.status_code != 200 or not isinstance(content, dict) or "access_token" not in content:
            self._kept.forget(request)
            raise refusal_of(answer.status_code, content, retry_after=answer.headers.get("retry-after"))
        return self._kept.keep(request, token_of(content, now=time.time()))


class Vault(_Client):
    """A vault; `client_secret` None for a public client. Raises VaultRefused, or ConnectionNeeded with a link."""

    def __init__(
        self, url: str, *, client_id: str, client_secret: str | None = None, http: httpx2.Client | None = None
    ) -> None:
        super().__init__(url, client_id=client_id, client_secret=client_secret)
        self._http = http or httpx2.Client(timeout=60)

    def token(
        self,
        audience: str,
        scopes: Iterable[str] = (),
        *,
        subject: str | None = None,
        subject_type: str = ACCESS_TOKEN,
        account: str | None = None,
        resource: str | None = None,
        fresh: bool = False,
    ) -> UpstreamToken:
        """A token of the person's account at a provider, with these scopes (RFC 8693).

        `subject` is the person's access token, or that of `acting_for`; `fresh` asks the vault even if one is kept.
        """
        request = request_of(
            audience,
            scopes,
            subject=_subject_of(subject),
            subject_type=subject_type,
            account=account,
            resource=resource,
        )
        kept = None if fresh else self._kept.find(request)
        if kept is not None:
            return kept
        auth = self._auth or httpx2.USE_CLIENT_DEFAULT
        form = self._form(request)
        answer = self._http.post(f"{self.url}/token", data=form, auth=auth, follow_redirects=False)
        return self._read(request, answer)

    def tool(self, audience: str, scopes: Iterable[str] = (), *, account: str | None = None) -> Callable[[Made], Made]:
        """Give a function the person's token as `token`, which no model sees; put it below a framework's decorator. If
        the person must act first, the function returns the text to show them.
        """

        def decorate(function: Made) -> Made:
            if inspect.iscoroutinefunction(function):

                @functools.wraps(function)
                async def run_async(*args: Any, **kwargs: Any) -> Any:
                    try:  # in a thread, because other tasks go on while the vault answers
                        found = await asyncio.to_thread(self.token, audience, scopes, account=account)
                    except ConnectionNeeded as needed:
                        return explain(needed)
                    return await function(*args, **kwargs, token=found)

                return _without_token(function, run_async)

            @functools.wraps(function)
            def run(*args: Any, **kwargs: Any) -> Any:
                try:
                    found = self.token(audience, scopes, account=account)
                except ConnectionNeeded as needed:
                    return explain(needed)
                return function(*args, **kwargs, token=found)

            return _without_token(function, run)

        return decorate

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncVault(_Client):
    """As `Vault`, for asynchronous programs."""

    def __init__(
        self, url: str, *, client_id: str, client_secret: str | None = None, http: httpx2.AsyncClient | None = None
    ) -> None:
        super().__init__(url, client_id=client_id, client_secret=client_secret)
        self._http = http or httpx2.AsyncClient(timeout=60)

    async def token(
        self,
        audience: str,
        scopes: Iterable[str] = (),
        *,
        subject: str | None = None,
        subject_type: str = ACCESS_TOKEN,
        account: str | None = None,
        resource: str | None = None,
        fresh: bool = False,
    ) -> UpstreamToken:
        """As `Vault.token`."""
        request = request_of(
            audience,
            scopes,
            subject=_subject_of(subject),
            subject_type=subject_type,
            account=account,
            resource=resource,
        )
        kept = None if fresh else self._kept.find(request)
        if kept is not None:
            return kept
        auth = self._auth or httpx2.USE_CLIENT_DEFAULT
        form = self._form(request)
        answer = await self._http.post(f"{self.url}/token", data=form, auth=auth, follow_redirects=False)
        return self._read(request, answer)

    def tool(self, audience: str, scopes: Iterable[str] = (), *, account: str | None = None) -> Callable[[Made], Made]:
        """As `Vault.tool`, for coroutine functions."""

        def decorate(function: Made) -> Made:
            if not inspect.iscoroutinefunction(function):
                raise TypeError("AsyncVault.tool is for `async def`; use Vault.tool for other functions")

            @functools.wraps(function)
            async def run(*args: Any, **kwargs: Any) -> Any:
                try:
                    found = await self.token(audience, scopes, account=account)
                except ConnectionNeeded as needed:
                    return explain(needed)
                return await function(*args, **kwargs, token=found)

            return _without_token(function, run)

        return decorate

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()


def explain(needed: ConnectionNeeded) -> str:
    """The text that an agent gets, and passes on to its person."""
    return f"Nothing was done: {needed.description} Ask the person to open {needed.connect_uri} and then try again."


def _without_token(function: Callable[..., Any], wrapper: Any) -> Any:
    """Hide the parameter from everything that reads the signature, as frameworks do for their schemas."""
    signature = inspect.signature(function)
    if _PARAMETER not in signature.parameters:
        raise TypeError(f"{function.__name__} needs a parameter `{_PARAMETER}`, preferably keyword-only")
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = [
        one.replace(annotation=hints.get(name, one.annotation))
        for name, one in signature.parameters.items()
        if name != _PARAMETER
    ]
    wrapper.__signature__ = signature.replace(
        parameters=parameters, return_annotation=hints.get("return", signature.return_annotation)
    )
    wrapper.__annotations__ = {name: hint for name, hint in hints.items() if name != _PARAMETER}
    del wrapper.__wrapped__
    return wrapper
