"""The Admin API, generated from its OpenAPI document; `admin_base` has what it stands on."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from token_vault_client.admin_base import AdminBase, path_part


class AcceptedImport(TypedDict):
    """How many tools are offered to agents from now on."""

    accepted: int


class AcceptedMcpTools(TypedDict):
    """The tools that are offered to agents from now on."""

    accepted: list[str]


class AccessRequestRecord(TypedDict):
    """A request for access, and its outcome."""

    id: str
    status: Literal["pending", "allowed", "denied", "ended"]
    kind: Literal["account", "group", "company"]
    person_id: str
    person: str | None
    client_id: str | None
    agent: str | None
    provider: str | None
    account: str | None
    group: str | None
    company: str | None
    scopes: list[str]
    reason: str
    days: int
    filed_by: Literal["person", "agent"]
    created_at: str
    expires_at: str
    decided_at: str | None
    decided_by: str | None
    answer: str
    ended_at: str | None
    ended_reason: str | None


class AccessRequests(TypedDict):
    """Access requests, the newest first."""

    items: list[AccessRequestRecord]


class AddedEndpoint(TypedDict):
    """A new endpoint, with the secret that signs its events. The secret is shown only here."""

    endpoint: EndpointRecord
    secret: str


class AddedPersonRecord(TypedDict):
    """A new person, with the link that they sign in with once."""

    person: PersonRecord
    sign_in_link: str


class AdmittedRule(TypedDict):
    """What a company's rule lets agents do."""

    rule: str
    agents: list[str]
    groups: list[str]
    scopes: list[str]
    accounts: dict[str, list[str]]
    tools: list[str]


class AgentChange(TypedDict):
    """What changes."""

    release: dict[str, Literal["proxy", "narrowed", "full"]]


class AgentReceiptRecord(TypedDict):
    """A receipt: the result for one account that an ended agent could use, and that stayed connected."""

    id: str
    agent_id: str
    person_id: str
    connection_id: str
    provider: str
    result: str
    reason: str
    token_expires_at: str | None
    outstanding: bool
    ended_at: str
    issued_at: str
    receipt: str


class AgentReceiptsPage(TypedDict):
    """Receipts of ended agents, the newest first."""

    items: list[AgentReceiptRecord]
    next_cursor: NotRequired[str | None]


class AgentRecord(TypedDict):
    """An agent: an OAuth client."""

    id: str
    name: str
    kind: str
    auth_method: str
    redirect_uris: list[str]
    grant_types: list[str]
    resources: list[str]
    release: dict[str, Literal["proxy", "narrowed", "full"]]
    worker: WorkerRecord | None
    auth0: bool
    ciba: AskingRecord | None
    service_account: bool
    client_credentials: OwnApisRecord | None
    created_at: str
    last_used_at: str | None


class AgentRegistration(TypedDict):
    """An agent to register."""

    name: str
    redirect_uris: NotRequired[list[str]]
    confidential: NotRequired[bool]
    jwks: NotRequired[dict[str, Any] | None]
    resources: NotRequired[list[str]]
    device: NotRequired[bool]
    exchange: NotRequired[bool]
    auth0: NotRequired[bool]
    ciba: NotRequired[AskingRegistration | None]
    release: NotRequired[Literal["proxy", "narrowed"] | None]
    origins: NotRequired[list[str]]
    worker: NotRequired[WorkerRegistration | None]
    service_account: NotRequired[ServiceAccountRegistration | None]
    client_credentials: NotRequired[OwnApisRegistration | None]


class AgentUser(TypedDict):
    """A person who signed an agent in."""

    id: str
    name: str


class AgentUsers(TypedDict):
    """Who signed an agent in; `complete` is false where there may be more."""

    items: list[AgentUser]
    complete: bool


class AgentsPage(TypedDict):
    """A page of agents."""

    items: list[AgentRecord]
    next_cursor: NotRequired[str | None]


class ApiDefinition(TypedDict):
    """An API. A member that is missing stays unchanged."""

    name: NotRequired[str | None]
    scopes: NotRequired[list[str] | None]
    clients: NotRequired[list[str] | None]


class ApiRecord(TypedDict):
    """An API whose access tokens this vault issues."""

    resource: str
    name: str
    scopes: list[str]
    clients: list[str]
    created_at: str


class Apis(TypedDict):
    """APIs of your own."""

    items: list[ApiRecord]


class AppliedRecord(TypedDict):
    """The changes that were made, or would be."""

    applied: bool
    changes: list[ChangeRecord]


class ApprovalRecord(TypedDict):
    """A call or a client's own request that waits for its person's answer. Only that person sees its arguments."""

    id: str
    client_id: str
    kind: Literal["tool", "token", "request"]
    tool: str | None
    provider: str | None
    account: str | None
    resource: str | None
    scopes: list[str]
    asked_at: str
    expires_at: str


class AskMore(TypedDict):
    """What the person also approves each time."""

    scopes: NotRequired[list[str]]
    tools: NotRequired[list[str]]


class AskingRecord(TypedDict):
    """How an agent asks people in the background (CIBA)."""

    notify: str | None
    push: bool
    details_types: list[str]
    signing_alg: str | None
    user_code: bool


class AskingRegistration(TypedDict):
    """How an agent asks people in the background (CIBA)."""

    notify: NotRequired[str]
    push: NotRequired[bool]
    details_types: NotRequired[list[str]]
    signing_alg: NotRequired[Literal["ES256", "RS256", "PS256"] | None]
    user_code: NotRequired[bool]


class AssertionRecord(TypedDict):
    """What a company's assertion would give."""

    works: bool
    reason: str | None
    sentence: str | None
    fix: str | None
    company: str | None
    agent_id: str | None
    person_id: str | None
    rules: list[str]
    scopes: list[str]
    accounts: dict[str, list[str]]


class CallerRecord(TypedDict):
    """The caller."""

    person: PersonRecord
    client_id: str
    scopes: list[str]


class ChangeRecord(TypedDict):
    """One thing that is created, changed, or removed."""

    change: Literal["create", "update", "remove"]
    kind: Literal["person", "group", "agent", "api", "provider", "mcp_server", "imported_api"]
    name: str
    differences: list[DifferenceRecord]
    secret: str | None


class Companies(TypedDict):
    """Companies in the settings."""

    items: list[CompanyRecord]


class CompanyPermissionRecord(TypedDict):
    """What a company lets one agent do for a person."""

    company: str
    client_id: str
    scopes: list[str]
    accounts: dict[str, list[str]]
    renewed_at: str
    expires_at: str
    ended_at: str | None
    ended_reason: str | None


class CompanyPermissions(TypedDict):
    """What companies let agents do."""

    items: list[CompanyPermissionRecord]


