"""A call in progress through the proxy: what is known about it so far, and the request that an allowed call sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from providers.api.masked_members import MemberMask
from providers.api.rules import Payload, judged_method
from providers.credentials.placement import CredentialMismatch, provider_of_account
from providers.definitions.model import Provider, Rule
from server.proxy import refusals
from server.proxy.downloads import Download
from server.proxy.upload_sessions import UploadSessions
from server.proxy.wire import Target
from vault.exchange.exchange import UpstreamToken
from vault.handles import Handle, HandleState
from vault.spans import Span


@dataclass(slots=True)
class ProxyRequest:
    """A call in progress, with the data for the activity."""

    scope: Scope = field(repr=False)  # its headers have the handle
    receive: Receive
    send: Send
    fields: Mapping[str, str] = field(repr=False)  # the headers; the last one of a repeated header
    started: float
    target: Target | None = None
    standing: HandleState | None = None  # of the handle, once it was accepted
    rule: Rule | None = None
    token: UpstreamToken | None = None
    cors: Sequence[tuple[bytes, bytes]] = ()
    is_answering: bool = False
    status: int = 0
    sent: int = 0  # bytes of the request's body
    is_over: bool = False  # the body exceeds proxy.body_limit, so the rest isn't wanted
    received: int = 0  # of the answer's
    members: MemberMask | None = None  # what masks members of the answer
    download: Download | None = None  # where the answer redirected to
    broken: Exception | None = None  # why the request's body ended early
    large_of: tuple[str, str] | None = None  # who occupies a slot of `large_bodies` for the body
    ending: ExitStack = field(default_factory=ExitStack)  # what ends with the call
    shown: Span | None = None  # the call's span, once its handle was accepted

    @property
    def handle(self) -> Handle | None:
        return None if self.standing is None else self.standing.handle

    @property
    def headers(self) -> Headers:
        """All headers, including repeated ones."""
        return Headers(scope=self.scope)

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def judged_method(self) -> str:
        """The method that the rules are looked up by."""
        return judged_method(self.method)


@dataclass(frozen=True, slots=True)
class ProxiedCall:
    """An allowed call: the request that may be sent, under any of `rules`."""

    provider: Provider
    target: Target
    rules: Sequence[Rule]
    payload: Payload  # the contents of its query and body
    address_here: Callable[[str], str]  # where the caller calls an API of the provider, without a slash at the end
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)  # None if it streams, in which case it can only be sent once
    sessions: UploadSessions
    session: str | None = field(default=None, repr=False)  # the upload session that the call is part of

    @property
    def links(self) -> Sequence[tuple[bytes, bytes]]:
        """Absolute addresses of the provider's APIs, and those at which the caller calls them, if they are others."""
        apis = self.provider.apis.items()
        git = self.provider.git  # for its addresses, answers contain those of pages, which clients don't call
        pairs = [
            (base.rstrip("/"), self.address_here(api))
            for api, base in apis
            if "{" not in base and (git is None or git.api != api)
        ]
        return [(there.encode(), here.encode()) for there, here in pairs if there != here]

    def at_account(self, token: str) -> ProxiedCall:
        """The same call at the account's own address, where accounts have different ones."""
        try:
            there = provider_of_account(self.provider, token)
        except CredentialMismatch as error:
            raise refusals.upstream_unauthorized(self.provider) from error
        if there is self.provider:
            return self
        here = self.provider.apis[self.target.api].rstrip("/")
        url = there.apis[self.target.api].rstrip("/") + self.url[len(here) :]
        return replace(self, provider=there, url=url).outward()

    def outward(self) -> ProxiedCall:
        """Restore the provider's own addresses in the body, if a client sends back addresses from an answer."""
        body = self.body
        if not body or not self.provider.proxied.links:
            return self
        for theirs, ours in self.links:
            body = body.replace(ours, theirs)
        return self if body is self.body else replace(self, body=body)


@dataclass(frozen=True, slots=True)
class OpenedToken:
    """The token that an exchange opened for a handle, its mask, and what the handle represented then."""

    token: UpstreamToken
    needles: Sequence[bytes] = field(repr=False)
    standing: HandleState
