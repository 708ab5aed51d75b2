"""What a receipt says about a grant, from what the provider answered to the revocation and to the probe."""

from __future__ import annotations

import pytest

from vault.upkeep.receipts import AttemptVerdict, Evidence, Receipt, ReceiptResult, judge
from vault.upstream import NotSent, ProbeAnswer, ProbeOutcome, RevokeAnswer, RevokeOutcome, Silent

R, P = RevokeOutcome, ProbeOutcome
DEAD, ALIVE = ReceiptResult.VERIFIED_DEAD, ReceiptResult.STILL_ALIVE
UNSUPPORTED, UNREACHABLE = ReceiptResult.UNSUPPORTED, ReceiptResult.UNREACHABLE


def evidence(revoked: RevokeAnswer | None, probed: ProbeOutcome | None) -> Evidence:
    return Evidence(revoked, None if probed is None else ProbeAnswer(probed))


@pytest.mark.parametrize(
    ("revoked", "probed", "result", "reason", "outcome"),
    [
        (R.REVOKED, P.DEAD, DEAD, "refused", "revoked"),
        (R.FAILED, P.DEAD, DEAD, "refused", "revoked"),
        (R.UNSUPPORTED, P.DEAD, DEAD, "refused", "revoked"),
        (Silent("cut"), P.DEAD, DEAD, "refused", "revoked"),
        (R.REVOKED, P.UNPROVEN, UNSUPPORTED, "no_probe", "revoked"),
        (R.REVOKED, None, UNSUPPORTED, "no_probe", "revoked"),
        (R.UNSUPPORTED, P.UNPROVEN, UNSUPPORTED, "no_revocation", "unsupported"),
        (R.UNSUPPORTED, None, UNSUPPORTED, "no_revocation", "unsupported"),
        (R.KEPT_ELSEWHERE, None, UNSUPPORTED, "kept_elsewhere", "unsupported"),
        (R.SESSION_LEFT, P.ALIVE, UNSUPPORTED, "session_left", "unsupported"),
    ],
)
def test_an_end_that_no_attempt_can_improve_is_final(
    revoked: RevokeAnswer, probed: ProbeOutcome | None, result: ReceiptResult, reason: str, outcome: str
) -> None:
    for is_last in (False, True):
        found = judge(evidence(revoked, probed), is_last=is_last)
        assert found == AttemptVerdict(result, reason, is_final=True, outcome=outcome)


@pytest.mark.parametrize(
    ("revoked", "probed", "result", "reason", "outcome"),
    [
        (R.UNSUPPORTED, P.ALIVE, ALIVE, "no_revocation", "alive"),
        (R.UNSUPPORTED, P.SILENT, UNREACHABLE, "probe_unanswered", "unchecked"),
        (R.REVOKED, P.ALIVE, ALIVE, "revoked_but_works", "alive"),
        (R.REVOKED, P.SILENT, UNREACHABLE, "probe_unanswered", "unchecked"),
        (R.FAILED, P.ALIVE, ALIVE, "revocation_refused", "failed"),
        (R.FAILED, P.SILENT, UNREACHABLE, "revocation_refused", "failed"),
        (R.FAILED, None, UNREACHABLE, "revocation_refused", "failed"),
        (NotSent("paused"), None, UNREACHABLE, "no_answer", "failed"),
        (Silent("cut"), None, UNREACHABLE, "no_answer", "failed"),
        (None, None, UNREACHABLE, "not_set_up", "failed"),
    ],
)
def test_anything_else_is_tried_again_until_the_last_attempt(
    revoked: RevokeAnswer | None, probed: ProbeOutcome | None, result: ReceiptResult, reason: str, outcome: str
) -> None:
    found = judge(evidence(revoked, probed), is_last=False)
    assert found == AttemptVerdict(result, reason, is_final=False, outcome=outcome)
    found = judge(evidence(revoked, probed), is_last=True)
    assert found == AttemptVerdict(result, reason, is_final=True, outcome="given_up")


@pytest.mark.parametrize(
    ("result", "reason", "settled_at", "is_open"),
    [
        (ALIVE, "revoked_but_works", None, True),
        (ALIVE, "revoked_but_works", 1, False),
        (UNSUPPORTED, "no_revocation", None, True),
        (UNSUPPORTED, "no_probe", None, False),
        (UNSUPPORTED, "session_left", None, False),
        (DEAD, "refused", None, False),
    ],
)
def test_a_receipt_is_open_while_someone_has_to_act(
    result: ReceiptResult, reason: str, settled_at: int | None, *, is_open: bool
) -> None:
    receipt = Receipt(
        "c", "u", "slack", result, reason, is_final=True, issued_at=1, settled_at=settled_at, settled_by=None, token="t"
    )
    assert receipt.is_open is is_open