class CompanyRecord(TypedDict):
    """A company whose identity provider admits agents."""

    company: str
    issuer: str
    rules: list[AdmittedRule]


class CompanyStepRecord(TypedDict):
    """What one company's rules say."""

    company: str
    sentence: str
    fix: str | None
    until: str | None


class ConnectionList(TypedDict):
    """Connected accounts."""

    items: list[ConnectionRecord]


class ConnectionRecord(TypedDict):
    """A connected account."""

    id: str
    provider: str
    account: str
    status: str
    scopes: list[str]
    connected_at: str
    refreshed_at: str | None
    ends_at: str | None


class CurrentSettings(TypedDict):
    """Settings in effect."""

    items: list[SettingRecord]


class Declaration(TypedDict):
    """The desired state. A missing section isn't managed."""

    people: NotRequired[dict[str, DeclaredPerson] | None]
    groups: NotRequired[dict[str, DeclaredGroup] | None]
    agents: NotRequired[dict[str, DeclaredAgent] | None]
    apis: NotRequired[dict[str, DeclaredApi] | None]
    providers: NotRequired[dict[str, DeclaredProvider] | None]
    mcp_servers: NotRequired[dict[str, DeclaredMcpServer] | None]
    imported_apis: NotRequired[dict[str, DeclaredImportedApi] | None]


class DeclaredAgent(TypedDict):
    """An agent, by a name in the file. `confidential` creates a secret, which is returned once."""

    id: NotRequired[str | None]
    title: NotRequired[str | None]
    redirect_uris: NotRequired[list[str]]
    confidential: NotRequired[bool]
    jwks: NotRequired[dict[str, Any] | None]
    resources: NotRequired[list[str]]
    device: NotRequired[bool]
    exchange: NotRequired[bool]
    auth0: NotRequired[bool]
    ciba: NotRequired[DeclaredAsking | None]
    release: NotRequired[dict[str, Literal["proxy", "narrowed", "full"]]]
    origins: NotRequired[list[str]]
    worker: NotRequired[DeclaredWorker | None]
    client_credentials: NotRequired[DeclaredByItself | None]


class DeclaredApi(TypedDict):
    """An API of your own, by its identifier. `clients` are agents in the file, or client IDs."""

    name: NotRequired[str | None]
    scopes: NotRequired[list[str]]
    clients: NotRequired[list[str]]


class DeclaredAsking(TypedDict):
    """How an agent asks people in the background (CIBA)."""

    notify: NotRequired[str]
    push: NotRequired[bool]
    details_types: NotRequired[list[str]]
    signing_alg: NotRequired[Literal["ES256", "RS256", "PS256"] | None]
    user_code: NotRequired[bool]


class DeclaredByItself(TypedDict):
    """An agent that acts for itself at its `resources`. `scopes`: the only scopes that it can get."""

    scopes: NotRequired[list[str]]


class DeclaredGroup(TypedDict):
    """A group, by name. `members`: the people that the vault adds; a directory and sign-ins can add others."""

    members: NotRequired[list[str]]


class DeclaredIdentity(TypedDict):
    """A person's identity at an identity provider."""

    issuer: str
    subject: str


class DeclaredImportedApi(TypedDict):
    """An API with tools from its description, by its name."""

    kind: NotRequired[Literal["openapi", "graphql"]]
    document: NotRequired[str | None]
    document_file: NotRequired[str | None]
    title: NotRequired[str]
    audience: NotRequired[str]
    server: NotRequired[str]
    only: NotRequired[list[str]]
    reviewed: NotRequired[str | None]
    tools: NotRequired[dict[str, Literal["accept", "ask", "leave"]]]


class DeclaredMcpServer(TypedDict):
    """An MCP server behind the vault, by its name. A person reviews its tools."""

    url: str
    title: NotRequired[str]
    sign_in: NotRequired[Literal["oauth", "key", "open"]]
    key_header: NotRequired[str]
    issuer: NotRequired[str | None]
    client_id: NotRequired[str | None]
    client_secret: NotRequired[str | None]
    client_secret_file: NotRequired[str | None]
    disabled: NotRequired[bool | None]


class DeclaredPerson(TypedDict):
    """A person, by name. A new person gets a one-time sign-in link."""

    admin: NotRequired[bool]
    role: NotRequired[Role | None]
    disabled: NotRequired[bool | None]
    identities: NotRequired[list[DeclaredIdentity] | None]


class DeclaredProvider(TypedDict):
    """Our registration at a provider, by its name."""

    client_id: str
    client_secret: NotRequired[str | None]
    client_secret_file: NotRequired[str | None]
    inputs: NotRequired[dict[str, str]]
    testing: NotRequired[bool]


class DeclaredWorker(TypedDict):
    """The limits of a worker."""

    addresses: list[str]
    connections: list[str]
    scopes: list[str]


class DeletionRecord(TypedDict):
    """A deleted person who has grants that aren't revoked at their providers yet."""

    id: str
    name: str
    requested_at: str
    grants: int


class Deletions(TypedDict):
    """Deletions that wait for providers."""

    items: list[DeletionRecord]


class DifferenceRecord(TypedDict):
    """One value that changes; never a secret."""

    name: str
    before: Any
    after: Any


class DirectoryPerson(TypedDict):
    """Who the person is in the directory."""

    external_id: NotRequired[str | None]


class DirectoryPersonRecord(TypedDict):
    """A person whom the directory manages."""

    person_id: str
    name: str
    external_id: str | None


class DirectoryTokenRecord(TypedDict):
    """A directory's token, without its secret."""

    name: str
    created_at: str
    expires_at: str | None
    used_at: str | None
    previous_until: str | None


class DirectoryTokens(TypedDict):
    """Directories' tokens."""

    items: list[DirectoryTokenRecord]


class DisconnectedAccounts(TypedDict):
    """How many accounts were disconnected. GET /receipts has the result for each."""

    accounts: int


class DisconnectedRecord(TypedDict):
    """How a connection ended."""

    id: str
    at_provider: str
    remove_at: list[str]


class EndpointChange(TypedDict):
    """What to change."""

    disabled: bool


class EndpointRecord(TypedDict):
    """An endpoint, without its secret."""

    id: str
    url: str
    events: list[str]
    gone: bool
    disabled: bool
    failure: str
    created_at: str
    sent_at: str | None


class EnteredCredential(TypedDict):
    """A credential of a person's account at a service without OAuth."""

    provider: str
    credential: dict[str, str]
    label: NotRequired[str]
    ends_on: NotRequired[str]
    replaces: NotRequired[str]


class EventRecord(TypedDict):
    """An event of the activity."""

    sequence: int
    at: str
    kind: str
    outcome: str
    person_id: str | None
    client_id: str | None
    connection_id: str | None
    details: dict[str, Any]


