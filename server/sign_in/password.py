"""Identify browsers: session cookies, password sign-in with throttling, the first admin, and the owner's one-time link.

Pages are `server.portal`; sign-in through another provider is `server.sign_in.openid`; `vault` hashes and stores.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Literal
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from server.deployment import Deployment
from server.errors import PersonRefused
from server.http.addresses import address_of, counting_key, network_of
from server.runtime import peers
from server.settings import Settings
from server.sign_in.devices import describe_browser
from server.sign_in.proofs import CHANGED, Proof, hold_person, password_of
from vault import limits, tickets, users
from vault.audit import audit
from vault.keys.passwords import PasswordRefused, check_password, hash_password, needs_rehash, verify_password
from vault.records import Event, Session, TicketPurpose, User
from vault.refusals import TransitionRefused
from vault.sign_in import sessions
from vault.sign_in.sessions import SessionFacts
from vault.storage.database import Transaction

WINDOW: Final = 900  # seconds over which wrong passwords are counted
FIRST_ADMIN_LIFETIME: Final = 86400
OWNER_LINK_LIFETIME: Final = 120
SIGN_IN_LINK_LIFETIME: Final = 86400
KNOWN_BROWSER_LIFETIME: Final = 180 * 86400
_KNOWN_BROWSER_FAILURES: Final = 10
_SESSIONS: Final = 100  # sign-ins per person in WINDOW: each leaves a row and an event
PASSWORD_CHANGED: Final = "password_changed"  # how a session began
_PEER: Final = "token_vault.peer"  # in the ASGI scope: one look-up per request
UNKNOWN_TIME: Final = 0  # for a sign-in whose provider doesn't report when it authenticated the person

Cookie = Literal["session", "browser", "known", "openid"]
_COOKIE_NAMES: Final[Mapping[Cookie, str]] = {
    "session": "token_vault",
    "browser": "token_vault_browser",  # before sign-in: what forms and sign-in states are bound to
    "known": "token_vault_known",  # a browser in which this account once signed in
    "openid": "token_vault_openid",  # an OpenID Connect sign-in in progress
}


class SignInRefused(PersonRefused):
    """The person couldn't be signed in. All causes that could reveal which accounts exist share one text."""

    code = "sign_in_refused"


