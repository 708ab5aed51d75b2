"""The Admin API's requests and answers as JSON. Stored secrets are never returned; new ones once, when created."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.api.operations import ApiOutput, Instant, ListPage, PageQuery, Strict

RoleName = Literal["owner", "administrator", "auditor", "member"]
ReleaseName = Literal["proxy", "narrowed", "full"]

# People


class PersonRecord(ApiOutput):
    """A person with an account here."""

    id: str
    name: str
    admin: bool
    role: RoleName = Field(description="Their own; `admin.group_roles` can give more")
    disabled: bool
    created_at: Instant
    disabled_at: Instant | None
    stopped_at: Instant | None = Field(description="Since when a signal has kept their agents from acting")


class PersonDetails(PersonRecord):
    """A person, the number of their accounts and agents, and their external identities."""

    connections: int = Field(description="Connected accounts")
    agents: int = Field(description="Agents that are signed in or allowed something")
    identities: list[IdentityRecord]


class IdentityRecord(ApiOutput):
    """Who a person is at an identity provider."""

    issuer: str
    subject: str


class PeopleQuery(PageQuery):
    """Which people."""

    find: str = Field(default="", max_length=200, description="Beginning of the name")


class NewPerson(Strict):
    """A person to add."""

    name: str = Field(min_length=1, max_length=200)
    admin: bool = Field(default=False, description="Make them an admin")


class AddedPersonRecord(ApiOutput):
    """A new person, with the link that they sign in with once."""

    person: PersonRecord
    sign_in_link: str = Field(repr=False, description="Works once, for a day. Shown only here")


class PersonChange(Strict):
    """What to change. A missing member stays unchanged."""

    admin: bool | None = None
    role: RoleName | None = Field(default=None, description="An auditor reads and changes nothing")
    disabled: bool | None = Field(
        default=None, description="True ends all their sessions and agents; false also lets stopped agents continue"
    )


class SignInLink(ApiOutput):
    """A link that signs a person in once, where they choose a new password."""

    url: str = Field(repr=False)


class NewIdentity(Strict):
    """Who a person is at an identity provider."""

    issuer: str = Field(min_length=1, max_length=500, description="The provider's issuer")
    subject: str = Field(min_length=1, max_length=255, description="The person's `sub` there")


class DeletionRecord(ApiOutput):
    """A deleted person who has grants that aren't revoked at their providers yet."""

    id: str
    name: str
    requested_at: Instant
    grants: int


# Agents


class WorkerRecord(ApiOutput):
    """What a worker may do."""

    addresses: list[str]
    connections: list[str]
    scopes: list[str]


class AskingRecord(ApiOutput):
    """How an agent asks people in the background (CIBA)."""

    notify: str | None
    push: bool
    details_types: list[str]
    signing_alg: str | None
    user_code: bool


class OwnApisRecord(ApiOutput):
    """What an agent that acts for itself can get at its `resources`."""

    scopes: list[str] = Field(description="The only scopes; empty: all of these APIs")


class AgentRecord(ApiOutput):
    """An agent: an OAuth client."""

    id: str
    name: str
    kind: str = Field(description="manual, dynamic, metadata, or local")
    auth_method: str
    redirect_uris: list[str]
    grant_types: list[str]
    resources: list[str]
    release: dict[str, ReleaseName] = Field(description="How upstream tokens go to it, by provider or connection")
    worker: WorkerRecord | None
    auth0: bool
    ciba: AskingRecord | None
    service_account: bool
    client_credentials: OwnApisRecord | None
    created_at: Instant
    last_used_at: Instant | None


class AgentsQuery(PageQuery):
    """Which agents, newest first."""

    find: str = Field(default="", max_length=200, description="Part of the name or ID")


