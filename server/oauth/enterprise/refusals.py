"""Why an identity assertion is refused: the error for the client, and what the operator can do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from server.oauth.rules import OAuthError


@dataclass(frozen=True, slots=True)
class AssertionRefusal:
    """One reason. `kind` is one of `server.errors.KINDS`; `description` is for the client, `fix` for the operator."""

    description: str
    fix: str
    kind: str = "invalid_grant"


REFUSALS: Final[Mapping[str, AssertionRefusal]] = {
    "unreadable": AssertionRefusal(
        "the assertion isn't a signed JWT",
        "send the ID-JAG as it was issued: signed, not encrypted, at most 16 KB",
    ),
    "typ": AssertionRefusal(
        "the assertion isn't an ID-JAG: its typ must be oauth-id-jag+jwt",
        "have the client exchange its ID token at the identity provider first, and send the result",
    ),
    "issuer": AssertionRefusal(
        "this vault doesn't trust the issuer of the assertion", "enter exactly its iss at enterprise.NAME.issuer"
    ),
    "keys": AssertionRefusal(
        "the issuer's keys aren't available: try again",
        "make the issuer's metadata and keys reachable from here, or set enterprise.NAME.jwks_uri",
        "temporarily_unavailable",
    ),
    "header": AssertionRefusal(
        "the assertion's header isn't allowed here",
        "sign with ES256, ES384, RS256, PS256, or EdDSA, and send no jwk, jku, x5u, x5c, or crit",
    ),
    "signature": AssertionRefusal(
        "none of the issuer's keys matches the signature of the assertion",
        "check that enterprise.NAME.issuer or jwks_uri leads to the keys that sign its assertions",
    ),
    "audience": AssertionRefusal(
        "the assertion is for another authorization server",
        "at the identity provider, enter this vault's issuer as the only audience",
    ),
    "client": AssertionRefusal(
        "the assertion is for another client",
        "at the identity provider, enter the agent's client ID at this vault",
    ),
    "subject": AssertionRefusal(
        "the assertion has no sub", "let the identity provider send sub, at most 255 characters"
    ),
    "tenant": AssertionRefusal(
        "the assertion is from another tenant", "set enterprise.NAME.tenant to the company's tenant at this issuer"
    ),
    "lifetime": AssertionRefusal(
        "the assertion needs iat and exp, and a short life",
        "let the identity provider issue it for at most enterprise.NAME.longest seconds, or raise that setting",
    ),
    "expired": AssertionRefusal(
        "the assertion has expired: get another one", "compare this machine's clock with the identity provider's"
    ),
    "future": AssertionRefusal(
        "the assertion isn't valid yet", "compare this machine's clock with the identity provider's"
    ),
    "jti": AssertionRefusal("the assertion has no jti", "let the identity provider send jti, of 1 to 256 characters"),
    "replayed": AssertionRefusal(
        "the assertion was used before: get another one", "have the client get an assertion for each token"
    ),
    "resource": AssertionRefusal(
        "the assertion is for another resource",
        "at the identity provider, enter the address of this vault's MCP endpoint as the resource",
    ),
    "scope": AssertionRefusal(
        "the assertion has no scope of this vault", "at the identity provider, allow scopes such as tools"
    ),
    "details": AssertionRefusal(
        "authorization_details in an assertion aren't supported",
        "limit the agent by scopes, and by enterprise.NAME.allow",
    ),
    "actor": AssertionRefusal(
        "the act claim is empty or has too many actors", "let the identity provider send a chain of at most four actors"
    ),
    "key": AssertionRefusal(
        "proof of possession required for this authorization grant",
        "have the client send a DPoP proof with the key that the assertion is bound to (cnf.jkt)",
    ),
    "unbound": AssertionRefusal(
        "this grant type is for assertions that are bound to a DPoP key",
        "have the client send a DPoP proof when it requests the assertion, or use the jwt-bearer grant",
    ),
    "age": AssertionRefusal(
        "the person must sign in at the identity provider again",
        "let the identity provider send auth_time, or raise or unset enterprise.NAME.max_age",
        "authenticate_again",
    ),
    "acr": AssertionRefusal(
        "the person must sign in at the identity provider in a stronger way",
        "let the identity provider require and send one of enterprise.NAME.acr",
        "authenticate_again",
    ),
    "registration": AssertionRefusal(
        "clients that register themselves can't use assertions",
        "use the client's metadata document as its ID, or register it: token-vault clients add",
        "unauthorized_client",
    ),
    "public": AssertionRefusal(
        "authenticate, or bind the assertion to a DPoP key",
        "give the client a secret or key, or set enterprise.NAME.public_clients",
        "unauthorized_client",
    ),
    "agent": AssertionRefusal(
        "the company's rules here don't allow this agent",
        "name the agent's client ID in a rule of enterprise.NAME.allow",
        "not_allowed_by_company",
    ),
    "group": AssertionRefusal(
        "the company's rules here don't allow this agent for this person",
        "let the identity provider send the groups (enterprise.NAME.groups_claim), or change the groups of the rule",
        "not_allowed_by_company",
    ),
    "request": AssertionRefusal(
        "none of the requested scopes is in the assertion and allowed here",
        "allow the scopes in the rule and at the identity provider",
        "invalid_scope",
    ),
    "person": AssertionRefusal(
        "this person isn't known here",
        "link the person: token-vault users link NAME --issuer ISSUER --subject SUBJECT; or set "
        "enterprise.NAME.domains or create_people",
    ),
    "address": AssertionRefusal(
        "the person's address isn't confirmed, or not in an allowed domain",
        "let the identity provider send email and email_verified, or link the person",
    ),
    "admin": AssertionRefusal(
        "admins aren't matched by their address",
        "link the admin: token-vault users link NAME --issuer ISSUER --subject SUBJECT",
    ),
    "linked": AssertionRefusal(
        "the person with this address or directory id has another sign-in",
        "if both are the same person, link the subject: token-vault users link",
    ),
    "disabled": AssertionRefusal("this person is disabled here", "enable them: token-vault users enable NAME"),
    "stopped": AssertionRefusal(
        "this person's agents are stopped until they sign in here",
        "have the person sign in at the vault, or enable them: token-vault users enable NAME",
    ),
    "ended": AssertionRefusal(
        "the person disconnected this agent",
        "have the person sign the agent in here once, or admit it again: token-vault enterprise resume",
        "not_allowed_by_company",
    ),
    "ended_by_admin": AssertionRefusal(
        "an admin ended this agent's access",
        "admit it again: token-vault enterprise resume",
        "not_allowed_by_company",
    ),
}


class AssertionRefused(OAuthError):
    """The assertion, or the access that it requests, is refused; `reason` is one of `REFUSALS`."""

    def __init__(self, reason: str, detail: str = "", *, members: Mapping[str, object] | None = None) -> None:
        refusal = REFUSALS[reason]
        super().__init__(refusal.kind, refusal.description, detail=f"{reason}: {detail}", members=members)
        self.reason = reason
