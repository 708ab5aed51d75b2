"""Passkeys (WebAuthn Level 3): the requests to the browser, and checks of its answers.

A challenge is created when a page is shown, and isn't stored: it contains its expiry and a MAC over the browser's
secret and the purpose, and its first use is remembered. The authenticator must verify its user (`uv`) and store the
credential so that no user name is needed (discoverable). No attestation is requested: people can choose any brand of
authenticator. `vault.sign_in.passkeys` stores, `server.portal.profile` and `server.portal.sign_in` have the pages.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import secrets
from collections.abc import Sequence
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.deployment import Deployment
from server.errors import PersonRefused
from server.http.addresses import counting_key
from server.http.strict_json import parse_json
from server.sign_in.password import WINDOW, SignInThrottled
from vault import limits, replay
from vault.audit import audit
from vault.records import Event, User
from vault.sign_in import passkeys
from vault.sign_in.passkeys import Passkey

Ceremony = Literal["add", "sign_in"]
CHALLENGE_LIFETIME: Final = 1800  # seconds that a page may stay open; the challenge works once, in one browser
ANSWER_LIMIT: Final = 16 * 1024  # characters
_TIMEOUT: Final = 120_000  # milliseconds, a hint to the browser
_NONCE: Final = 16
_HEAD: Final = _NONCE + 8  # and the end, in seconds
_ADDS: Final = 30  # attempts of a person in WINDOW
# Exceptions, other than its own, that py_webauthn raises for an answer that no browser sends
MALFORMED: Final = (ValueError, TypeError, LookupError, AttributeError, UnsupportedAlgorithm)
_Base64: Final = Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=ANSWER_LIMIT)


class PasskeyRefused(PersonRefused):
    """The browser's answer isn't accepted."""

    code = "passkey_refused"


class _AnswerPart(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Response(_AnswerPart):
    clientDataJSON: Annotated[str, _Base64]  # noqa: N815 -- names of WebAuthn §5.5
    attestationObject: Annotated[str, _Base64] | None = None  # noqa: N815
    authenticatorData: Annotated[str, _Base64] | None = None  # noqa: N815
    signature: Annotated[str, _Base64] | None = None
    userHandle: Annotated[str, Field(max_length=100)] | None = None  # noqa: N815


class Answer(_AnswerPart):
    """What `navigator.credentials` returned, as JSON (WebAuthn §5.1.8)."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=1400)]  # §5.8.3: at most 1023 bytes
    type: Literal["public-key"]
    response: _Response

    def as_object(self) -> dict[str, object]:
        """As py_webauthn reads it."""
        response = self.response.model_dump(exclude_none=True)
        return {"id": self.id, "rawId": self.id, "type": self.type, "response": response}


class _ClientData(_AnswerPart):
    """WebAuthn §5.8.1."""

    challenge: Annotated[str, _Base64]
    crossOrigin: bool = False  # noqa: N815