class EventsPage(TypedDict):
    """A page of events."""

    items: list[EventRecord]
    next_cursor: NotRequired[str | None]


class ExplanationRecord(TypedDict):
    """Every precondition of an exchange, in order, and its result."""

    works: bool
    steps: list[StepRecord]
    scopes: list[str]
    narrowing: Literal["upstream", "enforced", "host_only", "none"] | None
    refreshes: bool
    asks: bool
    gives: Literal["nothing", "handle", "upstream token"] | None
    companies: list[CompanyStepRecord]


class FailedEventRecord(TypedDict):
    """An event that an endpoint did not accept in all attempts."""

    endpoint_id: str
    sequence: int
    type: str
    attempts: int
    failure: str
    created_at: str


class FailedEvents(TypedDict):
    """Events that failed within 7 days, at most 500 for each endpoint."""

    items: list[FailedEventRecord]


class FieldProblem(TypedDict):
    """One value of a request that must be corrected."""

    pointer: str
    message: str


class FindingRecord(TypedDict):
    """What a check found."""

    check: str
    verdict: Literal["ok", "note", "problem"]
    sentence: str
    fix: str


class GivenConnection(TypedDict):
    """The account, which now belongs to the group."""

    id: str


class GrantCounts(TypedDict):
    """Ended grants, by what is known about their end at the provider."""

    waiting: int
    verified_dead: int
    settled: int
    unverified: int
    retried: int
    by_hand: int
    still_alive: int
    held: int


class GroupConnectionRecord(TypedDict):
    """An account of a group."""

    id: str
    provider: str
    account: str
    status: str
    scopes: list[str]
    ask: list[str]
    given_by: str


class GroupConnectionRule(TypedDict):
    """What members' agents can do with the account. Omitted fields are off."""

    reads_only: NotRequired[bool]
    asks_writes: NotRequired[bool]


class GroupConnections(TypedDict):
    """A group's accounts."""

    items: list[GroupConnectionRecord]


class GroupDetails(TypedDict):
    """A group with its members."""

    id: str
    name: str
    members: int
    directory: bool
    created_at: str
    people: list[MemberRecord]


class GroupRecord(TypedDict):
    """A group of people."""

    id: str
    name: str
    members: int
    directory: bool
    created_at: str


class GroupsPage(TypedDict):
    """Groups by name."""

    items: list[GroupRecord]
    next_cursor: NotRequired[str | None]


class IdentityRecord(TypedDict):
    """Who a person is at an identity provider."""

    issuer: str
    subject: str


class ImportDecisions(TypedDict):
    """Decisions about the reviewed tools. The others get the `choice` that the review shows."""

    digest: str
    tools: NotRequired[dict[str, Literal["accept", "ask", "leave"]]]


class ImportReview(TypedDict):
    """The waiting import, or else the current one, and the digest to decide about it with."""

    digest: str
    import_digest: str
    address: str
    audience: str
    tools: list[ImportedToolRecord]
    gone: list[str]


class ImportedApiRecord(TypedDict):
    """An API whose tools come from its description."""

    name: str
    title: str
    address: str
    audience: str
    usable: int
    left: int
    is_waiting: bool
    waiting: int
    problem: str
    imported_at: str


class ImportedApis(TypedDict):
    """All imported APIs, by name."""

    items: list[ImportedApiRecord]


class ImportedToolRecord(TypedDict):
    """A tool in the description's words, and what was decided about it."""

    name: str
    state: Literal["new", "changed", "accepted", "left"]
    choice: Literal["accept", "ask", "leave"]
    parts: list[ReviewedPartRecord]


class KeysRecord(TypedDict):
    """The vault's keys. Never a key itself."""

    source: str
    masters: list[MasterKeyRecord]
    signing: list[SigningKeyRecord]


class LogKeyRecord(TypedDict):
    """A public key of the log over the activity."""

    key: str
    origin: str
    signs: bool
    active_at: str
    retired_at: str | None


class LogKeys(TypedDict):
    """The public keys of the log over the activity."""

    items: list[LogKeyRecord]


class MadeDirectoryToken(TypedDict):
    """A new token."""

    url: str
    token: str


class MasterKeyRecord(TypedDict):
    """A key that people's keys are wrapped under, and what still needs it."""

    id: str
    state: Literal["added", "current", "previous", "retired"]
    source: str
    people: int
    uses: int
    created_at: str
    active_at: str | None
    retired_at: str | None
    missing_on: list[str]


class McpDecisions(TypedDict):
    """Decisions about the reviewed tools. Tools that aren't named stay unchanged."""

    digest: str
    tools: dict[str, Literal["read", "write", "ask", "leave"]]
    forget_absent: NotRequired[bool]


class McpReview(TypedDict):
    """A server's tools, and the digest to accept them with."""

    digest: str
    tools: list[McpToolRecord]


class McpServerChange(TypedDict):
    """What to change."""

    disabled: bool


class McpServerRecord(TypedDict):
    """An MCP server behind the vault, and how many of its tools are in which state."""

    name: str
    url: str
    title: str
    disabled: bool
    usable: int
    held: int
    left: int
    absent: int
    problem: str
    connect_url: str
    added_at: str


class McpServers(TypedDict):
    """All servers, in the order in which they were added."""

    items: list[McpServerRecord]


class McpToolRecord(TypedDict):
    """A tool in the server's words, and what was decided about it."""

    name: str
    state: str
    choice: Literal["read", "write", "ask", "leave"]
    problem: str
    claims: list[str]
    parts: list[ReviewedPartRecord]


class MemberRecord(TypedDict):
    """A person in a group."""

    person_id: str
    name: str
    disabled: bool
    sources: list[str]
    expires_at: str | None


class MetRule(TypedDict):
    """A rule that can apply to a call of this kind."""

    rule: str
    reason: str | None
    place: str
    asks: bool


class NewAnswer(TypedDict):
    """An answer to a request."""

    allow: bool
    days: NotRequired[int | None]
    scopes: NotRequired[list[str] | None]
    words: NotRequired[str]


class NewDirectoryToken(TypedDict):
    """A token to create or rotate."""

    name: str
    days: NotRequired[int | None]
    keep_hours: NotRequired[int]


class NewEndpoint(TypedDict):
    """An endpoint to add."""

    url: str
    events: NotRequired[list[str]]


class NewGroup(TypedDict):
    """A group to create."""

    name: str


class NewGroupConnection(TypedDict):
    """An account to give."""

    connection_id: str
    reads_only: NotRequired[bool]
    asks_writes: NotRequired[bool]


class NewIdentity(TypedDict):
    """Who a person is at an identity provider."""

    issuer: str
    subject: str


class NewImport(TypedDict):
    """A description to import, or to import again."""

    name: str
    kind: Literal["openapi", "graphql"]
    document: str
    title: NotRequired[str]
    audience: NotRequired[str]
    server: NotRequired[str]
    only: NotRequired[list[str]]


