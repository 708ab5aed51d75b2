"""A provider whose client secret is stored elsewhere: the vault reads it for each use, and drops it afterward. If the
provider rejects the secret, it may have been replaced, so it is read again, and the request, which the provider didn't
carry out, is repeated once with it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol, TypeVar

from providers.credentials.certificates import open_valid_identity
from providers.credentials.entered_values import CredentialRefused, pack, read_credential, session_of, unpack
from providers.credentials.references import references_in
from providers.definitions.credential import Credential
from providers.definitions.model import Provider
from providers.oauth.client import OAuthUpstream
from vault.upstream import (
    Account,
    NotSent,
    ProbeAnswer,
    ProbeOutcome,
    RefreshOutcome,
    Refusal,
    RevokeAnswer,
    RevokeOutcome,
    TokenAnswer,
    UpstreamError,
)

Answer = TypeVar("Answer")
CODE: Final = "secret_unavailable"
_LATER: Final = 5  # seconds until it is tried again
_REJECTED: Final = frozenset({"invalid_client", "bad_client_secret", "incorrect_client_credentials"})


class SecretUnavailable(Exception):
    """A secret can't be read where it is kept. `description` is one line with the place and the fix."""

    def __init__(self, description: str) -> None:
        super().__init__(description)
        self.description = description


class SecretReader(Protocol):
    """Reads secrets where they are kept."""

    async def read(self, reference: str, *, is_fresh: bool = False) -> str:
        """The secret; `is_fresh`: don't return one that was read before. Raises SecretUnavailable."""
        ...


class EnteredReader(SecretReader, Protocol):
    """Reads secrets that people refer to, and opens private keys among them."""

    async def open_keys(self, credential: Credential, values: Mapping[str, str]) -> Mapping[str, str]:
        """The values with private keys that need no passphrase. Raises CredentialRefused or SecretUnavailable."""
        ...


def held_references(provider: Provider, token: str) -> dict[str, str]:
    """The references in a credential as the vault holds it, by field; empty if it holds the secrets themselves."""
    credential = provider.credential
    if credential is None:
        return {}
    try:
        return references_in(credential, unpack(credential, token))
    except CredentialRefused:
        return {}


async def read_references(provider: Provider, token: str, secrets: EnteredReader, *, is_fresh: bool = False) -> str:
    """The credential with secrets in place of references. Raises SecretUnavailable.

    At most 10 s for each, and 10 s to open a private key among them.
    """
    found, credential = held_references(provider, token), provider.credential
    if not found or credential is None:
        return token
    read = {name: await secrets.read(one, is_fresh=is_fresh) for name, one in found.items()}
    try:
        values = read_credential(credential, {**unpack(credential, token), **read}, by_admin=True)
        values = await secrets.open_keys(credential, values)
        if credential.send.certificate is not None:
            open_valid_identity(credential.send.certificate, values, now=int(time.time()))
    except CredentialRefused as error:
        place = found.get(error.field, error.field)
        if error.reason in {"ended", "early"}:
            raise SecretUnavailable(f"{place} holds a certificate that isn't valid now; replace it there.") from error
        raise SecretUnavailable(
            f"{place} holds no secret of the form that {provider.title} has; correct it."
        ) from error
    return pack(credential, values, session=session_of(token))


def keep_references(provider: Provider, token: str, newer: str) -> str:
    """What to seal in place of `newer`, which has the secrets for `token`: the references of `token`, and the newer
    session."""
    if provider.credential is None:
        return newer
    return pack(provider.credential, unpack(provider.credential, token), session=session_of(newer))