class SignInThrottled(PersonRefused):
    """Too many recent wrong passwords, for this account or from this address, or too many sign-ins of this person."""

    code = "sign_in_throttled"

    def __init__(self, description: str, *, retry_after: int) -> None:
        super().__init__(description, kind="too_many_requests")
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to sign in with a password."""

    name: str
    address: str
    password: str = field(repr=False)
    known: str = field(repr=False, default="")  # the value of the known-browser cookie


# Cookies


@dataclass(frozen=True, slots=True)
class Peer:
    """The operating-system user whose program sent a request; `uid` is None when that end has no owner."""

    uid: int | None

    @property
    def is_owner(self) -> bool:
        """Whether this is the user that the vault runs as, or root."""
        return peers.is_ours(self.uid)


def peer_of(deployment: Deployment, request: Request) -> Peer | None:
    """The operating-system user whose program sent the request.

    None if unknown or meaningless: on platforms other than Linux, and behind a proxy.
    """
    if _PEER not in request.scope:
        request.scope[_PEER] = _look_for_peer(deployment.settings, request)
    found: Peer | None = request.scope[_PEER]
    return found


def _look_for_peer(settings: Settings, request: Request) -> Peer | None:
    ours, theirs = request.scope.get("server"), request.client
    is_direct = settings.public_url.startswith("http://") and settings.is_loopback
    if not is_direct or settings.server.trusted_proxies or ours is None or theirs is None or not peers.can_tell():
        return None
    return Peer(peers.peer_uid((ours[0], ours[1]), (theirs.host, theirs.port)))


def cookie_name(deployment: Deployment, cookie: Cookie) -> str:
    """`__Host-` wherever the origin is https; the prefix needs Secure, which plain http on loopback cannot have.

    There, browsers send a cookie to every port of the name (RFC 6265 §8.5), so each vault has its own names.
    """
    if deployment.public_url.startswith("https://"):
        return f"__Host-{_COOKIE_NAMES[cookie]}"
    return f"{_COOKIE_NAMES[cookie]}_{deployment.vault_id[:8]}"


def read_cookie(deployment: Deployment, request: Request, cookie: Cookie) -> str:
    """The cookie's value, empty when there is none.

    On loopback, a cookie is accepted only from programs of the operating-system user that it was given to: servers of
    other users on other ports of `localhost` receive it, and could set one that signs in the victim as someone else.
    """
    sent = request.cookies.get(cookie_name(deployment, cookie), "")
    peer = peer_of(deployment, request) if sent else None
    if peer is None:
        return sent
    value, _, mac = sent.rpartition(".")
    right = _bound_mac(deployment, cookie, value, peer=peer)
    is_right = hmac.compare_digest(mac.encode("utf-8", "surrogatepass"), right.encode())
    return value if is_right and peer.uid is not None else ""


def _bound_mac(deployment: Deployment, cookie: Cookie, value: str, *, peer: Peer) -> str:
    message = f"{cookie}\n{peer.uid}\n{value}".encode("utf-8", "surrogatepass")
    return hmac.new(deployment.keys.subkey("cookie-user"), message, hashlib.sha256).hexdigest()[:32]


def set_cookie(
    deployment: Deployment,
    request: Request,
    response: Response,
    cookie: Cookie,
    *,
    value: str,
    lifetime: int | None = None,
) -> None:
    """Set a cookie that scripts, other sites' forms and other users of this machine cannot use.

    An empty value removes it.
    """
    peer = peer_of(deployment, request) if value else None
    if peer is not None:
        value = f"{value}.{_bound_mac(deployment, cookie, value, peer=peer)}"
    response.set_cookie(
        cookie_name(deployment, cookie),
        value,
        max_age=lifetime if value else 0,
        path="/",
        secure=deployment.public_url.startswith("https://"),
        httponly=True,
        samesite="lax",
    )


# Sessions


async def current_session(
    deployment: Deployment, request: Request, *, touches: bool = True
) -> tuple[Session, User] | None:
    """The live session of this browser and its user. `touches`: a person asked, so the session is not idle."""
    token = read_cookie(deployment, request, "session")
    if not token or len(token) > 128:
        return None
    now = deployment.now()
    idle = deployment.settings.sign_in.session_idle_lifetime
    found = await sessions.find_session(deployment.database, token, now=now, idle_lifetime=idle)
    if touches and found is not None and sessions.needs_touch(found[0], now=now):
        async with deployment.transaction() as transaction:
            await sessions.touch_session(transaction, found[0], now=now)
    return found


async def begin_session(
    deployment: Deployment,
    request: Request,
    response: Response,
    *,
    user: User,
    method: str,
    proof: Proof,
    signed_in_at: int | None = None,
    is_strong: bool = False,
    until: int | None = None,
) -> None:
    """Sign the browser in as `user`: always a new session; the browser's earlier session ends (fixation).

    `proof`: what the person signed in with, which must still hold.

    `signed_in_at` is when a provider authenticated the person, perhaps long ago, or UNKNOWN_TIME: an agent that wants a
    fresh sign-in does not accept a new session alone. None: the person authenticated here, just now. `is_strong`: by a
    passkey, or with several factors. `until`: the session ends then at the latest. Raises SignInThrottled or
    SignInRefused.
    """
    if method != PASSWORD_CHANGED:  # counted before the password was changed
        await _count_session(deployment, user.id)
    now, lifetime = deployment.now(), deployment.settings.sign_in.session_lifetime
    lifetime = lifetime if until is None else min(lifetime, max(0, until - now))
    at = now if signed_in_at is None else min(now, signed_in_at)
    facts = SessionFacts(
        method=method,
        device=describe_browser(request.headers.get("user-agent", "")),
        network=network_of(address_of(request)),
        signed_in_at=at,
        proved_at=at if is_strong and at != UNKNOWN_TIME else None,
    )
    planted, token = read_cookie(deployment, request, "session"), ""
    async with deployment.database.transaction() as transaction:  # of no earlier session
        if await hold_person(transaction, user, proof):
            token, _ = await sessions.start_session(transaction, user.id, now=now, lifetime=lifetime, facts=facts)
            if planted:
                await sessions.end_session(transaction, sessions.session_hash(planted), now=now)
            event = Event(kind="session.started", user_id=user.id, details={"method": method})
            await audit.append(transaction, event, now=now)
    if not token:
        details: dict[str, object] = {"method": method, "reason": "changed"}
        event = Event("session.refused", outcome="refused", user_id=user.id, details=details)
        await deployment.activity.record_refusal(event)
        raise SignInRefused(CHANGED, kind="conflict")
    set_cookie(deployment, request, response, "session", value=token, lifetime=lifetime)
    set_cookie(deployment, request, response, "browser", value="")
    known = _new_known_value(deployment, user.id)
    set_cookie(deployment, request, response, "known", value=known, lifetime=KNOWN_BROWSER_LIFETIME)


async def _count_session(deployment: Deployment, user_id: str) -> None:
    """Limit sign-ins with the right password, so that a loop can't fill the activity or the table of sessions."""
    bucket = f"sign-in:session:{user_id}"
    async with deployment.transaction() as transaction:
        may = await limits.spend(transaction, bucket, limit=_SESSIONS, window=WINDOW, now=deployment.now())
    if not may:
        raise SignInThrottled(
            "You signed in too many times. Wait a quarter of an hour and try again, or continue in a browser where you"
            " are signed in.",
            retry_after=WINDOW,
        )


