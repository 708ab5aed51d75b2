"""The proxy's refusals, except those about a request's form: status, code, and a text with the fix.

The caller is a program with the provider's own SDK, so the text must make clear that the vault refused, and the status
is one that SDKs react to correctly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pydantic_core import to_json
from starlette.types import Send

from providers.api.rules import UNREAD
from providers.definitions.model import Provider, Rule
from providers.outbound.json_values import at, is_array, is_object, put
from providers.outbound.messages import HttpError, NotReached, PeerBusy, TooLarge
from server import errors
from server.connecting.agent_refusals import AgentRefusal, tell
from server.deployment import Deployment
from server.errors import as_sentence, status_of
from server.http.answers import SANDBOXED, raw, send_whole
from server.http.request_ids import request_member
from server.oauth.rules import OAuthError
from server.proxy.wire import ProxyRefused, shown_name
from server.signatures.jose import FOREIGN_ALGORITHMS
from vault import clients
from vault.handles import Handle
from vault.refusals import VaultError

_SMITHY_RPC: Final = re.compile(r"/service/[A-Za-z0-9_]+/operation/[A-Za-z0-9_]+")  # Smithy RPC v2 CBOR, "Requests"
FAILURES: Final = frozenset(
    {"upstream_unavailable", "upstream_unauthorized", "answer_too_large", "answer_unreadable", "redirect_refused"}
    | {"timeout", "client_gone", "interrupted", "internal_error", "token_renewed", "too_many_calls"}
)


def content_of(refused: ProxyRefused, provider: Provider | None) -> object:
    """The body of our refusal: problem details (RFC 9457), and the text and code in the provider's format.

    `[errors]` in its file defines where its own errors have them, so that its SDK shows ours. Without a handle, the
    format suits several services (GitHub, Google, Microsoft).
    """
    problem: dict[str, object] = {
        "type": f"urn:token-vault:refusal:{refused.code}",
        "title": refused.description,
        "status": refused.status,
        "code": refused.code,
        **refused.more,
        **request_member(),
    }
    shaped: dict[str, object] = {}
    if provider is None:
        shaped = {"message": refused.description, "error": {"code": refused.code, "message": refused.description}}
        return {**shaped, **problem}
    errors = provider.errors
    if errors.ok_flag is not None:
        put(shaped, errors.ok_flag, value=False)
    code = errors.by_status.get(str(refused.status), refused.code)
    for path, value in (*((path, refused.description) for path in errors.message), (next(iter(errors.code)), code)):
        if at(shaped, path) is None and not _has_value_above(shaped, path):
            put(shaped, path, value)
    listed = at(shaped, "items.0")
    if is_object(listed):  # a service that returns errors as lists
        return [{**problem, **listed}]
    return {**problem, **shaped}


async def send(
    out: Send,
    refused: ProxyRefused,
    provider: Provider | None,
    *,
    accept: str = "",
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Our own refusal, in a format that the provider's SDK can read, with a header that no provider's answer has."""
    kind = b"application/problem+json" if "application/problem+json" in accept else b"application/json"
    fields = [(b"content-type", kind), (b"token-vault-refusal", refused.code.encode()), *raw(refused.headers)]
    await send_whole(out, refused.status, [*fields, *SANDBOXED, *headers], to_json(content_of(refused, provider)))


def _has_value_above(shaped: Mapping[str, object], path: str) -> bool:
    above = path
    while "." in above:
        above = above.rpartition(".")[0]
        found = at(shaped, above)
        if found is not None and not is_object(found) and not is_array(found):
            return True
    return False


async def of_vault(deployment: Deployment, error: VaultError | OAuthError, *, handle: Handle | None) -> ProxyRefused:
    """A refusal by the vault, with a link for the person if that helps."""
    if isinstance(error, OAuthError):
        return _refuse_credential(error.code, error.description, detail=error.detail, scheme="DPoP")
    wording, principal, name = errors.wording_of(error), None, ""
    if wording.proxied_status == status_of("invalid_token"):
        return _refuse_credential(error.code, error.description, detail=error.detail, scheme="Bearer")
    if wording.form == "link" and handle is not None:
        client = await clients.get_client(deployment.database, handle.principal.client_id)
        principal, name = handle.principal, "this program" if client is None else client.name
    return refusal_of(await tell(deployment, error, principal, tool=name))