class WorkerRegistration(Strict):
    """What a worker may do: all three are needed."""

    addresses: list[str] = Field(min_length=1, max_length=100, description="Addresses or networks it calls from")
    connections: list[str] = Field(min_length=1, max_length=100, description="Providers or connections")
    scopes: list[str] = Field(min_length=1, max_length=200)


class AskingRegistration(Strict):
    """How an agent asks people in the background (CIBA)."""

    notify: str = Field(
        default="", max_length=2048, description="The https URL to notify of answers. Default: it polls"
    )
    push: bool = Field(default=False, description="Send it the tokens themselves there")
    details_types: list[str] = Field(
        default=[], max_length=30, description="Types of authorization details that it can send"
    )
    signing_alg: Literal["ES256", "RS256", "PS256"] | None = Field(
        default=None, description="It signs every request, with a key of its `jwks`"
    )
    user_code: bool = Field(default=False, description="It must send the code that the person has set")


class ServiceAccountRegistration(Strict):
    """A service account for the Admin API."""

    person_id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="The admin in whose name it acts")
    scopes: list[str] = Field(min_length=1, max_length=10, description="Scopes of the Admin API")


class OwnApisRegistration(Strict):
    """An agent that acts for itself, at its `resources` only."""

    scopes: list[str] = Field(default=[], max_length=200, description="The only scopes that it can get. Default: all")


class AgentRegistration(Strict):
    """An agent to register."""

    name: str = Field(min_length=1, max_length=200, description="Shown to people")
    redirect_uris: list[str] = Field(default=[], max_length=30)
    confidential: bool = Field(default=False, description="Make a client secret")
    jwks: dict[str, object] | None = Field(default=None, description="Public keys instead of a secret")
    resources: list[str] = Field(default=[], max_length=30, description="Your own APIs that it can call")
    device: bool = Field(default=False, description="Allow sign-in with a code on another device")
    exchange: bool = Field(default=False, description="Allow token exchange")
    auth0: bool = Field(default=False, description="Allow what clients of Auth0's Token Vault use")
    ciba: AskingRegistration | None = None
    release: Literal["proxy", "narrowed"] | None = None
    origins: list[str] = Field(default=[], max_length=30, description="Web origins whose pages run it")
    worker: WorkerRegistration | None = None
    service_account: ServiceAccountRegistration | None = None
    client_credentials: OwnApisRegistration | None = None


class RegisteredAgentRecord(ApiOutput):
    """A new agent."""

    agent: AgentRecord
    client_secret: str | None = Field(repr=False, description="Shown only here. The vault stores its hash")


class AgentChange(Strict):
    """What changes."""

    release: dict[str, ReleaseName] = Field(
        min_length=1, max_length=20, description="By provider, connection ID, or `default`"
    )


class AgentUser(ApiOutput):
    """A person who signed an agent in."""

    id: str
    name: str


# APIs of your own


class ApiRecord(ApiOutput):
    """An API whose access tokens this vault issues."""

    resource: str
    name: str
    scopes: list[str]
    clients: list[str] = Field(description="IDs of the clients that are this API")
    created_at: Instant


class ApiDefinition(Strict):
    """An API. A member that is missing stays unchanged."""

    name: str | None = Field(default=None, max_length=200)
    scopes: list[str] | None = Field(default=None, max_length=200)
    clients: list[str] | None = Field(default=None, max_length=50, description="The clients that are this API")


# Providers


class ProviderHealth(ApiOutput):
    """The state of a provider here."""

    state: str = Field(description="works, unused, missing, unusable, reconnect, or its problem")
    good: bool
    connections: int
    to_reconnect: int
    since: Instant | None
    reason: str


class ProviderRecord(ApiOutput):
    """A provider."""

    name: str
    title: str
    set_up: bool
    in_settings: bool = Field(description="Set in the settings file, which takes precedence")
    client_id: str | None
    health: ProviderHealth


class ProviderInput(ApiOutput):
    """A value that a provider needs, such as a tenant."""

    name: str
    title: str
    example: str
    default: str | None
    value: str | None


