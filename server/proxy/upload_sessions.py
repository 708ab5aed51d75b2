"""Upload sessions: their IDs work without a credential, so clients only get them sealed.

Google answers the start of a resumable upload with an address whose `upload_id` is all that later requests need, for a
week. Sealed for one agent, account, and path, it works only through the vault, which checks each request and stops with
the agent's permission.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote_plus

from providers.definitions.model import Provider
from server.proxy.wire import ProxyRefused, Target
from vault.envelope import Context, open_sealed, seal
from vault.handles import Handle
from vault.keys.key_ring import KeyRing
from vault.records import TENANT
from vault.refusals import CiphertextRejected

_PURPOSE = "upload-session"


@dataclass(frozen=True, slots=True)
class OpenedQuery:
    """A query in the provider's form, and the session that it names."""

    query: str = field(repr=False)
    session: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class UploadSessions:
    """The sessions of one agent at one account. `parameter` None: the provider has none."""

    parameter: str | None
    key: bytes = field(repr=False)
    context: Context

    @classmethod
    def of(cls, keys: KeyRing, provider: Provider, handle: Handle) -> UploadSessions:
        """The sessions that this handle's agent can continue."""
        context = Context(
            _PURPOSE, TENANT, user_id=handle.principal.user_id, provider=provider.name, account=handle.connection_id
        )
        context = replace(context, record_id=handle.principal.client_id)
        return cls(provider.proxied.upload_session, keys.subkey(_PURPOSE), context)

    def open(self, target: Target, query: str) -> OpenedQuery:
        """The query with the provider's own session ID. Raises ProxyRefused if it wasn't sealed here."""
        parts, at = self._find(query)
        if not at:
            return OpenedQuery(query)
        try:
            (place,) = at
            name, _, value = parts[place].partition("=")
            sealed = urlsafe_b64decode(unquote_plus(value) + "===")
            found = open_sealed(sealed, key=self.key, context=self._context(target)).decode()
        except (ValueError, CiphertextRejected) as error:
            raise _strange() from error
        parts[place] = f"{name}={quote(found, safe='')}"
        return OpenedQuery("&".join(parts), found)

    def close(self, target: Target, query: str) -> OpenedQuery | None:
        """The query with the session ID sealed; None if there is none that can be sealed."""
        parts, at = self._find(query)
        if len(at) != 1:
            return None
        (place,) = at
        name, _, value = parts[place].partition("=")
        found = unquote_plus(value)
        sealed = seal(found.encode(), key=self.key, key_id=_PURPOSE, context=self._context(target))
        parts[place] = f"{name}={urlsafe_b64encode(sealed).decode().rstrip('=')}"
        return OpenedQuery("&".join(parts), found)

    def _context(self, target: Target) -> Context:
        return replace(self.context, record_id=f"{self.context.record_id} {target.api} {target.path}")

    def _find(self, query: str) -> tuple[list[str], list[int]]:
        """The parts of the query, and which of them name a session, however that is written."""
        parts = query.split("&")
        if self.parameter is None:
            return parts, []
        wanted = self.parameter.lower()
        return parts, [at for at, part in enumerate(parts) if unquote_plus(part.partition("=")[0]).lower() == wanted]


def _strange() -> ProxyRefused:
    return ProxyRefused("unknown_target", "The vault didn't give this upload session to this agent. Start a new one.")