async def sign_out(deployment: Deployment, request: Request, response: Response, *, session: Session) -> None:
    """End the session on the server and remove its cookie; the browser stays known."""
    now = deployment.now()
    async with deployment.transaction() as transaction:
        await sessions.end_session(transaction, session.token_hash, now=now)
        await audit.append(transaction, Event(kind="session.ended", user_id=session.user_id), now=now)
    set_cookie(deployment, request, response, "session", value="")


# Passwords


async def check_sign_in(deployment: Deployment, attempt: Attempt) -> User:
    """The user of a right name and password. Raises SignInRefused, or SignInThrottled before hashing anything."""
    user = await users.find_user(deployment.database, attempt.name)
    buckets = _buckets(deployment, attempt, user)
    now = deployment.now()
    # Counted before the password is checked, and uncounted if it was right, so that parallel attempts can't slip
    # through.
    async with deployment.transaction() as transaction:
        spent = [await limits.spend(transaction, name, limit=limit, window=WINDOW, now=now) for name, limit in buckets]
    if not all(spent):
        raise SignInThrottled("Too many wrong passwords. Wait 15 minutes and try again.", retry_after=WINDOW)
    is_right = await verify_password(None if user is None else user.password_hash, attempt.password)
    if not is_right or user is None or user.disabled_at is not None:
        raise await _refuse_password(deployment, user)
    old_hash = user.password_hash or ""
    rehashed = await hash_password(attempt.password) if needs_rehash(old_hash) else None
    is_rehashed = False
    async with deployment.transaction() as transaction:
        if rehashed is not None:  # before the counters, in the order of a request with a session
            await users.hold_user(transaction, user.id)
        for name, limit in buckets:
            await limits.spend(transaction, name, limit=limit, window=WINDOW, now=now, cost=-1)
        if rehashed is not None:
            is_rehashed = await users.store_rehash(transaction, user.id, old_hash=old_hash, new_hash=rehashed)
    if rehashed is None:
        return user
    if is_rehashed:
        return replace(user, password_hash=rehashed)
    # A simultaneous sign-in stored its hash first, or the password was changed.
    current = await users.get_user(deployment.database, user.id)
    if current is None or not await verify_password(current.password_hash, attempt.password):
        raise await _refuse_password(deployment, user)
    return current


async def _refuse_password(deployment: Deployment, user: User | None) -> SignInRefused:
    details: dict[str, object] = {"method": "password"}
    user_id = None if user is None else user.id
    event = Event("session.refused", outcome="refused", user_id=user_id, details=details)
    await deployment.activity.record_refusal(event)
    return SignInRefused("The user name or password is wrong.")