class ProviderDetails(ProviderRecord):
    """A provider, with what to enter at its console and here."""

    redirect_uri: str = Field(description="To register there")
    console: list[str] = Field(description="What to do at its console")
    public: bool = Field(description="Has no client secret")
    inputs: list[ProviderInput]
    testing: bool
    changed_at: Instant | None
    revision: str = Field(description="For If-Match; empty if nothing is stored")


class ProvidersQuery(Strict):
    """Which providers."""

    find: str = Field(default="", max_length=60, description="Part of the name")
    set_up: bool | None = Field(default=None, description="Only those that are, or are not, set up")


class ProviderRegistration(Strict):
    """Our registration at a provider."""

    client_id: str = Field(min_length=1, max_length=200)
    client_secret: str = Field(default="", repr=False, max_length=4096, description="Empty keeps the stored one")
    inputs: dict[str, str] = Field(default={}, max_length=30)
    testing: bool = False


class FindingRecord(ApiOutput):
    """What a check found."""

    check: str
    verdict: Literal["ok", "note", "problem"]
    sentence: str
    fix: str


# What people connected and allowed


class ConnectionRecord(ApiOutput):
    """A connected account."""

    id: str
    provider: str
    account: str
    status: str
    scopes: list[str]
    connected_at: Instant
    refreshed_at: Instant | None
    ends_at: Instant | None


