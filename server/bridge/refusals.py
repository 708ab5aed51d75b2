"""The bridge's refusals, as sentences for the person on standard error or in the answer to their client."""

from __future__ import annotations

from server.errors import PersonRefused


class BridgeRefused(PersonRefused):
    """The remote vault can't be used this way."""

    code = "remote_refused"


class RemoteUnreachable(BridgeRefused):
    """The remote vault doesn't answer. Stored data is unchanged."""

    code = "remote_unreachable"


class SignInNeeded(BridgeRefused):
    """The person must sign in, or is being asked to."""

    code = "sign_in_needed"


class GrantOver(BridgeRefused):
    """The vault no longer accepts the stored credentials. `error` is the OAuth error code."""

    code = "remote_grant_over"

    def __init__(self, description: str, *, error: str) -> None:
        super().__init__(description, detail=error)
        self.error = error