class NewMcpServer(TypedDict):
    """A server to add."""

    name: str
    url: str
    title: NotRequired[str]
    client_id: NotRequired[str]
    client_secret: NotRequired[str]
    issuer: NotRequired[str]
    sign_in: NotRequired[Literal["oauth", "key", "open"]]
    key_header: NotRequired[str]


class NewPanic(TypedDict):
    """Whose access to end."""

    of: Literal["person", "agent", "provider", "everyone"]
    id: NotRequired[str]
    confirm: NotRequired[str]


class NewPerson(TypedDict):
    """A person to add."""

    name: str
    admin: NotRequired[bool]


class OutstandingRecord(TypedDict):
    """An ended grant that isn't known to be over at its provider."""

    connection_id: str
    person_id: str
    provider: str
    result: str
    reason: str
    next_at: str | None
    pages: dict[str, str]


class OutstandingRevocations(TypedDict):
    """Outstanding revocations."""

    items: list[OutstandingRecord]


class OwnApisRecord(TypedDict):
    """What an agent that acts for itself can get at its `resources`."""

    scopes: list[str]


class OwnApisRegistration(TypedDict):
    """An agent that acts for itself, at its `resources` only."""

    scopes: NotRequired[list[str]]


class PanicRecord(TypedDict):
    """What is connected, and what ended."""

    accounts: dict[str, int]
    grants: GrantCounts
    complete: bool


class PeoplePage(TypedDict):
    """A page of people."""

    items: list[PersonRecord]
    next_cursor: NotRequired[str | None]


class PermissionRecord(TypedDict):
    """What one agent may do with one connection."""

    client_id: str
    agent: str | None
    connection_id: str
    provider: str
    account: str
    scopes: list[str]
    ask_scopes: list[str]
    ask_tools: list[str]
    expires_at: str | None
    company: NotRequired[str | None]


class Permissions(TypedDict):
    """What agents can do with accounts."""

    items: list[PermissionRecord]


class PersonChange(TypedDict):
    """What to change. A missing member stays unchanged."""

    admin: NotRequired[bool | None]
    role: NotRequired[Literal["owner", "administrator", "auditor", "member"] | None]
    disabled: NotRequired[bool | None]


class PersonDetails(TypedDict):
    """A person, the number of their accounts and agents, and their external identities."""

    id: str
    name: str
    admin: bool
    role: Literal["owner", "administrator", "auditor", "member"]
    disabled: bool
    created_at: str
    disabled_at: str | None
    stopped_at: str | None
    connections: int
    agents: int
    identities: list[IdentityRecord]


class PersonRecord(TypedDict):
    """A person with an account here."""

    id: str
    name: str
    admin: bool
    role: Literal["owner", "administrator", "auditor", "member"]
    disabled: bool
    created_at: str
    disabled_at: str | None
    stopped_at: str | None


class PolicyExplanation(TypedDict):
    """What the rules decide about a use."""

    outcome: Literal["allow", "ask", "forbid"]
    rule: str | None
    reason: str | None
    met: list[MetRule]
    digest: str


class PolicyUse(TypedDict):
    """A use of an account, which nobody makes."""

    call: str
    person_id: str
    agent_id: str
    arguments: NotRequired[dict[str, Any]]
    actors: NotRequired[list[str]]
    provider: NotRequired[str]
    account: NotRequired[str]
    scopes: NotRequired[list[str]]
    at: NotRequired[str | None]
    address: NotRequired[str]
    strong: NotRequired[bool]
    signed_in_seconds: NotRequired[int | None]
    method: NotRequired[str]
    api: NotRequired[str]
    path: NotRequired[str]
    shadow: NotRequired[bool]


class PresentedAssertion(TypedDict):
    """An assertion (ID-JAG)."""

    assertion: str


class Problem(TypedDict):
    """A refusal (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: NotRequired[list[FieldProblem]]
    changes: NotRequired[list[ChangeRecord] | None]
    request_id: NotRequired[str]


class ProviderDetails(TypedDict):
    """A provider, with what to enter at its console and here."""

    name: str
    title: str
    set_up: bool
    in_settings: bool
    client_id: str | None
    health: ProviderHealth
    redirect_uri: str
    console: list[str]
    public: bool
    inputs: list[ProviderInput]
    testing: bool
    changed_at: str | None
    revision: str


class ProviderHealth(TypedDict):
    """The state of a provider here."""

    state: str
    good: bool
    connections: int
    to_reconnect: int
    since: str | None
    reason: str


class ProviderInput(TypedDict):
    """A value that a provider needs, such as a tenant."""

    name: str
    title: str
    example: str
    default: str | None
    value: str | None


class ProviderRecord(TypedDict):
    """A provider."""

    name: str
    title: str
    set_up: bool
    in_settings: bool
    client_id: str | None
    health: ProviderHealth


class ProviderRegistration(TypedDict):
    """Our registration at a provider."""

    client_id: str
    client_secret: NotRequired[str]
    inputs: NotRequired[dict[str, str]]
    testing: NotRequired[bool]


class ProviderTest(TypedDict):
    """What the provider says about our registration; null if it didn't answer in time."""

    findings: list[FindingRecord] | None


class Providers(TypedDict):
    """Providers by name."""

    items: list[ProviderRecord]


class ReceiptRecord(TypedDict):
    """A receipt: the result of one ended grant."""

    connection_id: str
    person_id: str
    provider: str
    result: str
    reason: str
    final: bool
    issued_at: str
    settled_at: str | None
    settled_by: str | None
    receipt: str


class ReceiptsPage(TypedDict):
    """Receipts, the newest first."""

    items: list[ReceiptRecord]
    next_cursor: NotRequired[str | None]


class RegisteredAgentRecord(TypedDict):
    """A new agent."""

    agent: AgentRecord
    client_secret: str | None


class ReplicaRecord(TypedDict):
    """A process that serves this vault."""

    id: str
    host: str
    role: str
    version: str
    started_at: str
    seen_at: str
    late: bool
    this: bool
    failing: dict[str, str]
    providers: dict[str, str]


class ResendOptions(TypedDict):
    """What to send again."""

    sequence: NotRequired[int | None]


class ResentEvents(TypedDict):
    """How many events are sent again."""

    events: int


class RetriedRecord(TypedDict):
    """The result of another attempt."""

    outcome: str


class ReviewedLineRecord(TypedDict):
    """One line; `same`, `added`, or `removed` since the tool was accepted."""

    mark: Literal["same", "added", "removed"]
    text: str


class ReviewedPartRecord(TypedDict):
    """A part of a tool's description; for a changed tool, only the changes."""

    name: str
    lines: list[ReviewedLineRecord]