class EnteredCredential(Strict):
    """A credential of a person's account at a service without OAuth."""

    provider: str
    credential: dict[str, str] = Field(description="The fields of its provider file; never shown again", repr=False)
    label: str = Field(default="", max_length=120, description="The account's name, if the service doesn't say it")
    ends_on: str = Field(default="", pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$", description="Its last day, if it ends")
    replaces: str = Field(
        default="",
        max_length=64,
        description="The connection whose credential it replaces; its permissions stay",
    )


class DisconnectedRecord(ApiOutput):
    """How a connection ended."""

    id: str
    at_provider: str = Field(description="The result of the revocation there")
    remove_at: list[str] = Field(description="Where the person can remove what is left, if anything")


class PermissionRecord(ApiOutput):
    """What one agent may do with one connection."""

    client_id: str
    agent: str | None
    connection_id: str
    provider: str
    account: str
    scopes: list[str]
    ask_scopes: list[str] = Field(description="Those that the person approves each time")
    ask_tools: list[str]
    expires_at: Instant | None
    company: str | None = Field(default=None, description="Company whose rules gave it: NAME of `enterprise.NAME`")


class AskMore(Strict):
    """What the person also approves each time."""

    scopes: list[str] = Field(default=[], max_length=200)
    tools: list[str] = Field(default=[], max_length=200)


class ApprovalRecord(ApiOutput):
    """A call or a client's own request that waits for its person's answer. Only that person sees its arguments."""

    id: str
    client_id: str
    kind: Literal["tool", "token", "request"] = Field(
        description="A tool's call, the account's own token in an exchange, or access for a client that asks (CIBA)"
    )
    tool: str | None
    provider: str | None
    account: str | None
    resource: str | None = Field(description="What a `request` asks for access to")
    scopes: list[str]
    asked_at: Instant
    expires_at: Instant


class StandingRecord(ApiOutput):
    """Calls that a person approved in advance."""

    id: str
    client_id: str
    tool: str
    provider: str
    account: str
    per_day: int
    used_today: int
    expires_at: Instant


# The vault


class EventRecord(ApiOutput):
    """An event of the activity."""

    sequence: int
    at: Instant
    kind: str
    outcome: str
    person_id: str | None
    client_id: str | None
    connection_id: str | None
    details: dict[str, object]


class EventsFilter(Strict):
    """Which events, newest first. With a filter, a page can hold fewer than `limit` and still have a next one."""

    person: str = Field(default="", pattern=r"^[A-Za-z0-9_-]{0,64}$", description="ID of a person")
    agent: str = Field(default="", pattern=r"^[!-~]{0,2048}$", description="ID of an agent")
    connection: str = Field(default="", pattern=r"^[A-Za-z0-9_-]{0,64}$", description="ID of a connection")
    kind: str = Field(default="", max_length=60, pattern=r"^[a-z_.]*$", description="Such as tool.called")
    outcome: Literal["", "ok", "refused", "failed"] = ""
    since: str | None = Field(default=None, max_length=40, description="RFC 3339, or a date (UTC)")
    until: str | None = Field(default=None, max_length=40, description="RFC 3339, or a date (UTC); exclusive")


class EventsQuery(EventsFilter, PageQuery):
    """Which events, and which page of them."""


class ExportQuery(EventsFilter):
    """Which events, and in which form."""

    format: Literal["jsonl", "csv"] = "jsonl"


class ReplicaRecord(ApiOutput):
    """A process that serves this vault."""

    id: str
    host: str
    role: str
    version: str
    started_at: Instant
    seen_at: Instant
    late: bool = Field(description="Silent for too long")
    this: bool = Field(description="Answered this request")
    failing: dict[str, str]
    providers: dict[str, str] = Field(description="Those with problems")


class VaultHealth(ApiOutput):
    """The state of the vault."""

    good: bool = Field(description="No check found a problem")
    version: str
    vault: str = Field(description="ID of this vault")
    replicas: list[ReplicaRecord]
    findings: list[FindingRecord]


class SigningKeyRecord(ApiOutput):
    """A key that tokens are signed with."""

    kid: str
    state: Literal["next", "current", "retiring"]
    signs_from: Instant
    retires_at: Instant | None


class MasterKeyRecord(ApiOutput):
    """A key that people's keys are wrapped under, and what still needs it."""

    id: str
    state: Literal["added", "current", "previous", "retired"]
    source: str = Field(description="Where it came from when it was added")
    people: int = Field(description="How many people's keys it wraps")
    uses: int = Field(description="Number of counted uses")
    created_at: Instant
    active_at: Instant | None = Field(description="When it became the current key")
    retired_at: Instant | None
    missing_on: list[str] = Field(description="Hosts of processes that don't have it yet")


class KeysRecord(ApiOutput):
    """The vault's keys. Never a key itself."""

    source: str = Field(description="Where the key-encryption key comes from")
    masters: list[MasterKeyRecord]
    signing: list[SigningKeyRecord]


class RotatedKey(ApiOutput):
    """A new signing key."""

    kid: str
    signs_from: Instant


class SettingRecord(ApiOutput):
    """A setting in effect."""

    name: str
    value: str | None = Field(description="null for a secret that is set")
    origin: Literal["default", "environment", "file"]
    variable: str = Field(description="Environment variable, if it comes from one")


class ToolRecord(ApiOutput):
    """A tool that agents can have."""

    name: str
    title: str
    provider: str | None
    scopes: list[str]
    effect: Literal["read", "create", "change"]
    asks: bool = Field(description="The person approves each call")


class ToolSetRecord(ApiOutput):
    """Tools that are offered together."""

    name: str
    title: str
    tools: list[str]


class PeoplePage(ListPage[PersonRecord]):
    """A page of people."""


class AgentsPage(ListPage[AgentRecord]):
    """A page of agents."""


class EventsPage(ListPage[EventRecord]):
    """A page of events."""


PersonDetails.model_rebuild()


# Companies


class CompanyPermissionRecord(ApiOutput):
    """What a company lets one agent do for a person."""

    company: str = Field(description="NAME of `enterprise.NAME`")
    client_id: str
    scopes: list[str]
    accounts: dict[str, list[str]] = Field(description="By provider, in the words of its rules")
    renewed_at: Instant
    expires_at: Instant
    ended_at: Instant | None
    ended_reason: str | None
