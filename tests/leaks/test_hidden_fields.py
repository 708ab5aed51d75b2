"""No `repr` shows a secret: fields with these names are hidden in every record."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator

from pydantic import BaseModel, Field, SecretStr

import providers
import server
import vault

HIDDEN = {
    *("access_sealed", "access_token", "arguments", "auth_req_id", "basic", "bearer", "browser", "client_secret"),
    *("device_code", "handle", "headers", "id_token", "needles", "password", "password_hash", "refresh_sealed"),
    *("refresh_token", "registration_hash", "registration_token", "release", "salt", "sealed", "secret", "secret_hash"),
    *("secrets", "seed", "subject_token", "successor", "successor_hash", "successor_sealed", "ticket_hash", "tokens"),
    *("management_token", "pem", "sealed_renewal", "session_token", "token_hash", "wrapped"),
}
# names that aren't secret elsewhere
ALSO = {
    "vault.backup.backups.Backup.key",
    "vault.refresh.policy_checks.PolicyQuestion.call",
    "server.oauth.authorization_request.DeviceFacts.user_code",
    "server.signals.provider_schemes.SignedMessage.body",
    "server.signals.security_events.SecurityEvent.state",
    "server.api.groups.MadeDirectoryToken.token",
    "server.api.models.AddedPersonRecord.sign_in_link",
    "server.api.models.SignInLink.url",
    "server.api.webhooks.EndpointRecord.url",
    "server.mcp.elicitation._RequestState.url",
    "server.mcp.elicitation._RequestState.user_code",
    "server.notices.texts.Line.url",
    "server.proxy.program_access.WantedCall.query",
    "server.proxy.program_access._HeldHandle.value",
    "server.programs.environment.ProgramPlace.placeholder",
    "server.programs.environment.ProgramPlace.proxy",
    "server.programs.front.OtherHosts.proxy",
    "server.programs.remote_calls._Refusal.body",
    "server.programs.remote_calls._Refusal.link",
    "server.programs.front.ProgramCall.target",
    "server.notices.texts.NoticeMessage.url",
    "server.sign_in.openid.Claims.nonce",
    "vault.notices.endpoints.EventEndpoint.url",
    "vault.approvals.approvals.Approval.ping",
    "vault.approvals.approvals.Ping.token",
    "vault.approvals.standing_approvals.StandingApproval.target",
    "vault.exchange.decision.UpstreamToken.basis",
    "vault.exchange.decision.UpstreamToken.entered",
    "vault.exchange.decision.UpstreamToken.value",
    "vault.exchange.recent.Basis.parameters",
    "vault.handles.Handle.digest",
    "vault.keys.key_ring.SaltedKey.key",
    "vault.keys.sources.source.StoredKey.check",
    "vault.notices.channels.NoticeChannel.target",
    "vault.notices.endpoints.EventEndpoint.older",
    "vault.notices.endpoints.EventEndpoint.previous",
    "vault.records.Ticket.binding",
    "vault.records.Ticket.payload",
    "vault.refresh.mint.MintedToken.value",
    "vault.refresh.refresh_request.Spender.key",
    "vault.storage.postgres_hosts.Servers.urls",
    "vault.upkeep.agent_receipts.AgentReceipt.token",
    "vault.upkeep.receipts.Receipt.token",
    "server.oauth.authorization_request.AuthorizationRequest.nonce",
    "server.oauth.authorization_request.AuthorizationRequest.state",
    "server.oauth.authorization_request.DeviceFacts.code",
    "server.oauth.authorize.PendingAuthorization.session",
    "server.oauth.authorize.PendingAuthorization.wanted",
    "server.oauth.enterprise.assertions.IdentityAssertion.claims",
    "server.oauth.exchange.recent.RepeatableRequest.digest",
    "server.oauth.exchange.recent._KnownAnswer.content",
    "server.oauth.parameters.Parameters.values",
    "server.proxy.call.ProxiedCall.body",
    "server.proxy.call.ProxiedCall.session",
    "server.proxy.call.ProxiedCall.url",
    "server.proxy.call.ProxyRequest.fields",
    "server.proxy.call.ProxyRequest.scope",
    "server.proxy.upload_sessions.OpenedQuery.query",
    "server.proxy.upload_sessions.OpenedQuery.session",
    "server.proxy.upload_sessions.UploadSessions.key",
    "server.proxy.wire.CallParameters.values",
    "vault.exchange.exchange.ReadSecret.value",
    "vault.exchange.recent.Basis.rows",
    "vault.handles.HandleState.facts",
    "vault.registrations.ClientRenewal.token",
    "providers.api.api.Authority.token",
    "providers.api.rules.Call.parameters",
    "providers.api.rules.Payload.body",
    "providers.credentials.choices.ChosenToken.value",
    "providers.oauth.token_requests.TokenRequestBytes.body",
    "providers.oauth.token_requests.TokenRequestBytes.url",
    "providers.outbound.messages.OutboundRequest.body",
    "providers.outbound.messages.OutboundRequest.url",
    "providers.outbound.messages.OutboundResponse.body",
    "server.administration.access.EnteredValues.values",
    "server.administration.account_imports.accounts.ImportedAccount.answer",
    "server.administration.account_imports.contextforge.Secret.text",
    "server.administration.people.AddedPerson.link",
    "server.administration.webhooks.FailedEvent.url",
    "server.api.models.EnteredCredential.credential",
    "server.api.webhooks.NewEndpoint.url",
    "server.bridge.authority._Answer.content",
    "server.connecting.agent_refusals.AgentRefusal.description",
    "server.connecting.agent_refusals.AgentRefusal.members",
    "server.connecting.agent_refusals.AgentRefusal.text",
    "server.connecting.app_returns.AppReturn.session",
    "server.connecting.app_returns.AppReturn.state",
    "server.connecting.credentials.Entry.values",
    "server.connecting.links.ConnectLink.url",
    "server.connecting.links.ConnectLink.user_code",
    "server.connecting.provider_authorization.Callback.code",
    "server.connecting.provider_authorization.Callback.state",
    "server.demo.enterprise.CompanyStage.agent",
    "server.demo.screen.Wallet.client",
    "server.lifecycle.loopback.Address.key",
    "server.notices.http_post.Post.body",
    "server.notices.http_post.Post.url",
    "server.notices.texts.AnswerForm.fields",
    "server.notices.web_push.PushSubscription.answering",
    "server.notices.web_push.PushSubscription.auth",
    "server.notices.web_push.PushSubscription.endpoint",
    "server.portal.forms.Form.fields",
    "server.programs.program_run.ProgramOptions.environment",
    "server.proxy.remote_programs.RemoteCall.query",
    "server.proxy.remote_programs._Agent.token",
    "server.sign_in.openid.SignInAnswer.code",
    "server.sign_in.openid.SignInAnswer.state",
    "server.sign_in.openid.SignInStart.url",
    "server.sign_in.openid.SignedIn.return_to",
    "server.sign_in.password.Attempt.known",
    "server.sizing.place.BenchPlace.database",
    "server.sizing.place.BenchRequests.call",
    "server.sizing.place.BenchRequests.exchange",
}
SHOWN = {
    "server.oauth.exchange.recent._KnownAnswer.release": "a record that hides its own",
    "server.administration.agents.NewAgent.release": "the name of a rule",
    "server.administration.declaration.DeclaredAgent.release": "names of rules",
    "server.api.models.AgentChange.release": "names of rules",
    "server.api.models.AgentRecord.release": "names of rules",
    "server.api.models.AgentRegistration.release": "the name of a rule",
    "server.policy.facts.CallFacts.arguments": "a function",
    "server.policy.schema.Action.arguments": "types of a schema",
    "server.policy.syntax.Names.arguments": "names of a rule",
    "providers.tools.graphql_import._GraphQLInputs.arguments": "of a tool that is made",
    "server.settings.Settings.secrets": "a section with places",
    "server.settings.Settings.tokens": "a section with lifetimes",
    "server.setup.client_kinds.Program.arguments": "of a program",
    "vault.audit.released_tokens.TokenRelease.token_hash": "stands in the activity",
    "vault.backup.backups.Header.wrapped": "stands in the file",
    "vault.handles.HandleState.handle": "a record that hides its own",
}


def all_fields() -> Iterator[tuple[str, str, bool]]:
    """Each field of a record or model: its name, where it is, and whether its `repr` shows it."""
    for package in (vault, server, providers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.startswith(("server.launcher", "providers.simulator")) or "__main__" in module.name:
                continue
            for kind in list(vars(importlib.import_module(module.name)).values()):
                if isinstance(kind, type) and kind.__module__ == module.name:
                    shown = set(shown_of(kind))
                    for name in fields_of(kind):
                        yield name, f"{module.name}.{kind.__name__}.{name}", name in shown


def fields_of(kind: type) -> Iterator[str]:
    if dataclasses.is_dataclass(kind):
        yield from (one.name for one in dataclasses.fields(kind))
    elif issubclass(kind, BaseModel):
        yield from kind.model_fields


def shown_of(kind: type) -> Iterator[str]:
    if dataclasses.is_dataclass(kind):
        yield from (one.name for one in dataclasses.fields(kind) if one.repr)
    elif issubclass(kind, BaseModel) and not kind.__module__.startswith("providers."):  # provider files have no secrets
        for name, one in kind.model_fields.items():
            if one.repr and "SecretStr" not in str(one.annotation):  # SecretStr hides itself
                yield name


def test_no_record_shows_a_secret() -> None:
    fields = list(all_fields())
    shown = {place: name for name, place, is_shown in fields if is_shown}
    assert [place for place, name in shown.items() if name in HIDDEN and place not in SHOWN] == []
    assert {place for _, place, is_shown in fields if not is_shown} >= ALSO
    assert SHOWN.keys() - shown == set()


def test_fields_of_models_are_looked_at_like_those_of_records() -> None:
    class Model(BaseModel):
        secret: str
        hidden: str = Field(repr=False)
        safe: SecretStr

    @dataclasses.dataclass
    class Record:
        secret: str
        hidden: str = dataclasses.field(repr=False)

    assert list(shown_of(Model)) == list(shown_of(Record)) == ["secret"]