def refusal_of(told: AgentRefusal) -> ProxyRefused:
    """A refusal of the vault as the proxy answers it."""
    return ProxyRefused(
        told.code,
        told.text,
        kind=told.wording.proxied or told.wording.kind,
        detail=told.detail,
        headers=told.headers,
        more={} if told.link is None else told.link.members(),
    )


def _refuse_credential(code: str, description: str, *, detail: str, scheme: str) -> ProxyRefused:
    registered = code if code == "invalid_dpop_proof" else "invalid_token"
    challenge = f'{scheme} error="{registered}"'
    if scheme == "DPoP":
        challenge += f', algs="{" ".join(sorted(FOREIGN_ALGORITHMS))}"'
    headers = {"WWW-Authenticate": challenge}
    return ProxyRefused(code, as_sentence(description), kind="invalid_token", detail=detail, headers=headers)


def of_http(error: HttpError, *, is_write: bool) -> ProxyRefused:
    """The provider gave no answer that can be passed on."""
    if isinstance(error, PeerBusy):
        return ProxyRefused(
            "too_many_calls",
            "Too many calls to this provider are in progress. Nothing was sent; try again.",
            headers={"Retry-After": "1"},
        )
    if isinstance(error, TooLarge):
        return ProxyRefused("answer_too_large", "The provider's answer exceeds the proxy's size limit.")
    advice = (
        "The call may have been carried out. Check before you try again."
        if is_write and not isinstance(error, NotReached)
        else "Nothing was changed; try again later."
    )
    return ProxyRefused("upstream_unavailable", f"The provider gave no answer: {error.reason}. {advice}")


def timeout(deadline: int, *, is_write: bool) -> ProxyRefused:
    """The call took longer than the operator allows."""
    advice = " It may have been carried out." if is_write else ""
    return ProxyRefused("timeout", f"The call didn't finish within {deadline} s.{advice}")


def internal_error(request_id: str) -> ProxyRefused:
    """An internal defect."""
    return ProxyRefused(
        "internal_error",
        f"The call failed inside the vault. The operator can find the cause in the log under {request_id}.",
    )


def too_much(limit: int, *, is_read: bool) -> ProxyRefused:
    """The request's body is too long; `is_read`: to be read before the call is judged."""
    why = "The vault reads this body before it checks the call, and it" if is_read else "The body"
    setting = "proxy.read_limit" if is_read else "proxy.body_limit"
    return ProxyRefused(
        "body_too_large",
        f"{why} exceeds {limit} bytes. Nothing was carried out. Send less, or ask the operator to raise `{setting}`.",
    )


def unsignable(provider: Provider, limit: int) -> ProxyRefused:
    """The signature covers the body, which wasn't read. `limit`: bytes of JSON or a form that would have been."""
    return ProxyRefused(
        "body_too_large",
        f"{provider.title} needs a signature of this body, so the vault must read all of it. Nothing was carried out. "
        f"Send JSON or a form of at most {limit} bytes, or ask the operator to raise `proxy.read_limit`.",
    )


def too_many_large() -> ProxyRefused:
    """No free slot for another large body that must be read completely."""
    return ProxyRefused(
        "too_many_calls",
        "Too many calls with large bodies are in progress. Nothing was sent; try again.",
        headers={"Retry-After": "2"},
    )


def too_often(wait: int, *, why: str = "This agent calls too often.") -> ProxyRefused:
    """One agent made too many calls for one person, or too many that were refused; `wait` in seconds."""
    return ProxyRefused(
        "rate_limited",
        f"{why} Nothing was sent; try again in {wait} s.",
        headers={"Retry-After": str(wait)},
    )


