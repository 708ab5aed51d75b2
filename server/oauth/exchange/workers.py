"""Workers: clients that an operator trusts to name the person they act for, in a JWT signed with their own key.

This is for jobs without a person present, so it is the most limited method: one use within a minute, a reason that the
person can read in the activity, and limits on source addresses, accounts, and scopes. It doesn't replace the person's
permission: without a delegation, a worker gets a link like any other client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final

from server.deployment import Deployment
from server.oauth.clients import authentication
from server.oauth.clients.keys import keys_of
from server.oauth.exchange.subjects import Limits, Subject, refusal
from server.oauth.rules import OAuthError, clean_name
from server.oauth.token_request import TokenRequest
from server.signatures import jose
from server.signatures.key_sets import first_verified, key_id
from vault import replay, users
from vault.records import Client, ClientKind, Event

MEMBER: Final = "worker"  # of a client's metadata
TYPES: Final = frozenset({None, "JWT", "token-vault-req+jwt"})
MAX_AGE: Final = 60  # seconds
MAX_REASON: Final = 256


@dataclass(frozen=True, slots=True)
class WorkerRules:
    """The limits that an operator set for a worker. Empty lists allow nothing."""

    addresses: tuple[str, ...]  # single ones, or networks in CIDR notation
    limits: Limits

    def admits(self, address: str) -> bool:
        """Whether a request may come from this address."""
        try:
            peer = ip_address(address)
        except ValueError:
            return False
        mapped = getattr(peer, "ipv4_mapped", None) or peer
        return any(mapped in ip_network(allowed, strict=False) for allowed in self.addresses)


def rules_of(client: Client) -> WorkerRules | None:
    """The rules of a client that an operator made a worker; None for any other."""
    stored = client.metadata.get(MEMBER)
    if client.kind is not ClientKind.MANUAL or client.is_public or not isinstance(stored, Mapping):
        return None
    rules: dict[str, object] = {str(name): value for name, value in stored.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- stored JSON
    lists = {name: _texts(rules.get(name)) for name in ("addresses", "connections", "scopes")}
    return WorkerRules(lists["addresses"], Limits(frozenset(lists["connections"]), frozenset(lists["scopes"])))


def stored_rules(rules: WorkerRules) -> dict[str, object]:
    """The rules as a client's metadata keeps them."""
    return {
        "addresses": list(rules.addresses),
        "connections": sorted(rules.limits.connections),
        "scopes": sorted(rules.limits.scopes),
    }


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, list) else ()  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- stored JSON


async def verify(deployment: Deployment, asked: TokenRequest, token: str) -> Subject:
    """The subject that a worker names. Raises OAuthError; a worker's refusal is recorded as an event, other clients'
    aren't."""
    rules = rules_of(asked.client)
    if rules is None:
        raise refusal(
            "this client isn't a worker",
            "this client isn't registered as a worker: ask an admin to register it with token-vault "
            "clients add --worker-connection",
        )
    try:
        return await _verify(deployment, asked, token, rules)
    except OAuthError as error:
        details: dict[str, object] = {"reason": error.detail or error.code, "address": asked.address}
        event = Event("worker.refused", outcome="refused", client_id=asked.client.id, details=details)
        await deployment.activity.record_refusal(event)
        raise


async def _verify(deployment: Deployment, asked: TokenRequest, token: str, rules: WorkerRules) -> Subject:
    if not rules.admits(asked.address):
        raise OAuthError(
            "access_denied",
            "this worker can't call from this address: ask an admin to add it to --worker-address",
            detail="address",
        )
    claims = await _claims(deployment, asked, token)
    token_id, issued_at = jose.token_id(claims), jose.integer_claim(claims, "iat")
    if issued_at is None or not asked.now - MAX_AGE <= issued_at <= asked.now + jose.CLOCK_SKEW:
        raise refusal("iat is missing, in the future, or more than 60 s ago")
    expires_at = jose.integer_claim(claims, "exp")
    if "exp" in claims and (expires_at is None or not asked.now < expires_at <= issued_at + MAX_AGE):
        raise refusal("exp is past, or more than 60 s after iat")
    if token_id is None:
        raise refusal("the signed request has no jti")
    reason = _reason(claims)
    subject = claims.get("sub")
    user = await users.get_user(deployment.database, subject) if isinstance(subject, str) else None
    if user is None or not user.has_agents:
        raise refusal("the user is unknown or disabled")
    await _spend(deployment, asked, token_id, issued_at=issued_at)
    return Subject(
        user_id=user.id,
        grant_id="",
        derived_from=f"worker:{asked.client.id}",
        actors=(asked.client.id,),
        scopes=None,
        audience="",
        expires_at=None,  # it has been used up by now
        kind="worker",
        limits=rules.limits,
        details={"reason": reason, "worker_token": token_id[:64]},
    )


async def _claims(deployment: Deployment, asked: TokenRequest, token: str) -> dict[str, object]:
    """The claims, verified with one of the client's own keys, for this vault."""
    try:
        header = jose.unverified_header(token)
        algorithm = jose.check_header(header, algorithms=jose.FOREIGN_ALGORITHMS, allowed=jose.HEADER_MEMBERS)
        keys = await keys_of(deployment, asked.client, kid=key_id(header), address=asked.address, now=asked.now)
        claims = first_verified(token, keys, algorithm=algorithm)
    except jose.TokenMalformed as error:
        raise refusal(str(error)) from error
    if header.get("typ") not in TYPES:
        raise refusal("typ")
    if claims.get("iss") != asked.client.id or not authentication.is_for_us(deployment, claims):
        raise refusal("iss isn't the worker's client ID, or aud isn't this vault")
    return claims


def _reason(claims: dict[str, object]) -> str:
    """The reason, as text for the person; `audit_context` is Auth0's name for it."""
    given = claims.get("reason", claims.get("audit_context"))
    reason = clean_name(given, limit=len(given)) if isinstance(given, str) else ""
    if not 1 <= len(reason) <= MAX_REASON:
        raise refusal("reason", f"reason is required for workers, 1 to {MAX_REASON} characters")
    return reason


async def _spend(deployment: Deployment, asked: TokenRequest, token_id: str, *, issued_at: int) -> None:
    async with deployment.transaction() as transaction:
        is_first = await replay.first_use(
            transaction,
            "worker",
            f"{asked.client.id} {token_id}",
            expires_at=issued_at + MAX_AGE + jose.CLOCK_SKEW,
            now=asked.now,
            made_at=issued_at - jose.CLOCK_SKEW,
        )
    if not is_first:
        raise refusal("replayed")