def _buckets(deployment: Deployment, attempt: Attempt, user: User | None) -> list[tuple[str, int]]:
    """The counters for a wrong password.

    A browser in which this account signed in before has its own counter, so that an attacker who keeps guessing from
    elsewhere cannot lock the owner out (OWASP: device cookies). Unknown names are counted like known ones.
    """
    settings = deployment.settings.sign_in
    if user is not None and _is_known_value(deployment, user.id, attempt.known):
        browser = hashlib.sha256(attempt.known.encode()).hexdigest()[:32]
        return [(f"sign-in:browser:{browser}", _KNOWN_BROWSER_FAILURES)]
    folded = unicodedata.normalize("NFKC", attempt.name[:400]).strip().casefold() if user is None else user.id
    account = hashlib.sha256(folded.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return [
        (f"sign-in:account:{account}", settings.failures_per_account),
        (f"sign-in:address:{counting_key(attempt.address)}", settings.failures_per_address),
    ]


def _new_known_value(deployment: Deployment, user_id: str) -> str:
    nonce = secrets.token_urlsafe(16)
    return f"{nonce}.{_known_mac(deployment, user_id, nonce=nonce)}"


def _is_known_value(deployment: Deployment, user_id: str, value: str) -> bool:
    nonce, _, mac = value.partition(".")
    return hmac.compare_digest(
        _known_mac(deployment, user_id, nonce=nonce).encode(), mac.encode("utf-8", "surrogatepass")
    )


def _known_mac(deployment: Deployment, user_id: str, *, nonce: str) -> str:
    message = f"{user_id}\n{nonce}".encode("utf-8", "surrogatepass")
    return hmac.new(deployment.keys.subkey("known-browser"), message, hashlib.sha256).hexdigest()


async def change_password(deployment: Deployment, user: User, *, current: str, new: str, address: str) -> User:
    """Set a new password, ending every session and grant of the user. The current one, if set, must be known.

    Returns the user with it. Raises PasswordRefused, SignInRefused, or SignInThrottled.
    """
    check_password(new, name=user.name)
    if user.password_hash is not None:
        user = await check_sign_in(deployment, Attempt(name=user.name, address=address, password=current))
    await _count_session(deployment, user.id)
    password_hash = await hash_password(new)
    now = deployment.now()
    async with deployment.transaction() as transaction:
        if not await hold_person(transaction, user, password_of(user)):  # of two simultaneous changes, one is first
            raise SignInRefused("The user name or password is wrong.")
        await users.set_password(transaction, user.id, password_hash=password_hash, now=now)
        await audit.append(transaction, Event(kind="user.password_changed", user_id=user.id), now=now)
    return replace(user, password_hash=password_hash)


def check_same(password: str, again: str) -> None:
    """Raises PasswordRefused when the two entries of a new password differ."""
    if not hmac.compare_digest(password.encode("utf-8", "surrogatepass"), again.encode("utf-8", "surrogatepass")):
        raise PasswordRefused("The two passwords don't match.")


# The first admin, and the owner of the data directory


async def has_admin(deployment: Deployment) -> bool:
    """Whether this vault has an admin."""
    return bool(await users.list_admins(deployment.database))


async def first_admin_secret(deployment: Deployment) -> str | None:
    """A one-time secret that lets its holder create the first admin; None when there is an admin."""
    if await has_admin(deployment):
        return None
    async with deployment.transaction() as transaction:
        return await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.BOOTSTRAP,
            payload={"kind": "first_admin"},
            lifetime=FIRST_ADMIN_LIFETIME,
            now=deployment.now(),
        )


async def create_first_admin(deployment: Deployment, *, secret: str, name: str, password: str) -> User:
    """Create the first admin with the one-time secret. Raises SignInRefused for a wrong secret or when there is one."""
    check_password(password, name=name)
    now = deployment.now()
    ticket = await tickets.peek(deployment.database, deployment.keys, secret, purpose=TicketPurpose.BOOTSTRAP, now=now)
    if ticket is None or ticket.payload.get("kind") != "first_admin":
        raise SignInRefused("This isn't the secret that the server printed at startup, or it was already used.")
    password_hash = await hash_password(password)
    async with deployment.transaction() as transaction:
        await users.hold_admins(transaction)  # of several with a secret each, one is first
        if await users.list_admins(transaction):
            raise SignInRefused("This vault already has an admin.")
        await tickets.consume(transaction, deployment.keys, secret, purpose=TicketPurpose.BOOTSTRAP, now=now)
        user = await users.create_user(transaction, name, password_hash=password_hash, is_admin=True, now=now)
        event = Event(kind="user.created", user_id=user.id, details={"method": "first_admin"})
        await audit.append(transaction, event, now=now)
    return user


async def owner_link(deployment: Deployment, user_id: str, *, return_to: str = "/") -> str:
    """A one-time URL that signs its browser in as the owner; only for the owner's own machine, never sent anywhere."""
    async with deployment.transaction() as transaction:
        secret = await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.BOOTSTRAP,
            payload={"kind": "owner_sign_in", "user_id": user_id},
            lifetime=OWNER_LINK_LIFETIME,
            now=deployment.now(),
            user_id=user_id,
        )
    return deployment.url("/sign-in/local?" + urlencode({"ticket": secret, "return_to": return_to}, quote_via=quote))


