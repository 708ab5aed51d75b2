"""What the bridge refuses, as sentences for its person on standard error or in the answer to their client."""

from __future__ import annotations

from server.errors import PersonRefused


class BridgeRefused(PersonRefused):
    """The remote vault cannot be used this way."""

    code = "remote_refused"


class RemoteUnreachable(BridgeRefused):
    """The remote vault does not answer. Everything stored is unchanged."""

    code = "remote_unreachable"


class SignInNeeded(BridgeRefused):
    """The person must sign in, or is being asked to."""

    code = "sign_in_needed"


class GrantOver(BridgeRefused):
    """The vault no longer accepts what is stored here. `error` is the OAuth code."""

    code = "remote_grant_over"

    def __init__(self, description: str, *, error: str) -> None:
        super().__init__(description, detail=error)
        self.error = error
