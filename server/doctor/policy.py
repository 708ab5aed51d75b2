"""Check whether all processes of the vault use the same operator's rules."""

from __future__ import annotations

from typing import Final

from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok, problem
from vault.upkeep import replicas

_CHECK: Final = "policy"
_SHOWN: Final = 12  # characters of a digest


async def check_policy(deployment: Deployment) -> list[Finding]:
    """Compare the rules in this folder with those of running processes; no findings without rules."""
    digest = None if deployment.policy is None else deployment.policy.digest
    now = deployment.now()
    seen = [one for one in await replicas.list_replicas(deployment.database) if now - one.seen_at < replicas.LATE]
    other = [one for one in seen if one.policy != digest]
    if other:
        named = ", ".join(f"{one.host} ({_short(one.policy)})" for one in other[:5])
        fix = "copy the same files to policy.folder on every host; changes take effect within seconds"
        sentence = f"processes use different rules from the folder here ({_short(digest)}): {named}"
        return [problem(_CHECK, sentence, fix=fix)]
    if deployment.policy is not None and (refused := deployment.policy.shadow_problem) is not None:
        return [problem(_CHECK, str(refused), fix="correct the shadow rules: token-vault policy check")]
    if deployment.policy is None or deployment.policy.rules is None:
        return []
    rules = deployment.policy.rules
    if not rules.rules:
        fix = "write rules in .cedar files there, or remove the setting"
        return [note(_CHECK, "policy.folder has no rules", fix=fix)]
    running = ", and every running process uses them" if seen else ""
    return [ok(_CHECK, f"policy.folder has {len(rules.rules)} (digest {_short(digest)}){running}")]


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:_SHOWN]