def no_rule(provider: Provider, path: str) -> ProxyRefused:
    """No rule defines which scopes this call needs."""
    credential = provider.credential
    if credential is not None and credential.send.aws is not None and _SMITHY_RPC.fullmatch(path):
        return ProxyRefused(
            "call_not_allowed",
            f"This is the protocol smithy-rpc-v2-cbor, whose bodies no request rule of {provider.title} reads. Send "
            "JSON with the header X-Amz-Target, or a form with Action; or ask the operator to set "
            f"providers.{provider.name}.unruled_calls. Nothing was sent.",
        )
    return ProxyRefused(
        "call_not_allowed",
        f"No request rule of {provider.title} covers this method and path. Nothing was sent.",
    )


def not_covered(provider: Provider, rules: Iterable[Rule]) -> ProxyRefused:
    """The handle's scopes are too small for the call."""
    scopes = sorted({scope for rule in rules for scope in rule.scopes})
    return ProxyRefused(
        "scope_missing",
        f"The handle doesn't cover this call at {provider.title}. Exchange again with a scope that does.",
        more={"scopes": scopes},
    )


def unfit(provider: Provider, judged: Iterable[str]) -> ProxyRefused:
    """The path has rules, but none for these parameters."""
    return ProxyRefused(
        "call_not_allowed",
        f"No request rule of {provider.title} allows this call with its {', '.join(sorted(judged))}. Nothing was sent.",
    )


def unknown_parameter(provider: Provider, rule: Rule, names: Iterable[str], *, limit: int) -> ProxyRefused:
    """No rule covers these parameters, and the rule is exact or the account's token can do more than the handle.

    `limit`: bytes of a body that would have been read.
    """
    told = ", ".join(sorted(shown_name(name) for name in names if name != UNREAD))
    what = f"{told} in the query or body of this call" if told else "the content of this call's body"
    advice = "Omit it, or add it to `query` or `body` of the rule in the provider file."
    if not told:
        advice = (
            f"Send a JSON object or a form of at most {limit} bytes (`proxy.read_limit`) and 50,000 objects and arrays."
        )
    why = f"The connected {provider.title} account can do more than the handle, and no request rule covers {what}."
    if rule.exact:
        why = f"No request rule of {provider.title} covers {what}, which could show a credential or change something."
    return ProxyRefused("unknown_parameter", f"{why} Nothing was sent. {advice}")


def inseparable(provider: Provider) -> ProxyRefused:
    """With this request, the account's token would reach more than the handle may."""
    return ProxyRefused(
        "call_not_allowed",
        f"The connected {provider.title} account can do more with this call than the handle allows, and "
        "the request doesn't show which. Nothing was sent.",
    )


def token_renewed(provider: Provider) -> ProxyRefused:
    """The token was invalid and the call can't be sent twice; the next attempt uses a new one."""
    return ProxyRefused(
        "token_renewed",
        f"{provider.title} rejected an old token, so nothing was done. The vault has a new one: send the call again.",
        headers={"Retry-After": "0"},
    )


def upstream_unauthorized(provider: Provider) -> ProxyRefused:
    """The provider also refused a new token."""
    return ProxyRefused("upstream_unauthorized", f"{provider.title} rejects the account's token, even after a refresh.")


def answer_unreadable(provider: Provider) -> ProxyRefused:
    """An answer in an encoding that can't be searched for credentials."""
    return ProxyRefused("answer_unreadable", f"{provider.title} answered in an encoding that wasn't requested.")


def download_failed(provider: Provider, status: int, *, method: str) -> ProxyRefused:
    """The address that the provider redirected to didn't answer with the file; its text could repeat the address."""
    asked = "" if method == "GET" else f" to {method}"
    fix = "try again later" if method == "GET" else "send GET instead"  # some addresses are for one method only
    return ProxyRefused(
        "upstream_unavailable",
        f"{provider.title} redirected to a download, which answered{asked} with status {status}. Nothing was changed; "
        f"{fix}.",
    )


def redirect_refused(provider: Provider) -> ProxyRefused:
    """A redirect to another host: a client that follows it might send the handle along."""
    return ProxyRefused("redirect_refused", f"{provider.title} answered with a redirect to another address.")
