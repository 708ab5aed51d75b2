"""The upkeep's step that delivers notices, with what only pages know: whether one can be answered where it is shown."""

from __future__ import annotations

from functools import partial
from typing import Final

from server.deployment import Deployment
from server.lifecycle.upkeep_step import NOTICES_EVERY, UpkeepStep
from vault.notices import outbox


async def _deliver(deployment: Deployment) -> None:
    if await outbox.skip_if_nobody_listens(deployment.database):
        return  # without loading what delivers: mail and pages take a while
    from server.notices.delivery import deliver
    from server.portal.approvals.notification_answers import form_of
    from server.sign_in.approvers import approvers_of

    await deliver(deployment, approvers=partial(approvers_of, deployment), answering=partial(form_of, deployment))


STEP: Final = UpkeepStep("notices", NOTICES_EVERY, _deliver)
