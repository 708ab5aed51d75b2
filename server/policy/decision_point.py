"""Query the operator's own policy before an account is used (OpenID AuthZEN Authorization API 1.0 §6).

The policy can only forbid: it isn't queried about uses that the vault refuses. A missing answer is a temporary refusal.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Final

from providers.outbound.addresses import policy_for_host_of
from providers.outbound.client import Outbound
from providers.outbound.messages import HttpError, OutboundRequest
from server.policy.schema import REQUEST
from server.settings import ExchangeSettings
from vault.refresh.policy_checks import PolicyOutcome, PolicyQuestion, PolicyVerdict
from vault.refusals import TemporarilyUnavailable
from vault.storage.database import Reader

_TIMEOUT: Final = 3.0  # seconds
_ANSWER_LIMIT: Final = 64 * 1024  # bytes
_RETRY: Final = 5  # seconds


class PolicyPoint:
    """The policy decision point at `exchange.policy_url`."""

    def __init__(self, settings: ExchangeSettings, http: Outbound) -> None:
        self._url = settings.policy_url or ""
        self._token = settings.policy_secret()
        self._http = http
        self._policy = policy_for_host_of(self._url)

    async def __call__(self, question: PolicyQuestion, reader: Reader, /, *, now: int) -> PolicyVerdict:
        """Whether the policy allows it. Raises TemporarilyUnavailable."""
        headers = {"Content-Type": "application/json", "User-Agent": "token-vault"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        asked = OutboundRequest(
            "POST",
            self._url,
            headers=headers,
            body=json.dumps(_evaluation(question)).encode(),
            timeout=_TIMEOUT,
            max_bytes=_ANSWER_LIMIT,
            policy=self._policy,
            peer="policy",
            account=question.user_id,
        )
        try:
            answer = await self._http.send(asked)
        except HttpError as error:
            raise _no_answer(error.reason) from error
        content = answer.json_object() if answer.status == HTTPStatus.OK else None
        decision = None if content is None else content.get("decision")
        if not isinstance(decision, bool):
            raise _no_answer(f"status {answer.status}")
        return PolicyVerdict(PolicyOutcome.ALLOW if decision else PolicyOutcome.FORBID, has_waited=True)


def _no_answer(detail: str) -> TemporarilyUnavailable:
    return TemporarilyUnavailable(
        "This vault's policy can't be asked right now. Nothing was done.", retry_after=_RETRY, detail=detail
    )


def _evaluation(question: PolicyQuestion) -> dict[str, object]:
    return {
        "subject": {"type": "user", "id": question.user_id},
        "action": {"name": question.purpose, "properties": {"scopes": sorted(question.scopes)}},
        "resource": {
            "type": "api" if question.purpose == REQUEST else "connection",
            "id": question.connection_id,
            "properties": {"provider": question.provider, "account": question.account},
        },
        "context": {"client_id": question.client_id, "actors": list(question.actors)},
    }