class Role(TypedDict):
    """What a person may do for all users. Each role includes those listed after it."""


class RotatedKey(TypedDict):
    """A new signing key."""

    kid: str
    signs_from: str


class RotatedSecret(TypedDict):
    """A new secret, shown only here."""

    endpoint: EndpointRecord
    secret: str
    previous_until: str


class RotationOptions(TypedDict):
    """How to rotate a secret."""

    overlap_hours: NotRequired[int]


class ServiceAccountRegistration(TypedDict):
    """A service account for the Admin API."""

    person_id: str
    scopes: list[str]


class SettingRecord(TypedDict):
    """A setting in effect."""

    name: str
    value: str | None
    origin: Literal["default", "environment", "file"]
    variable: str


class SignInLink(TypedDict):
    """A link that signs a person in once, where they choose a new password."""

    url: str


class SigningKeyRecord(TypedDict):
    """A key that tokens are signed with."""

    kid: str
    state: Literal["next", "current", "retiring"]
    signs_from: str
    retires_at: str | None


class StandingApprovals(TypedDict):
    """Calls that were approved in advance."""

    items: list[StandingRecord]


class StandingRecord(TypedDict):
    """Calls that a person approved in advance."""

    id: str
    client_id: str
    tool: str
    provider: str
    account: str
    per_day: int
    used_today: int
    expires_at: str


class StepRecord(TypedDict):
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
    code: str | None
    sentence: str | None
    fix: str | None


class TestResult(TypedDict):
    """The result of a test."""

    accepted: bool
    failure: str


class ToolRecord(TypedDict):
    """A tool that agents can have."""

    name: str
    title: str
    provider: str | None
    scopes: list[str]
    effect: Literal["read", "create", "change"]
    asks: bool


class ToolSetRecord(TypedDict):
    """Tools that are offered together."""

    name: str
    title: str
    tools: list[str]


class ToolSets(TypedDict):
    """Tool sets by name."""

    items: list[ToolSetRecord]


class Tools(TypedDict):
    """Tools by name."""

    items: list[ToolRecord]


class VaultHealth(TypedDict):
    """The state of the vault."""

    good: bool
    version: str
    vault: str
    replicas: list[ReplicaRecord]
    findings: list[FindingRecord]


class WaitingApprovals(TypedDict):
    """Calls that wait for an answer."""

    items: list[ApprovalRecord]


class WebhookList(TypedDict):
    """All endpoints."""

    items: list[EndpointRecord]


class WorkerRecord(TypedDict):
    """What a worker may do."""

    addresses: list[str]
    connections: list[str]
    scopes: list[str]


class WorkerRegistration(TypedDict):
    """What a worker may do: all three are needed."""

    addresses: list[str]
    connections: list[str]
    scopes: list[str]


