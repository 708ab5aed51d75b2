"""Explanations in the Admin API: why an agent can't use an account, what the operator's rules would decide about a
call, and what a company's assertion would give.

Nothing is recorded or used up.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, Field, field_validator

from server.administration import people
from server.administration.explanations.exchanges import ExplainedExchange, explain_exchange
from server.administration.explanations.rules import UseRefused, explain_rules
from server.api.operations import AdminCall, ApiOutput, Instant, Strict, instant, operation
from server.api.people import person_of
from server.api.problems import ApiRefused, FieldProblem
from server.oauth.enterprise.explanation import explain_assertion
from server.oauth.enterprise.refusals import REFUSALS
from server.oauth.token_request import PURPOSE
from vault import clients
from vault.exchange.explain import CheckedStep, ExchangeQuestion
from vault.records import Narrowing


class ExplanationQuery(Strict):
    """Which exchange."""

    agent_id: str = Field(min_length=1, max_length=2048, pattern="^[!-~]+$", description="The agent that asks")
    scope: str = Field(default="", max_length=4096, description="Scopes, separated by spaces. Default: all it can use")


class StepRecord(ApiOutput):
    """One precondition."""

    step: Literal[
        "user",
        "client",
        "grant",
        "connection",
        "provider",
        "operator",
        "state",
        "scopes",
        "delegation",
        "token",
        "policy",
        "approval",
        "upstream",
    ]
    outcome: Literal["ok", "failed", "not checked"]
    code: str | None = Field(description="The refusal's code, if it failed")
    sentence: str | None = Field(description="Why it failed or wasn't checked")
    fix: str | None = Field(description="What to do, if it failed")


class CompanyStepRecord(ApiOutput):
    """What one company's rules say."""

    company: str
    sentence: str = Field(description="Whether the company's rules let the agent in, and why")
    fix: str | None = Field(description="What to do, if they don't")
    until: Instant | None = Field(description="When the company's permission ends")


class ExplanationRecord(ApiOutput):
    """Every precondition of an exchange, in order, and its result."""

    works: bool = Field(description="Whether the exchange succeeds")
    steps: list[StepRecord]
    scopes: list[str]
    narrowing: Literal["upstream", "enforced", "host_only", "none"] | None = Field(
        description="How the scopes are enforced: by the token itself, by the vault, by hosts and methods only, or not;"
        " null if the exchange fails"
    )
    refreshes: bool = Field(description="A refresh at the provider comes first")
    asks: bool = Field(description="Only a tool call that the person approves works")
    gives: Literal["nothing", "handle", "upstream token"] | None = Field(
        description="What the agent gets at /token; null if the exchange fails"
    )
    companies: list[CompanyStepRecord]


class PolicyUse(Strict):
    """A use of an account, which nobody makes."""

    call: str = Field(min_length=1, max_length=200, description="A tool, or `exchange`, `proxy`, or `request`")
    person_id: str = Field(min_length=1, max_length=64, description="Whose account it is")
    agent_id: str = Field(min_length=1, max_length=2048, description="The agent; an unknown one has no name or kind")
    arguments: dict[str, object] = Field(default={}, repr=False, description="The tool's arguments")
    actors: list[str] = Field(default=[], max_length=20, description="IDs of the agents that it acts for")
    provider: str = Field(
        default="", max_length=200, description="Needed if `call` isn't a tool; for `request`: token-vault"
    )
    account: str = Field(default="", description="The account's display name")
    scopes: list[str] = Field(
        default=[], max_length=200, description="Needed if `call` isn't a tool. Default: those of the tool"
    )
    at: AwareDatetime | None = Field(default=None, description="When; a year from 2000 to 2099. Default: now")
    address: str = Field(default="", max_length=100, description="IP address of the agent. Default: unknown")
    strong: bool = Field(default=False, description="The person signed in with a passkey or several factors")
    signed_in_seconds: int | None = Field(
        default=None, ge=0, le=10**9, description="Seconds since the person signed in. Default: unknown"
    )
    method: str = Field(default="", description="Needed if `call` is `proxy`: the method")
    api: str = Field(default="", description="Needed if `call` is `proxy`: the API")
    path: str = Field(default="", description="Needed if `call` is `proxy`: the path in the provider file")
    shadow: bool = Field(default=False, description="Ask the rules in policy.shadow_folder instead")

    @field_validator("at")
    @classmethod
    def _is_near(cls, value: datetime | None) -> datetime | None:
        if value is not None and not 2000 <= value.year < 2100:
            raise ValueError("use a year from 2000 to 2099")
        return value


class MetRule(ApiOutput):
    """A rule that can apply to a call of this kind."""

    rule: str
    reason: str | None
    place: str = Field(description="File and line")
    asks: bool = Field(description="It requires the person's approval instead of forbidding")


class PolicyExplanation(ApiOutput):
    """What the rules decide about a use."""

    outcome: Literal["allow", "ask", "forbid"]
    rule: str | None = Field(description="The rule that decides; null if none forbids or asks")
    reason: str | None
    met: list[MetRule] = Field(description="Every rule that can apply to a call of this kind")
    digest: str = Field(description="Identifies the rules")


class AdmittedRule(ApiOutput):
    """What a company's rule lets agents do."""

    rule: str
    agents: list[str]
    groups: list[str]
    scopes: list[str]
    accounts: dict[str, list[str]]
    tools: list[str]


class CompanyRecord(ApiOutput):
    """A company whose identity provider admits agents."""

    company: str
    issuer: str
    rules: list[AdmittedRule]