async def owner_of_link(deployment: Deployment, secret: str) -> User:
    """The owner that a one-time link is for; `owner_link_proof` uses it up.

    Raises SignInRefused when it was used, has expired or is something else.
    """
    now, purpose = deployment.now(), TicketPurpose.BOOTSTRAP
    ticket = await tickets.peek(deployment.database, deployment.keys, secret, purpose=purpose, now=now)
    is_one = ticket is not None and ticket.payload.get("kind") == "owner_sign_in"
    user = await users.get_user(deployment.database, str(ticket.payload.get("user_id"))) if ticket and is_one else None
    if user is None or user.disabled_at is not None:
        raise _old_owner_link()
    return user


def _old_owner_link() -> SignInRefused:
    return SignInRefused("This link was already used, or is older than two minutes. Open a new one.", kind="forbidden")


def owner_link_proof(deployment: Deployment, secret: str, owner: User) -> Proof:
    """The proof that uses the link up in the transaction that begins the session. Raises SignInRefused if the link was
    used before."""
    is_unchanged = password_of(owner)

    async def use(transaction: Transaction, now_is: User) -> bool:
        now, purpose = deployment.now(), TicketPurpose.BOOTSTRAP
        try:
            await tickets.consume(transaction, deployment.keys, secret, purpose=purpose, now=now)
        except TransitionRefused as error:
            raise _old_owner_link() from error
        return await is_unchanged(transaction, now_is)

    return use


# Links that an administrator makes for someone


async def make_sign_in_link(deployment: Deployment, transaction: Transaction, user_id: str) -> str:
    """A one-time URL with which this person signs in and chooses a password; earlier ones stop working."""
    now = deployment.now()
    await tickets.expire_purpose(transaction, user_id, purpose=TicketPurpose.BOOTSTRAP, now=now)
    secret = await tickets.issue(
        transaction,
        deployment.keys,
        purpose=TicketPurpose.BOOTSTRAP,
        payload={"kind": "sign_in_link", "user_id": user_id},
        lifetime=SIGN_IN_LINK_LIFETIME,
        now=now,
        user_id=user_id,
    )
    return deployment.url("/sign-in/link?" + urlencode({"ticket": secret}))


async def user_of_link(deployment: Deployment, secret: str) -> User:
    """The person that the link is for; doesn't use it up. Raises SignInRefused if it was used, has expired, or isn't
    such a link."""
    now = deployment.now()
    ticket = await tickets.peek(deployment.database, deployment.keys, secret, purpose=TicketPurpose.BOOTSTRAP, now=now)
    is_one = ticket is not None and ticket.payload.get("kind") == "sign_in_link"
    user = await users.get_user(deployment.database, str(ticket.payload["user_id"])) if ticket and is_one else None
    if user is None or user.disabled_at is not None:
        raise SignInRefused(
            "This link was already used, was replaced, or has expired. Ask an administrator for another."
        )
    return user


async def use_sign_in_link(deployment: Deployment, secret: str, *, new: str | None) -> tuple[User, Proof]:
    """Use the link up and set the password, which ends every session and grant.

    `new` is None without passwords: then the link is used up with the session that begins with the proof. Raises
    SignInRefused or PasswordRefused.
    """
    user = await user_of_link(deployment, secret)
    if new is None:
        return user, partial(_try_link, deployment, secret)
    check_password(new, name=user.name)
    password_hash = await hash_password(new)
    try:
        async with deployment.transaction() as transaction:
            await users.hold_user(transaction, user.id)  # before the link, as disabling and deleting do
            await _use_link(deployment, transaction, secret, user)
            await users.set_password(transaction, user.id, password_hash=password_hash, now=deployment.now())
    except TransitionRefused as error:
        raise SignInRefused("This link was already used. Ask an administrator for another.") from error
    changed = replace(user, password_hash=password_hash)
    return changed, password_of(changed)


async def _use_link(deployment: Deployment, transaction: Transaction, secret: str, user: User) -> None:
    now = deployment.now()
    await tickets.consume(transaction, deployment.keys, secret, purpose=TicketPurpose.BOOTSTRAP, now=now)
    await audit.append(transaction, Event(kind="user.link_used", user_id=user.id), now=now)


async def _try_link(deployment: Deployment, secret: str, transaction: Transaction, user: User) -> bool:
    """Use the link up in the transaction that begins the session; False if it was used before."""
    try:
        await _use_link(deployment, transaction, secret, user)
    except TransitionRefused:
        return False
    return True


OWNER_ISSUER: Final = "urn:token-vault:data-directory"  # the identity that marks the owner of the data directory


OWNER_SUBJECT: Final = "owner"