class AdminClient(AdminBase):
    """Every operation of the Admin API."""

    def get_caller(self) -> CallerRecord:
        """Show the caller and the token's scopes."""
        return self._call("GET", "/admin/v1/me")

    def get_health(self) -> VaultHealth:
        """Show which processes serve this vault, what fails in them, and the quick checks of `doctor`."""
        return self._call("GET", "/admin/v1/health")

    def list_keys(self) -> KeysRecord:
        """List the master keys and the keys that tokens are signed with. Never a key itself."""
        return self._call("GET", "/admin/v1/keys")

    def rotate_signing_key(self) -> RotatedKey:
        """Create a signing key. It is published now and used in one hour; the old one stays until its tokens expire."""
        return self._call("POST", "/admin/v1/keys/signing")

    def list_settings(self) -> CurrentSettings:
        """List the settings in effect, and where each comes from. Secrets are masked."""
        return self._call("GET", "/admin/v1/settings")

    def list_people(
        self, *, limit: int | None = None, cursor: str | None = None, find: str | None = None
    ) -> PeoplePage:
        """List people by name."""
        return self._call("GET", "/admin/v1/people", query={"limit": limit, "cursor": cursor, "find": find})

    def add_person(self, body: NewPerson) -> AddedPersonRecord:
        """Add a person, who signs in with a one-time link."""
        return self._call("POST", "/admin/v1/people", body={**body})

    def get_person(self, person_id: str) -> PersonDetails:
        """Show one person, and how many accounts and agents they have."""
        return self._call("GET", f"/admin/v1/people/{path_part(person_id)}")

    def change_person(self, person_id: str, body: PersonChange) -> PersonDetails:
        """Disable or enable a person, or give them another role."""
        return self._call("PATCH", f"/admin/v1/people/{path_part(person_id)}", body={**body})

    def delete_person(self, person_id: str) -> None:
        """Delete a person."""
        self._call("DELETE", f"/admin/v1/people/{path_part(person_id)}")

    def make_sign_in_link(self, person_id: str) -> SignInLink:
        """Create a one-time link with which a person can sign in again."""
        return self._call("POST", f"/admin/v1/people/{path_part(person_id)}/sign-in-links")

    def link_identity(self, person_id: str, body: NewIdentity) -> IdentityRecord:
        """Link a person to an external identity, for sign-in and for JWTs of trusted issuers."""
        return self._call("POST", f"/admin/v1/people/{path_part(person_id)}/identities", body={**body})

    def list_deletions(self) -> Deletions:
        """List deleted people who have grants that aren't revoked at their providers yet."""
        return self._call("GET", "/admin/v1/deletions")

    def list_groups(self, *, limit: int | None = None, cursor: str | None = None) -> GroupsPage:
        """List groups by name."""
        return self._call("GET", "/admin/v1/groups", query={"limit": limit, "cursor": cursor})

    def create_group(self, body: NewGroup) -> GroupRecord:
        """Create a group."""
        return self._call("POST", "/admin/v1/groups", body={**body})

    def get_group(self, group_id: str) -> GroupDetails:
        """Show a group and who is in it."""
        return self._call("GET", f"/admin/v1/groups/{path_part(group_id)}")

    def rename_group(self, group_id: str, body: NewGroup) -> GroupDetails:
        """Rename a group that no directory manages."""
        return self._call("PATCH", f"/admin/v1/groups/{path_part(group_id)}", body={**body})

    def delete_group(self, group_id: str) -> None:
        """Delete a group that no directory manages."""
        self._call("DELETE", f"/admin/v1/groups/{path_part(group_id)}")

    def add_group_member(self, group_id: str, person_id: str) -> None:
        """Add a person to a group. Adding a member again changes nothing."""
        self._call("PUT", f"/admin/v1/groups/{path_part(group_id)}/people/{path_part(person_id)}")

    def remove_group_member(self, group_id: str, person_id: str) -> None:
        """Remove a person from a group to which an admin added them."""
        self._call("DELETE", f"/admin/v1/groups/{path_part(group_id)}/people/{path_part(person_id)}")

    def list_group_connections(self, group_id: str) -> GroupConnections:
        """List a group's accounts, which its members' agents can use."""
        return self._call("GET", f"/admin/v1/groups/{path_part(group_id)}/connections")

    def give_connection(self, group_id: str, body: NewGroupConnection) -> GivenConnection:
        """Give one of the caller's own accounts to a group. From then on, it belongs to the group."""
        return self._call("POST", f"/admin/v1/groups/{path_part(group_id)}/connections", body={**body})

    def change_group_connection(
        self, group_id: str, connection_id: str, body: GroupConnectionRule
    ) -> GroupConnectionRecord:
        """Replace the rule of a group's account. It applies to the next calls. Omitted fields are off."""
        return self._call(
            "PUT", f"/admin/v1/groups/{path_part(group_id)}/connections/{path_part(connection_id)}", body={**body}
        )

    def end_group_connection(self, group_id: str, connection_id: str) -> None:
        """Disconnect a group's account for all its members."""
        self._call("DELETE", f"/admin/v1/groups/{path_part(group_id)}/connections/{path_part(connection_id)}")

    def list_directory_tokens(self) -> DirectoryTokens:
        """List the tokens with which directories write people and groups (SCIM 2.0)."""
        return self._call("GET", "/admin/v1/directory-tokens")

    def make_directory_token(self, body: NewDirectoryToken) -> MadeDirectoryToken:
        """Create a token for a directory, or rotate the one with this name."""
        return self._call("POST", "/admin/v1/directory-tokens", body={**body})

    def end_directory_token(self, token_name: str) -> None:
        """End a directory's token immediately. People and groups stay."""
        self._call("DELETE", f"/admin/v1/directory-tokens/{path_part(token_name)}")

    def let_directory_manage(self, person_id: str, body: DirectoryPerson) -> DirectoryPersonRecord:
        """Let the directory change, disable, and delete an existing person."""
        return self._call("POST", f"/admin/v1/people/{path_part(person_id)}/directory", body={**body})

    def list_connections(self, person_id: str) -> ConnectionList:
        """List a person's connected accounts."""
        return self._call("GET", f"/admin/v1/people/{path_part(person_id)}/connections")

    def enter_credential(self, person_id: str, body: EnteredCredential) -> ConnectionRecord:
        """Connect an account with a credential, such as an API key. Agents can use it once its person allows them to."""
        return self._call("POST", f"/admin/v1/people/{path_part(person_id)}/connections", body={**body})

    def disconnect(self, person_id: str, connection_id: str) -> DisconnectedRecord:
        """Disconnect an account: revoke access at the provider and destroy its key."""
        return self._call("DELETE", f"/admin/v1/people/{path_part(person_id)}/connections/{path_part(connection_id)}")

    def list_permissions(self, person_id: str) -> Permissions:
        """List what a person's agents can use."""
        return self._call("GET", f"/admin/v1/people/{path_part(person_id)}/permissions")

    def ask_more(self, person_id: str, connection_id: str, client_id: str, body: AskMore) -> PermissionRecord:
        """Require the person's approval each time for more uses. Only the person can remove such a requirement."""
        return self._call(
            "POST",
            f"/admin/v1/people/{path_part(person_id)}/connections/{path_part(connection_id)}/permissions/{path_part(client_id)}/ask",
            body={**body},
        )

    def revoke_permission(self, person_id: str, connection_id: str, client_id: str) -> None:
        """Take a connection away from an agent."""
        self._call(
            "DELETE",
            f"/admin/v1/people/{path_part(person_id)}/connections/{path_part(connection_id)}/permissions/{path_part(client_id)}",
        )

    def list_company_permissions(self, person_id: str) -> CompanyPermissions:
        """List what companies let a person's agents do, including permissions that have ended."""
        return self._call("GET", f"/admin/v1/people/{path_part(person_id)}/company-permissions")

    def resume_company_permission(self, person_id: str, company: str, client_id: str) -> CompanyPermissionRecord:
        """Resume a company's permission for an agent after it ended."""
        return self._call(
            "POST",
            f"/admin/v1/people/{path_part(person_id)}/company-permissions/{path_part(company)}/{path_part(client_id)}/resume",
        )

    def end_company_permission(self, person_id: str, company: str, client_id: str) -> None:
        """End what a company lets an agent do for a person. What the person allowed stays."""
        self._call(
            "DELETE",
            f"/admin/v1/people/{path_part(person_id)}/company-permissions/{path_part(company)}/{path_part(client_id)}",
        )

    def list_approvals(self, person_id: str) -> WaitingApprovals:
        """List calls and requests that wait for a person's answer, without the arguments."""
        return self._call("GET", f"/admin/v1/people/{path_part(person_id)}/approvals")

    def list_standing_approvals(self, person_id: str) -> StandingApprovals:
        """List what a person approved in advance."""
        return self._call("GET", f"/admin/v1/people/{path_part(person_id)}/standing-approvals")

    def end_standing_approval(self, person_id: str, standing_id: str) -> None:
        """End a standing approval: its calls need the person's approval again."""
        self._call("DELETE", f"/admin/v1/people/{path_part(person_id)}/standing-approvals/{path_part(standing_id)}")

    def explain_account_use(
        self, person_id: str, connection_id: str, *, agent_id: str, scope: str | None = None
    ) -> ExplanationRecord:
        """Explain why an agent can't use an account, or what it would get."""
        return self._call(
            "GET",
            f"/admin/v1/people/{path_part(person_id)}/connections/{path_part(connection_id)}/explanation",
            query={"agent_id": agent_id, "scope": scope},
        )

    def explain_policy(self, body: PolicyUse) -> PolicyExplanation:
        """Explain what the operator's rules decide about a call, and which of them can apply to it."""
        return self._call("POST", "/admin/v1/policies/explanations", body={**body})

    def list_companies(self) -> Companies:
        """List the companies whose identity provider admits agents, with their rules, from the settings."""
        return self._call("GET", "/admin/v1/companies")

    def explain_company_assertion(self, body: PresentedAssertion) -> AssertionRecord:
        """Explain what a company's assertion would give, or why it is refused. The assertion isn't used up."""
        return self._call("POST", "/admin/v1/companies/explanations", body={**body})

    def list_access_requests(
        self, *, status: Literal["pending", "allowed", "denied", "ended"] | None = None
    ) -> AccessRequests:
        """List requests for access that only others can give."""
        return self._call("GET", "/admin/v1/access-requests", query={"status": status})

    def get_access_request(self, request_id: str) -> AccessRequestRecord:
        """Show a request."""
        return self._call("GET", f"/admin/v1/access-requests/{path_part(request_id)}")

    def end_access_request(self, request_id: str) -> AccessRequestRecord:
        """Withdraw an open request, or end what it gave."""
        return self._call("DELETE", f"/admin/v1/access-requests/{path_part(request_id)}")

    def answer_access_request(self, request_id: str, body: NewAnswer) -> AccessRequestRecord:
        """Allow a request or a part of it until an end, or deny it."""
        return self._call("POST", f"/admin/v1/access-requests/{path_part(request_id)}/answer", body={**body})

    def add_group_manager(self, group_id: str, person_id: str) -> None:
        """Let a person answer access requests about a group."""
        self._call("PUT", f"/admin/v1/groups/{path_part(group_id)}/managers/{path_part(person_id)}")

    def remove_group_manager(self, group_id: str, person_id: str) -> None:
        """Stop letting a person answer access requests about a group."""
        self._call("DELETE", f"/admin/v1/groups/{path_part(group_id)}/managers/{path_part(person_id)}")

    def show_panic(
        self, *, of: Literal["person", "agent", "provider", "everyone"], id: str | None = None
    ) -> PanicRecord:
        """Show what ending all access would end, and what is known about what it ended."""
        return self._call("GET", "/admin/v1/panics", query={"of": of, "id": id})

    def end_all_access(self, body: NewPanic) -> PanicRecord:
        """End all access of a person, an agent, or everyone, or all accounts at a provider, and revoke it there."""
        return self._call("POST", "/admin/v1/panics", body={**body})

    def list_outstanding(self) -> OutstandingRevocations:
        """List ended grants that aren't known to be over at their providers, at most 200 of each kind."""
        return self._call("GET", "/admin/v1/revocations")

    def list_receipts(self, *, limit: int | None = None, cursor: str | None = None) -> ReceiptsPage:
        """List receipts of ended grants, the newest first."""
        return self._call("GET", "/admin/v1/receipts", query={"limit": limit, "cursor": cursor})

    def get_receipt(self, connection_id: str) -> ReceiptRecord:
        """Show the receipt of an ended grant."""
        return self._call("GET", f"/admin/v1/receipts/{path_part(connection_id)}")

    def list_agent_receipts(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        agent_id: str | None = None,
        outstanding: bool | None = None,
    ) -> AgentReceiptsPage:
        """List receipts of ended agents, the newest first."""
        return self._call(
            "GET",
            "/admin/v1/agent-receipts",
            query={"limit": limit, "cursor": cursor, "agent_id": agent_id, "outstanding": outstanding},
        )

    def get_agent_receipt(self, receipt_id: str) -> AgentReceiptRecord:
        """Show the receipt of an ended agent."""
        return self._call("GET", f"/admin/v1/agent-receipts/{path_part(receipt_id)}")

    def retry(self, connection_id: str) -> RetriedRecord:
        """Retry a revocation now."""
        return self._call("POST", f"/admin/v1/revocations/{path_part(connection_id)}/attempts")

    def settle(self, connection_id: str) -> ReceiptRecord:
        """Note that someone ended the grant on the provider's page."""
        return self._call("PUT", f"/admin/v1/revocations/{path_part(connection_id)}/settled")

    def list_agents(
        self, *, limit: int | None = None, cursor: str | None = None, find: str | None = None
    ) -> AgentsPage:
        """List agents, newest first."""
        return self._call("GET", "/admin/v1/agents", query={"limit": limit, "cursor": cursor, "find": find})

    def register_agent(self, body: AgentRegistration, *, idempotency_key: str | None = None) -> RegisteredAgentRecord:
        """Register an agent, a worker, or a service account."""
        return self._call("POST", "/admin/v1/agents", body={**body}, headers={"Idempotency-Key": idempotency_key})

    def list_agent_people(self, client_id: str) -> AgentUsers:
        """List the people who signed an agent in."""
        return self._call("GET", f"/admin/v1/agents/{path_part(client_id)}/people")

    def get_agent(self, client_id: str) -> AgentRecord:
        """Show one agent."""
        return self._call("GET", f"/admin/v1/agents/{path_part(client_id)}")

    def change_agent(self, client_id: str, body: AgentChange) -> AgentRecord:
        """Set how an agent receives upstream tokens."""
        return self._call("PATCH", f"/admin/v1/agents/{path_part(client_id)}", body={**body})

    def remove_agent(self, client_id: str) -> None:
        """Remove an agent for everyone: its grants, tokens, and permissions end at the next call."""
        self._call("DELETE", f"/admin/v1/agents/{path_part(client_id)}")

    def list_apis(self) -> Apis:
        """List your own APIs: audiences of access tokens."""
        return self._call("GET", "/admin/v1/apis")

    def get_api(self, resource: str) -> ApiRecord:
        """Show one API."""
        return self._call("GET", f"/admin/v1/apis/{path_part(resource)}")

    def save_api(self, resource: str, body: ApiDefinition) -> ApiRecord:
        """Register an API, or change one. `clients` replaces the list of the API's clients."""
        return self._call("PUT", f"/admin/v1/apis/{path_part(resource)}", body={**body})

    def remove_api(self, resource: str) -> None:
        """Remove an API and revoke every grant for it."""
        self._call("DELETE", f"/admin/v1/apis/{path_part(resource)}")

    def list_providers(self, *, find: str | None = None, set_up: bool | None = None) -> Providers:
        """List providers, and the state of those that are set up."""
        return self._call("GET", "/admin/v1/providers", query={"find": find, "set_up": set_up})

    def get_provider(self, provider: str) -> ProviderDetails:
        """Show one provider: what to enter at its console, and our registration there. Never its secret."""
        return self._call("GET", f"/admin/v1/providers/{path_part(provider)}")

    def save_registration(
        self, provider: str, body: ProviderRegistration, *, if_match: str | None = None
    ) -> ProviderDetails:
        """Set up a provider, or change its registration. Every process uses it within seconds."""
        return self._call(
            "PUT",
            f"/admin/v1/providers/{path_part(provider)}/registration",
            body={**body},
            headers={"If-Match": if_match},
        )

    def remove_registration(self, provider: str, *, if_match: str | None = None) -> None:
        """Remove our registration and destroy its secret."""
        self._call("DELETE", f"/admin/v1/providers/{path_part(provider)}/registration", headers={"If-Match": if_match})

    def test_provider(self, provider: str) -> ProviderTest:
        """Ask the provider whether it knows our registration. Nothing is changed there."""
        return self._call("POST", f"/admin/v1/providers/{path_part(provider)}/test")

    def list_tools(self) -> Tools:
        """List the tools that agents can have."""
        return self._call("GET", "/admin/v1/tools")

    def list_tool_sets(self) -> ToolSets:
        """List the tool sets that agents can be offered."""
        return self._call("GET", "/admin/v1/tool-sets")

    def list_mcp_servers(self) -> McpServers:
        """List the MCP servers behind the vault."""
        return self._call("GET", "/admin/v1/mcp-servers")

    def add_mcp_server(self, body: NewMcpServer) -> McpServerRecord:
        """Put an MCP server behind the vault. Its tools can be called once you accept them."""
        return self._call("POST", "/admin/v1/mcp-servers", body={**body})

    def review_mcp_server(self, provider: str) -> McpReview:
        """Show a server's tools in its own words: what is new, changed, or gone. Untrusted text."""
        return self._call("GET", f"/admin/v1/mcp-servers/{path_part(provider)}/review")

    def decide_mcp_tools(self, provider: str, body: McpDecisions) -> AcceptedMcpTools:
        """Decide about the reviewed tools: accept them with an effect, or leave them out."""
        return self._call("POST", f"/admin/v1/mcp-servers/{path_part(provider)}/decisions", body={**body})

    def change_mcp_server(self, provider: str, body: McpServerChange) -> McpServerRecord:
        """Disable or enable a server. Accounts, permissions, and decisions stay."""
        return self._call("PATCH", f"/admin/v1/mcp-servers/{path_part(provider)}", body={**body})

    def remove_mcp_server(self, provider: str) -> None:
        """Remove a server to which no account is connected."""
        self._call("DELETE", f"/admin/v1/mcp-servers/{path_part(provider)}")

    def disconnect_mcp_server(self, provider: str) -> DisconnectedAccounts:
        """Disconnect every account from a server and revoke it there, with receipts."""
        return self._call("DELETE", f"/admin/v1/mcp-servers/{path_part(provider)}/accounts")

    def list_imported_apis(self) -> ImportedApis:
        """List the imported APIs."""
        return self._call("GET", "/admin/v1/imported-apis")

    def import_api(self, body: NewImport) -> ImportedApiRecord:
        """Import a description of an API. None of its tools can be called until you accept them."""
        return self._call("POST", "/admin/v1/imported-apis", body={**body})

    def review_imported_api(self, provider: str) -> ImportReview:
        """Show the tools in the description's words: what is new, changed, or gone. Untrusted text."""
        return self._call("GET", f"/admin/v1/imported-apis/{path_part(provider)}/review")

    def decide_imported_tools(self, provider: str, body: ImportDecisions) -> AcceptedImport:
        """Turn on the tools of the waiting import as reviewed, or change earlier decisions."""
        return self._call("POST", f"/admin/v1/imported-apis/{path_part(provider)}/decisions", body={**body})

    def discard_import(self, provider: str, *, digest: str) -> None:
        """Discard the waiting import. Tools accepted before stay on."""
        self._call("DELETE", f"/admin/v1/imported-apis/{path_part(provider)}/waiting", query={"digest": digest})

    def remove_imported_api(self, provider: str) -> None:
        """Remove an API to which no account is connected."""
        self._call("DELETE", f"/admin/v1/imported-apis/{path_part(provider)}")

    def list_events(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        person: str | None = None,
        agent: str | None = None,
        connection: str | None = None,
        kind: str | None = None,
        outcome: Literal["", "ok", "refused", "failed"] | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> EventsPage:
        """List what people and agents did, newest first."""
        return self._call(
            "GET",
            "/admin/v1/activity",
            query={
                "limit": limit,
                "cursor": cursor,
                "person": person,
                "agent": agent,
                "connection": connection,
                "kind": kind,
                "outcome": outcome,
                "since": since,
                "until": until,
            },
        )

    def export_events(
        self,
        *,
        person: str | None = None,
        agent: str | None = None,
        connection: str | None = None,
        kind: str | None = None,
        outcome: Literal["", "ok", "refused", "failed"] | None = None,
        since: str | None = None,
        until: str | None = None,
        format: Literal["jsonl", "csv"] | None = None,
    ) -> str:
        """Export the activity as JSON lines or CSV, newest first. It is streamed."""
        return self._call(
            "GET",
            "/admin/v1/activity/export",
            query={
                "person": person,
                "agent": agent,
                "connection": connection,
                "kind": kind,
                "outcome": outcome,
                "since": since,
                "until": until,
                "format": format,
            },
        )

    def get_event_proof(self, sequence: int) -> str:
        """Get the proof (C2SP tlog-proof) that an event is in the signed activity."""
        return self._call("GET", f"/admin/v1/activity/{path_part(sequence)}/proof")

    def get_checkpoint(self) -> str:
        """Get the newest signed checkpoint of the activity (C2SP tlog-checkpoint)."""
        return self._call("GET", "/admin/v1/activity/checkpoint")

    def list_activity_keys(self) -> LogKeys:
        """List the public keys of the log over the activity."""
        return self._call("GET", "/admin/v1/activity/keys")

    def list_webhooks(self) -> WebhookList:
        """List the endpoints that get events about accounts."""
        return self._call("GET", "/admin/v1/webhooks")

    def add_webhook(self, body: NewEndpoint) -> AddedEndpoint:
        """Add an endpoint. Its secret is returned once."""
        return self._call("POST", "/admin/v1/webhooks", body={**body})

    def remove_webhook(self, webhook_id: str) -> None:
        """Remove an endpoint and its waiting events."""
        self._call("DELETE", f"/admin/v1/webhooks/{path_part(webhook_id)}")

    def change_webhook(self, webhook_id: str, body: EndpointChange) -> EndpointRecord:
        """Disable or enable an endpoint. What happens while it is disabled isn't kept for it."""
        return self._call("PATCH", f"/admin/v1/webhooks/{path_part(webhook_id)}", body={**body})

    def rotate_webhook_secret(self, webhook_id: str, body: RotationOptions) -> RotatedSecret:
        """Sign with a new secret, which is returned once; the old one also signs for a while."""
        return self._call("POST", f"/admin/v1/webhooks/{path_part(webhook_id)}/secrets", body={**body})

    def test_webhook(self, webhook_id: str) -> TestResult:
        """Send an event of the type `token_vault.test` now."""
        return self._call("POST", f"/admin/v1/webhooks/{path_part(webhook_id)}/test")

    def list_webhook_failures(self) -> FailedEvents:
        """List the events that endpoints didn't accept in all attempts."""
        return self._call("GET", "/admin/v1/webhook-failures")

    def resend_webhook(self, webhook_id: str, body: ResendOptions) -> ResentEvents:
        """Send failed events again, even after the endpoint answered 410."""
        return self._call("POST", f"/admin/v1/webhooks/{path_part(webhook_id)}/resend", body={**body})

    def apply_declaration(
        self, body: Declaration, *, plan: bool | None = None, prune: bool | None = None
    ) -> AppliedRecord:
        """Make people, agents, APIs, providers, and the rest match a declaration. Repeating it changes nothing."""
        return self._call("POST", "/admin/v1/apply", query={"plan": plan, "prune": prune}, body={**body})