class Companies(ApiOutput):
    """Companies in the settings."""

    items: list[CompanyRecord]


class PresentedAssertion(Strict):
    """An assertion (ID-JAG)."""

    assertion: str = Field(min_length=1, max_length=16384, repr=False)


class AssertionRecord(ApiOutput):
    """What a company's assertion would give."""

    works: bool = Field(description="Whether the assertion is accepted")
    reason: str | None = Field(description="Why it is refused, as the activity names it")
    sentence: str | None = Field(description="The same in words")
    fix: str | None = Field(description="What to do, if it is refused")
    company: str | None
    agent_id: str | None
    person_id: str | None
    rules: list[str]
    scopes: list[str]
    accounts: dict[str, list[str]]


@operation("GET", "/people/{person_id}/connections/{connection_id}/explanation", scope="admin:access")
async def explain_account_use(call: AdminCall, query: ExplanationQuery) -> ExplanationRecord:
    """Explain why an agent can't use an account, or what it would get.

    An unknown agent or connection is one of the explained steps. What Auth0's interface needs isn't checked.
    """
    person, agent = await person_of(call), await clients.get_client(call.deployment.database, query.agent_id)
    question = ExchangeQuestion(
        user_name=person.name,
        client_id=query.agent_id,
        connection_id=call.param("connection_id"),
        scopes=frozenset(query.scope.split()) or None,
        purpose=PURPOSE,
    )
    return _explanation(await explain_exchange(call.deployment, question, client=agent, owner=person))


def _explanation(explained: ExplainedExchange) -> ExplanationRecord:
    found = explained.explanation
    return ExplanationRecord(
        works=found.first_failure is None,
        steps=[_step(one) for one in found.steps],
        scopes=sorted(found.scopes),
        narrowing=Narrowing(found.narrowing).value if found.narrowing else None,
        refreshes=found.refreshes,
        asks=found.asks,
        gives=None if explained.handed_out is None else explained.handed_out.gives,
        companies=[
            CompanyStepRecord(company=one.company, sentence=one.sentence, fix=one.fix or None, until=instant(one.until))
            for one in explained.companies
        ],
    )


def _step(one: CheckedStep) -> StepRecord:
    failure = one.failure
    return StepRecord(
        step=one.step.value,
        outcome=one.outcome.value,
        code=None if failure is None else failure.code,
        sentence=(one.why if failure is None else failure.sentence) or None,
        fix=None if failure is None else failure.fix,
    )


@operation("POST", "/policies/explanations", scope="admin:read", only_reads=True, refusals=["not_found"])
async def explain_policy(call: AdminCall, body: PolicyUse) -> PolicyExplanation:
    """Explain what the operator's rules decide about a call, and which of them can apply to it.

    The person's groups and role, and the agent's name are the current ones. Only the rules are asked: neither
    permissions nor a decision point elsewhere (exchange.policy_url).
    """
    deployment = call.deployment
    person = await people.person_with_id(deployment.database, body.person_id)
    case = body.model_dump(exclude={"person_id", "agent_id", "shadow"})
    case["at"] = body.at or datetime.fromtimestamp(deployment.now(), UTC)
    try:
        found = await explain_rules(deployment, case, person=person, agent_id=body.agent_id, is_shadow=body.shadow)
    except UseRefused as refused:
        problem = FieldProblem(pointer=f"/{refused.field}", message=str(refused))
        raise ApiRefused("invalid_request", "The body has a wrong value.", errors=[problem]) from None
    return PolicyExplanation(
        outcome=found.verdict.outcome.value,
        rule=found.verdict.rule or None,
        reason=found.verdict.reason or None,
        met=[MetRule(rule=one.name, reason=one.reason or None, place=one.place, asks=one.asks) for one in found.met],
        digest=found.digest,
    )


@operation("GET", "/companies", scope="admin:read")
async def list_companies(call: AdminCall) -> Companies:
    """List the companies whose identity provider admits agents, with their rules, from the settings."""
    return Companies(
        items=[
            CompanyRecord(
                company=name,
                issuer=one.issuer,
                rules=[
                    AdmittedRule(
                        rule=rule_name,
                        agents=list(rule.agents),
                        groups=list(rule.groups),
                        scopes=list(rule.scopes),
                        accounts={provider: list(words) for provider, words in rule.accounts.items()},
                        tools=list(rule.tools),
                    )
                    for rule_name, rule in one.allow.items()
                ],
            )
            for name, one in call.deployment.settings.enterprise.items()
        ]
    )


@operation("POST", "/companies/explanations", scope="admin:access", only_reads=True)
async def explain_company_assertion(call: AdminCall, body: PresentedAssertion) -> AssertionRecord:
    """Explain what a company's assertion would give, or why it is refused. The assertion isn't used up."""
    found = await explain_assertion(call.deployment, body.assertion)
    refusal, name = REFUSALS.get(found.reason), found.company or "NAME"
    return AssertionRecord(
        works=refusal is None,
        reason=found.reason or None,
        sentence=None if refusal is None else refusal.description,
        fix=None if refusal is None else refusal.fix.replace("enterprise.NAME", f"enterprise.{name}"),
        company=found.company or None,
        agent_id=None if found.client is None else found.client.id,
        person_id=None if found.person is None else found.person.id,
        rules=list(found.rules),
        scopes=sorted(found.scopes),
        accounts={provider: sorted(words) for provider, words in found.accounts.items()},
    )


OPERATIONS = (explain_account_use, explain_policy, list_companies, explain_company_assertion)