def encode(content: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Decode base64url without padding. Raises ValueError."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def rp_id(deployment: Deployment) -> str | None:
    """The domain that passkeys belong to: of `server.public_url`. None for an IP address (§5.1.2)."""
    host = urlsplit(deployment.public_url).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host or None
    return None


# What the browser is asked


def adding_options(deployment: Deployment, user: User, held: Sequence[Passkey], *, secret: str) -> str:
    """The JSON for `navigator.credentials.create`, in a browser that holds `secret`."""
    import webauthn
    from webauthn.helpers import structs

    options = webauthn.generate_registration_options(
        rp_id=_domain(deployment),
        rp_name="Token Vault",
        user_id=user.id.encode(),
        user_name=user.name,
        challenge=new_challenge(deployment, secret, ceremony="add"),
        timeout=_TIMEOUT,
        authenticator_selection=structs.AuthenticatorSelectionCriteria(
            resident_key=structs.ResidentKeyRequirement.REQUIRED,
            user_verification=structs.UserVerificationRequirement.REQUIRED,
        ),
        exclude_credentials=[structs.PublicKeyCredentialDescriptor(id=one.credential_id) for one in held],
    )
    return webauthn.options_to_json(options)


def signing_in_options(deployment: Deployment, *, secret: str) -> str:
    """The JSON for `navigator.credentials.get`: any passkey of this vault."""
    challenge = new_challenge(deployment, secret, ceremony="sign_in")
    return json.dumps(
        {
            "challenge": encode(challenge),
            "rpId": _domain(deployment),
            "timeout": _TIMEOUT,
            "allowCredentials": [],
            "userVerification": "required",
        }
    )


def _domain(deployment: Deployment) -> str:
    domain = rp_id(deployment)
    if domain is None:
        raise PasskeyRefused(
            "Passkeys need a name in the vault's address: ask an admin to set server.public_url to a name instead of "
            "an IP address (on this computer: localhost).",
            kind="conflict",
        )
    return domain


def new_challenge(deployment: Deployment, secret: str, *, ceremony: Ceremony) -> bytes:
    """56 bytes: random, until when, and a MAC."""
    head = secrets.token_bytes(_NONCE) + (deployment.now() + CHALLENGE_LIFETIME).to_bytes(8, "big")
    return head + _mac(deployment, secret, ceremony, head)


def _mac(deployment: Deployment, secret: str, ceremony: Ceremony, head: bytes) -> bytes:
    message = hashlib.sha256(secret.encode()).digest() + ceremony.encode() + b"\0" + head
    return hmac.new(deployment.keys.subkey("passkey-challenge"), message, hashlib.sha256).digest()


async def _spend_challenge(deployment: Deployment, answer: Answer, *, secret: str, ceremony: Ceremony) -> bytes:
    """The challenge in the answer, which is valid once and only in this browser. Raises PasskeyRefused."""
    try:
        client_data = _ClientData.model_validate(parse_json(decode(answer.response.clientDataJSON)))
        challenge = decode(client_data.challenge)
    except (ValueError, ValidationError) as error:
        raise _unreadable("client data") from error
    head, sent = challenge[:_HEAD], challenge[_HEAD:]
    is_own = hmac.compare_digest(_mac(deployment, secret, ceremony, head), sent)
    ends_at, now = int.from_bytes(head[_NONCE:], "big"), deployment.now()
    if not is_own or client_data.crossOrigin:
        raise _old_page("challenge of another browser" if not is_own else "cross-origin frame")
    if now >= ends_at:
        raise _old_page("challenge expired")
    made_at = ends_at - CHALLENGE_LIFETIME
    async with deployment.transaction() as transaction:
        is_first = await replay.first_use(
            transaction, "passkey.challenge", challenge.hex(), expires_at=ends_at, now=now, made_at=made_at
        )
    if not is_first:
        raise _old_page("challenge repeated")
    return challenge


def _old_page(detail: str) -> PasskeyRefused:
    return PasskeyRefused("This page is out of date. Try your passkey again on the new one.", detail=detail)


def _unreadable(detail: str) -> PasskeyRefused:
    return PasskeyRefused("The browser's answer can't be read. Try again.", detail=detail)


def read_answer(text: str) -> Answer:
    """The posted answer. Raises PasskeyRefused."""
    if len(text) > ANSWER_LIMIT:
        raise _unreadable("long")
    try:
        answer = Answer.model_validate(parse_json(text.encode()))
        decode(answer.id)  # some lengths fit the pattern, but aren't base64
    except (ValueError, ValidationError) as error:
        raise _unreadable("answer") from error
    return answer


# Whether the answer is accepted


async def add(deployment: Deployment, user: User, *, answer: Answer, secret: str, name: str) -> Passkey:
    """Store the new passkey. Raises PasskeyRefused, PasskeyTaken, TooManyPasskeys or SignInThrottled."""
    import webauthn
    from webauthn.helpers.exceptions import WebAuthnException

    now = deployment.now()
    async with deployment.transaction() as transaction:
        may = await limits.spend(transaction, f"passkey:add:{user.id}", limit=_ADDS, window=WINDOW, now=now)
    if not may:
        raise _too_many_tries()
    challenge = await _spend_challenge(deployment, answer, secret=secret, ceremony="add")
    try:
        made = webauthn.verify_registration_response(
            credential=answer.as_object(),
            expected_challenge=challenge,
            expected_rp_id=_domain(deployment),
            expected_origin=deployment.public_url,
            require_user_verification=True,
        )
    except (WebAuthnException, *MALFORMED) as error:
        raise PasskeyRefused(
            "This passkey can't be used here: it must ask for your fingerprint, face, or PIN. Try another one.",
            detail=str(error)[:200],
        ) from error
    async with deployment.transaction() as transaction:
        stored = await passkeys.add(
            transaction,
            user.id,
            credential_id=made.credential_id,
            public_key=made.credential_public_key,
            sign_count=made.sign_count,
            is_synced=made.credential_device_type == "multi_device",
            name=name,
            now=now,
        )
        event = Event("passkey.added", user_id=user.id, details={"name": name, "passkey": stored.id})
        await audit.append(transaction, event, now=now)
    return stored


async def check_sign_in(deployment: Deployment, *, answer: Answer, secret: str, address: str) -> tuple[User, Passkey]:
    """The owner of the passkey that answered. Raises PasskeyRefused or SignInThrottled; failures count like wrong
    passwords."""
    now, bucket = deployment.now(), f"sign-in:address:{counting_key(address)}"
    limit = deployment.settings.sign_in.failures_per_address
    async with deployment.transaction() as transaction:
        may = await limits.spend(transaction, bucket, limit=limit, window=WINDOW, now=now)
    if not may:
        raise _too_many_tries()
    challenge = await _spend_challenge(deployment, answer, secret=secret, ceremony="sign_in")
    found = await passkeys.find_passkey(deployment.database, decode(answer.id))
    if found is None:
        raise await _refuse(deployment, None, "This vault doesn't know this passkey. Sign in another way.", "unknown")
    passkey, user = found
    sign_count = _verified_count(deployment, answer, passkey, challenge=challenge)
    if sign_count is None:
        raise await _refuse(deployment, user, "This passkey's answer isn't valid. Try again.", "signature")
    if user.disabled_at is not None:
        raise await _refuse(deployment, user, "This account is disabled. Ask an admin.", "disabled")
    async with deployment.transaction() as transaction:
        is_newer = await passkeys.note_use(transaction, passkey, sign_count=sign_count, now=now)
        if is_newer:
            await limits.spend(transaction, bucket, limit=limit, window=WINDOW, now=now, cost=-1)
    if not is_newer:
        raise await _refuse(
            deployment,
            user,
            "This passkey was used fewer times than the vault has seen, so it may be a copy. Sign in another way, "
            "remove it on your account page, and add a new one.",
            "counter",
        )
    return user, passkey


def _verified_count(deployment: Deployment, answer: Answer, passkey: Passkey, *, challenge: bytes) -> int | None:
    """The counter in a valid answer from this passkey; None for an invalid one. `note_use` checks the counter."""
    import webauthn
    from webauthn.helpers.exceptions import WebAuthnException

    handle = answer.response.userHandle
    if handle and not hmac.compare_digest(handle.encode(), encode(passkey.user_id.encode()).encode()):
        return None  # §7.2, step 6
    try:
        return webauthn.verify_authentication_response(
            credential=answer.as_object(),
            expected_challenge=challenge,
            expected_rp_id=_domain(deployment),
            expected_origin=deployment.public_url,
            credential_public_key=passkey.public_key,
            credential_current_sign_count=0,
            require_user_verification=True,
        ).new_sign_count
    except (WebAuthnException, *MALFORMED):
        return None


async def _refuse(deployment: Deployment, user: User | None, description: str, reason: str) -> PasskeyRefused:
    details: dict[str, object] = {"method": "passkey", "reason": reason}
    user_id = None if user is None else user.id
    event = Event("session.refused", outcome="refused", user_id=user_id, details=details)
    await deployment.activity.record_refusal(event)
    return PasskeyRefused(description, kind="not_signed_in", detail=reason)


def _too_many_tries() -> SignInThrottled:
    return SignInThrottled("Too many tries with passkeys. Wait 15 minutes and try again.", retry_after=WINDOW)
