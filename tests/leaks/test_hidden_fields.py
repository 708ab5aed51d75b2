"""What is secret stands in no `repr`: fields are hidden by their name, wherever a record has one."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator

import providers
import server
import vault

HIDDEN = {
    *("access_sealed", "access_token", "arguments", "auth_req_id", "basic", "bearer", "browser", "client_secret"),
    *("device_code", "handle", "headers", "id_token", "needles", "password", "password_hash", "refresh_sealed"),
    *("refresh_token", "registration_hash", "registration_token", "release", "salt", "sealed", "secret", "secret_hash"),
    *("secrets", "seed", "subject_token", "successor", "successor_hash", "successor_sealed", "ticket_hash", "tokens"),
    *("token_hash", "wrapped"),
}
# said of a key, a body, a call, and a user code only where it is the secret itself
ALSO = {
    "vault.backup.backups.Backup.key",
    "vault.refresh.policy_checks.PolicyQuestion.call",
    "server.oauth.authorization_request.DeviceFacts.user_code",
    "server.signals.provider_schemes.SignedMessage.body",
}
SHOWN = {
    "server.oauth.exchange.recent._KnownAnswer.release": "a record that hides its own",
    "server.administration.agents.NewAgent.release": "the name of a rule",
    "server.policy.facts.CallFacts.arguments": "a function",
    "server.policy.schema.Action.arguments": "types of a schema",
    "server.policy.syntax.Names.arguments": "names of a rule",
    "server.setup.client_kinds.Program.arguments": "of a program",
    "vault.audit.released_tokens.Released.token_hash": "stands in the activity",
    "vault.backup.backups.Header.wrapped": "stands in the file",
    "vault.handles.Standing.handle": "a record that hides its own",
}


def shown_fields() -> Iterator[tuple[str, str]]:
    """Each field of a record that its `repr` shows: its name, and where it is."""
    for package in (vault, server, providers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(("server.launcher", "providers.simulator")) and "__main__" not in module.name:
                for name, kind in vars(importlib.import_module(module.name)).items():
                    if isinstance(kind, type) and kind.__module__ == module.name and dataclasses.is_dataclass(kind):
                        yield from (
                            (one.name, f"{module.name}.{name}.{one.name}")
                            for one in dataclasses.fields(kind)
                            if one.repr
                        )


def test_no_record_shows_a_secret() -> None:
    shown = list(shown_fields())
    assert [place for name, place in shown if name in HIDDEN and place not in SHOWN] == []
    assert [place for _, place in shown if place in ALSO] == []
    assert SHOWN.keys() - {place for _, place in shown} == set()