class ReferencedUpstream:
    """`vault.upstream.UpstreamOAuth` for a provider whose registration has a reference in place of the secret."""

    def __init__(self, provider: Provider, make: Callable[[Provider], OAuthUpstream], secrets: SecretReader) -> None:
        self._provider = provider
        self._make = make
        self._secrets = secrets
        self._without_secret = make(provider)

    @property
    def is_configured(self) -> bool:
        """Whether there is a client ID; whether the secret can be read is found out when it is used."""
        return self._without_secret.is_configured

    def authorization_url(
        self,
        *,
        redirect_uri: str,
        state: str,
        scopes: frozenset[str],
        code_verifier: str,
        login_hint: str | None = None,
    ) -> str:
        """The provider's own address, which contains no secret."""
        return self._without_secret.authorization_url(
            redirect_uri=redirect_uri,
            state=state,
            scopes=scopes,
            code_verifier=code_verifier,
            login_hint=login_hint,
        )

    async def redeem(
        self,
        *,
        code: str,
        redirect_uri: str,
        code_verifier: str,
        state: str = "",
        keep: Callable[[TokenAnswer], Awaitable[None]] | None = None,
    ) -> TokenAnswer:
        """Raises UpstreamError, also where the secret can't be read."""

        def redeem(upstream: OAuthUpstream) -> Awaitable[TokenAnswer]:
            return upstream.redeem(
                code=code, redirect_uri=redirect_uri, code_verifier=code_verifier, state=state, keep=keep
            )

        return await self._ask_or_raise(redeem)

    async def identify(self, access_token: str, answer: Mapping[str, object]) -> Account:
        """Raises UpstreamError, also where the secret can't be read."""
        return await self._ask_or_raise(lambda upstream: upstream.identify(access_token, answer))

    async def refresh(
        self, refresh_token: str, scopes: frozenset[str] | None = None, *, item: str | None = None
    ) -> RefreshOutcome:
        """NotSent if the secret can't be read, so that no token is used up."""
        return await self._ask_for_token(lambda upstream: upstream.refresh(refresh_token, scopes, item=item))

    async def narrow(self, access_token: str, scopes: frozenset[str], *, item: str | None = None) -> RefreshOutcome:
        """NotSent where the secret can't be read."""
        return await self._ask_for_token(lambda upstream: upstream.narrow(access_token, scopes, item=item))

    async def revoke(
        self, *, refresh_token: str | None, access_token: str | None, account: str | None = None
    ) -> RevokeAnswer:
        """NotSent if the secret can't be read, so that it is tried again later."""

        def revoke(upstream: OAuthUpstream) -> Awaitable[RevokeAnswer]:
            return upstream.revoke(refresh_token=refresh_token, access_token=access_token, account=account)

        try:
            answer = await revoke(await self._upstream())
            return await revoke(await self._upstream(is_fresh=True)) if answer is RevokeOutcome.FAILED else answer
        except SecretUnavailable as error:
            return NotSent(error.description, retry_after=_LATER, lacks_secret=True)

    async def probe(
        self, *, refresh_token: str | None, access_token: str | None, is_fresh: bool, is_revoked: bool
    ) -> ProbeAnswer:
        """SILENT if the secret can't be read."""
        try:
            upstream = await self._upstream()
        except SecretUnavailable:
            return ProbeAnswer(ProbeOutcome.SILENT)
        return await upstream.probe(
            refresh_token=refresh_token, access_token=access_token, is_fresh=is_fresh, is_revoked=is_revoked
        )

    async def _upstream(self, *, is_fresh: bool = False) -> OAuthUpstream:
        registration = self._provider.registration
        secret = await self._secrets.read(registration.client_secret or "", is_fresh=is_fresh)
        return self._make(self._provider.with_registration(replace(registration, client_secret=secret)))

    async def _ask_or_raise(self, ask: Callable[[OAuthUpstream], Awaitable[Answer]]) -> Answer:
        try:
            try:
                return await ask(await self._upstream())
            except UpstreamError as error:
                if error.code not in _REJECTED:
                    raise
                return await ask(await self._upstream(is_fresh=True))
        except SecretUnavailable as error:
            raise UpstreamError(CODE, error.description) from error

    async def _ask_for_token(self, ask: Callable[[OAuthUpstream], Awaitable[RefreshOutcome]]) -> RefreshOutcome:
        try:
            outcome = await ask(await self._upstream())
            if isinstance(outcome, Refusal) and outcome.code in _REJECTED:
                return await ask(await self._upstream(is_fresh=True))
        except SecretUnavailable as error:
            return NotSent(error.description, retry_after=_LATER, lacks_secret=True)
        return outcome
