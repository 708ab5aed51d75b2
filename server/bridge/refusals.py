"""What the bridge refuses, in sentences that its person reads on standard error or in the answer to their client."""

from __future__ import annotations

from server.errors import PersonRefused


class BridgeRefused(PersonRefused):
    """The remote vault cannot be used in this way."""

    code = "remote_refused"


class RemoteUnreachable(BridgeRefused):
    """The remote vault does not answer. Nothing that is stored has changed."""

    code = "remote_unreachable"


class SignInNeeded(BridgeRefused):
    """The person has to sign in, or is asked to just now."""

    code = "sign_in_needed"


class GrantOver(BridgeRefused):
    """The vault does not accept what is stored here any more. `error` is the OAuth code."""

    code = "remote_grant_over"

    def __init__(self, description: str, *, error: str) -> None:
        super().__init__(description, detail=error)
        self.error = error
