"""Checks whether a sign-in is recent or strong enough for an action, at the place of the action.

A person whose sign-in isn't sufficient signs in again, which always creates a new session (OWASP ASVS 5.0, 7.2.4).
Changes to sign-in methods need a recent sign-in (7.5.1); `sign_in.passkey_for` lists the actions that need a passkey
each time.
"""

from __future__ import annotations

from typing import Final, Literal, NoReturn

from server.deployment import Deployment
from server.errors import PersonRefused
from vault.records import Session
from vault.sign_in import passkeys

Action = Literal["destructive_tools", "connections", "administration"]
RECOVERY: Final = frozenset({"owner_link", "link"})  # one-time links, which an admin made for this person
_WHAT: Final[dict[Action, str]] = {
    "destructive_tools": "Approving a tool that changes or deletes data",
    "connections": "Connecting an account",
    "administration": "Changing something in administration",
}


class StepUpRequired(PersonRefused):
    """The person must sign in again (`needs` is `recent` or `passkey`), or add a passkey first (`new_passkey`).

    `back` is the path of the page to come back to; empty: the one that was asked for.
    """

    code = "step_up_required"

    def __init__(self, description: str, *, needs: Literal["recent", "passkey", "new_passkey"], back: str = "") -> None:
        super().__init__(description, kind="forbidden", detail=needs)
        self.needs = needs
        self.back = back


def check_recent(deployment: Deployment, session: Session, *, back: str = "") -> None:
    """Raises StepUpRequired unless the person authenticated within `sign_in.recent_lifetime`."""
    if not session.is_recent(deployment.now(), lifetime=deployment.settings.sign_in.recent_lifetime):
        raise StepUpRequired(
            "This changes how you sign in or what you keep here, so sign in again first.", needs="recent", back=back
        )


def lacks_proof(deployment: Deployment, session: Session, action: Action) -> bool:
    """Whether the operator wants a passkey for this action and none proved this session recently."""
    settings = deployment.settings.sign_in
    is_asked = action in settings.passkey_for
    return is_asked and not session.is_proved(deployment.now(), lifetime=settings.recent_lifetime)


async def check_passkey(deployment: Deployment, session: Session | None, action: Action, *, back: str = "") -> None:
    """Raises StepUpRequired unless the operator lets this action pass, or a passkey proved the person recently.

    A sign-in elsewhere counts where its provider says that it used several factors. `session` is None for the command
    line, whose user reads the settings' own files.
    """
    if session is not None and lacks_proof(deployment, session, action):
        await _ask_for_passkey(deployment, session, _WHAT[action], back=back)


async def check_may_answer(deployment: Deployment, session: Session, *, back: str) -> None:
    """Raises StepUpRequired unless a passkey lets this browser answer approvals in its notifications."""
    if not session.is_proved(deployment.now(), lifetime=deployment.settings.sign_in.answer_lifetime):
        await _ask_for_passkey(deployment, session, "Answering in notifications", back=back)


async def _ask_for_passkey(deployment: Deployment, session: Session, what: str, *, back: str) -> NoReturn:
    if await passkeys.list_passkeys(deployment.database, session.user_id):
        description = f"{what} needs your passkey here. Confirm with it; then you come back to this page."
        raise StepUpRequired(description, needs="passkey", back=back)
    description = f"{what} needs a passkey here, and you have none. Add one; then you come back to this page."
    raise StepUpRequired(description, needs="new_passkey", back=back)


async def check_passkey_change(deployment: Deployment, session: Session) -> None:
    """Raises StepUpRequired unless the person may add or remove passkeys now.

    Where the operator asks for passkeys, a person who has one must use it first, so that a stolen password can't add
    another. A person who lost theirs needs a one-time link from an admin.
    """
    check_recent(deployment, session)
    settings = deployment.settings.sign_in
    is_enough = session.method in RECOVERY or session.is_proved(deployment.now(), lifetime=settings.recent_lifetime)
    if not settings.passkey_for or is_enough:
        return
    if await passkeys.list_passkeys(deployment.database, session.user_id):
        raise StepUpRequired(
            "Confirm with a passkey that you have before you change them. If you lost it, ask an admin for a one-time "
            "sign-in link.",
            needs="passkey",
        )
