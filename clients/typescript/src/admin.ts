// The Admin API, generated from its OpenAPI document; `admin-base.ts` has what it stands on.
import { AdminBase, pathPart } from "./admin-base.js";

/** How many tools are offered to agents from now on. */
export interface AcceptedImport {
  accepted: number;
}

/** The tools that are offered to agents from now on. */
export interface AcceptedMcpTools {
  accepted: Array<string>;
}

/** A request for access, and its outcome. */
export interface AccessRequestRecord {
  id: string;
  status: "pending" | "allowed" | "denied" | "ended";
  kind: "account" | "group" | "company";
  person_id: string;
  person: string | null;
  client_id: string | null;
  agent: string | null;
  provider: string | null;
  account: string | null;
  group: string | null;
  company: string | null;
  scopes: Array<string>;
  reason: string;
  days: number;
  filed_by: "person" | "agent";
  created_at: string;
  expires_at: string;
  decided_at: string | null;
  decided_by: string | null;
  answer: string;
  ended_at: string | null;
  ended_reason: string | null;
}

/** Access requests, the newest first. */
export interface AccessRequests {
  items: Array<AccessRequestRecord>;
}

/** A new endpoint, with the secret that signs its events. The secret is shown only here. */
export interface AddedEndpoint {
  endpoint: EndpointRecord;
  secret: string;
}

/** A new person, with the link that they sign in with once. */
export interface AddedPersonRecord {
  person: PersonRecord;
  sign_in_link: string;
}

/** What a company's rule lets agents do. */
export interface AdmittedRule {
  rule: string;
  agents: Array<string>;
  groups: Array<string>;
  scopes: Array<string>;
  accounts: Record<string, Array<string>>;
  tools: Array<string>;
}

/** What changes. */
export interface AgentChange {
  release: Record<string, "proxy" | "narrowed" | "full">;
}

/** A receipt: the result for one account that an ended agent could use, and that stayed connected. */
export interface AgentReceiptRecord {
  id: string;
  agent_id: string;
  person_id: string;
  connection_id: string;
  provider: string;
  result: string;
  reason: string;
  token_expires_at: string | null;
  outstanding: boolean;
  ended_at: string;
  issued_at: string;
  receipt: string;
}

/** Receipts of ended agents, the newest first. */
export interface AgentReceiptsPage {
  items: Array<AgentReceiptRecord>;
  next_cursor?: string | null;
}

/** An agent: an OAuth client. */
export interface AgentRecord {
  id: string;
  name: string;
  kind: string;
  auth_method: string;
  redirect_uris: Array<string>;
  grant_types: Array<string>;
  resources: Array<string>;
  release: Record<string, "proxy" | "narrowed" | "full">;
  worker: WorkerRecord | null;
  auth0: boolean;
  ciba: AskingRecord | null;
  service_account: boolean;
  client_credentials: OwnApisRecord | null;
  created_at: string;
  last_used_at: string | null;
}

/** An agent to register. */
export interface AgentRegistration {
  name: string;
  redirect_uris?: Array<string>;
  confidential?: boolean;
  jwks?: Record<string, unknown> | null;
  resources?: Array<string>;
  device?: boolean;
  exchange?: boolean;
  auth0?: boolean;
  ciba?: AskingRegistration | null;
  release?: "proxy" | "narrowed" | null;
  origins?: Array<string>;
  worker?: WorkerRegistration | null;
  service_account?: ServiceAccountRegistration | null;
  client_credentials?: OwnApisRegistration | null;
}

/** A person who signed an agent in. */
export interface AgentUser {
  id: string;
  name: string;
}

/** Who signed an agent in; `complete` is false where there may be more. */
export interface AgentUsers {
  items: Array<AgentUser>;
  complete: boolean;
}

/** A page of agents. */
export interface AgentsPage {
  items: Array<AgentRecord>;
  next_cursor?: string | null;
}

/** An API. A member that is missing stays unchanged. */
export interface ApiDefinition {
  name?: string | null;
  scopes?: Array<string> | null;
  clients?: Array<string> | null;
}

/** An API whose access tokens this vault issues. */
export interface ApiRecord {
  resource: string;
  name: string;
  scopes: Array<string>;
  clients: Array<string>;
  created_at: string;
}

/** APIs of your own. */
export interface Apis {
  items: Array<ApiRecord>;
}

/** The changes that were made, or would be. */
export interface AppliedRecord {
  applied: boolean;
  changes: Array<ChangeRecord>;
}

/** A call or a client's own request that waits for its person's answer. Only that person sees its arguments. */
export interface ApprovalRecord {
  id: string;
  client_id: string;
  kind: "tool" | "token" | "request";
  tool: string | null;
  provider: string | null;
  account: string | null;
  resource: string | null;
  scopes: Array<string>;
  asked_at: string;
  expires_at: string;
}

/** What the person also approves each time. */
export interface AskMore {
  scopes?: Array<string>;
  tools?: Array<string>;
}

/** How an agent asks people in the background (CIBA). */
export interface AskingRecord {
  notify: string | null;
  push: boolean;
  details_types: Array<string>;
  signing_alg: string | null;
  user_code: boolean;
}

/** How an agent asks people in the background (CIBA). */
export interface AskingRegistration {
  notify?: string;
  push?: boolean;
  details_types?: Array<string>;
  signing_alg?: "ES256" | "RS256" | "PS256" | null;
  user_code?: boolean;
}

/** What a company's assertion would give. */
export interface AssertionRecord {
  works: boolean;
  reason: string | null;
  sentence: string | null;
  fix: string | null;
  company: string | null;
  agent_id: string | null;
  person_id: string | null;
  rules: Array<string>;
  scopes: Array<string>;
  accounts: Record<string, Array<string>>;
}

/** The caller. */
export interface CallerRecord {
  person: PersonRecord;
  client_id: string;
  scopes: Array<string>;
}

/** One thing that is created, changed, or removed. */
export interface ChangeRecord {
  change: "create" | "update" | "remove";
  kind: "person" | "group" | "agent" | "api" | "provider" | "mcp_server" | "imported_api";
  name: string;
  differences: Array<DifferenceRecord>;
  secret: string | null;
}

/** Companies in the settings. */
export interface Companies {
  items: Array<CompanyRecord>;
}

/** What a company lets one agent do for a person. */
export interface CompanyPermissionRecord {
  company: string;
  client_id: string;
  scopes: Array<string>;
  accounts: Record<string, Array<string>>;
  renewed_at: string;
  expires_at: string;
  ended_at: string | null;
  ended_reason: string | null;
}

/** What companies let agents do. */
export interface CompanyPermissions {
  items: Array<CompanyPermissionRecord>;
}

/** A company whose identity provider admits agents. */
export interface CompanyRecord {
  company: string;
  issuer: string;
  rules: Array<AdmittedRule>;
}

/** What one company's rules say. */
export interface CompanyStepRecord {
  company: string;
  sentence: string;
  fix: string | null;
  until: string | null;
}

/** Connected accounts. */
export interface ConnectionList {
  items: Array<ConnectionRecord>;
}

/** A connected account. */
export interface ConnectionRecord {
  id: string;
  provider: string;
  account: string;
  status: string;
  scopes: Array<string>;
  connected_at: string;
  refreshed_at: string | null;
  ends_at: string | null;
}

/** Settings in effect. */
export interface CurrentSettings {
  items: Array<SettingRecord>;
}

/** The desired state. A missing section isn't managed. */
export interface Declaration {
  people?: Record<string, DeclaredPerson> | null;
  groups?: Record<string, DeclaredGroup> | null;
  agents?: Record<string, DeclaredAgent> | null;
  apis?: Record<string, DeclaredApi> | null;
  providers?: Record<string, DeclaredProvider> | null;
  mcp_servers?: Record<string, DeclaredMcpServer> | null;
  imported_apis?: Record<string, DeclaredImportedApi> | null;
}

/** An agent, by a name in the file. `confidential` creates a secret, which is returned once. */
export interface DeclaredAgent {
  id?: string | null;
  title?: string | null;
  redirect_uris?: Array<string>;
  confidential?: boolean;
  jwks?: Record<string, unknown> | null;
  resources?: Array<string>;
  device?: boolean;
  exchange?: boolean;
  auth0?: boolean;
  ciba?: DeclaredAsking | null;
  release?: Record<string, "proxy" | "narrowed" | "full">;
  origins?: Array<string>;
  worker?: DeclaredWorker | null;
  client_credentials?: DeclaredByItself | null;
}

/** An API of your own, by its identifier. `clients` are agents in the file, or client IDs. */
export interface DeclaredApi {
  name?: string | null;
  scopes?: Array<string>;
  clients?: Array<string>;
}

/** How an agent asks people in the background (CIBA). */
export interface DeclaredAsking {
  notify?: string;
  push?: boolean;
  details_types?: Array<string>;
  signing_alg?: "ES256" | "RS256" | "PS256" | null;
  user_code?: boolean;
}

/** An agent that acts for itself at its `resources`. `scopes`: the only scopes that it can get. */
export interface DeclaredByItself {
  scopes?: Array<string>;
}

/** A group, by name. `members`: the people that the vault adds; a directory and sign-ins can add others. */
export interface DeclaredGroup {
  members?: Array<string>;
}

/** A person's identity at an identity provider. */
export interface DeclaredIdentity {
  issuer: string;
  subject: string;
}

/** An API with tools from its description, by its name. */
export interface DeclaredImportedApi {
  kind?: "openapi" | "graphql";
  document?: string | null;
  document_file?: string | null;
  title?: string;
  audience?: string;
  server?: string;
  only?: Array<string>;
  reviewed?: string | null;
  tools?: Record<string, "accept" | "ask" | "leave">;
}

/** An MCP server behind the vault, by its name. A person reviews its tools. */
export interface DeclaredMcpServer {
  url: string;
  title?: string;
  sign_in?: "oauth" | "key" | "open";
  key_header?: string;
  issuer?: string | null;
  client_id?: string | null;
  client_secret?: string | null;
  client_secret_file?: string | null;
  disabled?: boolean | null;
}

/** A person, by name. A new person gets a one-time sign-in link. */
export interface DeclaredPerson {
  admin?: boolean;
  role?: Role | null;
  disabled?: boolean | null;
  identities?: Array<DeclaredIdentity> | null;
}

/** Our registration at a provider, by its name. */
export interface DeclaredProvider {
  client_id: string;
  client_secret?: string | null;
  client_secret_file?: string | null;
  inputs?: Record<string, string>;
  testing?: boolean;
}

/** The limits of a worker. */
export interface DeclaredWorker {
  addresses: Array<string>;
  connections: Array<string>;
  scopes: Array<string>;
}

/** A deleted person who has grants that aren't revoked at their providers yet. */
export interface DeletionRecord {
  id: string;
  name: string;
  requested_at: string;
  grants: number;
}

/** Deletions that wait for providers. */
export interface Deletions {
  items: Array<DeletionRecord>;
}

/** One value that changes; never a secret. */
export interface DifferenceRecord {
  name: string;
  before: unknown;
  after: unknown;
}

/** Who the person is in the directory. */
export interface DirectoryPerson {
  external_id?: string | null;
}

/** A person whom the directory manages. */
export interface DirectoryPersonRecord {
  person_id: string;
  name: string;
  external_id: string | null;
}

/** A directory's token, without its secret. */
export interface DirectoryTokenRecord {
  name: string;
  created_at: string;
  expires_at: string | null;
  used_at: string | null;
  previous_until: string | null;
}

/** Directories' tokens. */
export interface DirectoryTokens {
  items: Array<DirectoryTokenRecord>;
}

/** How many accounts were disconnected. GET /receipts has the result for each. */
export interface DisconnectedAccounts {
  accounts: number;
}

/** How a connection ended. */
export interface DisconnectedRecord {
  id: string;
  at_provider: string;
  remove_at: Array<string>;
}

/** What to change. */
export interface EndpointChange {
  disabled: boolean;
}

/** An endpoint, without its secret. */
export interface EndpointRecord {
  id: string;
  url: string;
  events: Array<string>;
  gone: boolean;
  disabled: boolean;
  failure: string;
  created_at: string;
  sent_at: string | null;
}

/** A credential of a person's account at a service without OAuth. */
export interface EnteredCredential {
  provider: string;
  credential: Record<string, string>;
  label?: string;
  ends_on?: string;
  replaces?: string;
}

/** An event of the activity. */
export interface EventRecord {
  sequence: number;
  at: string;
  kind: string;
  outcome: string;
  person_id: string | null;
  client_id: string | null;
  connection_id: string | null;
  details: Record<string, unknown>;
}

/** A page of events. */
export interface EventsPage {
  items: Array<EventRecord>;
  next_cursor?: string | null;
}

/** Every precondition of an exchange, in order, and its result. */
export interface ExplanationRecord {
  works: boolean;
  steps: Array<StepRecord>;
  scopes: Array<string>;
  narrowing: "upstream" | "enforced" | "host_only" | "none" | null;
  refreshes: boolean;
  asks: boolean;
  gives: "nothing" | "handle" | "upstream token" | null;
  companies: Array<CompanyStepRecord>;
}

/** An event that an endpoint did not accept in all attempts. */
export interface FailedEventRecord {
  endpoint_id: string;
  sequence: number;
  type: string;
  attempts: number;
  failure: string;
  created_at: string;
}

/** Events that failed within 7 days, at most 500 for each endpoint. */
export interface FailedEvents {
  items: Array<FailedEventRecord>;
}

/** One value of a request that must be corrected. */
export interface FieldProblem {
  pointer: string;
  message: string;
}

/** What a check found. */
export interface FindingRecord {
  check: string;
  verdict: "ok" | "note" | "problem";
  sentence: string;
  fix: string;
}

/** The account, which now belongs to the group. */
export interface GivenConnection {
  id: string;
}

/** Ended grants, by what is known about their end at the provider. */
export interface GrantCounts {
  waiting: number;
  verified_dead: number;
  settled: number;
  unverified: number;
  retried: number;
  by_hand: number;
  still_alive: number;
  held: number;
}

/** An account of a group. */
export interface GroupConnectionRecord {
  id: string;
  provider: string;
  account: string;
  status: string;
  scopes: Array<string>;
  ask: Array<string>;
  given_by: string;
}

/** What members' agents can do with the account. Omitted fields are off. */
export interface GroupConnectionRule {
  reads_only?: boolean;
  asks_writes?: boolean;
}

/** A group's accounts. */
export interface GroupConnections {
  items: Array<GroupConnectionRecord>;
}

/** A group with its members. */
export interface GroupDetails {
  id: string;
  name: string;
  members: number;
  directory: boolean;
  created_at: string;
  people: Array<MemberRecord>;
}

/** A group of people. */
export interface GroupRecord {
  id: string;
  name: string;
  members: number;
  directory: boolean;
  created_at: string;
}

/** Groups by name. */
export interface GroupsPage {
  items: Array<GroupRecord>;
  next_cursor?: string | null;
}

/** Who a person is at an identity provider. */
export interface IdentityRecord {
  issuer: string;
  subject: string;
}

/** Decisions about the reviewed tools. The others get the `choice` that the review shows. */
export interface ImportDecisions {
  digest: string;
  tools?: Record<string, "accept" | "ask" | "leave">;
}

/** The waiting import, or else the current one, and the digest to decide about it with. */
export interface ImportReview {
  digest: string;
  import_digest: string;
  address: string;
  audience: string;
  tools: Array<ImportedToolRecord>;
  gone: Array<string>;
}

/** An API whose tools come from its description. */
export interface ImportedApiRecord {
  name: string;
  title: string;
  address: string;
  audience: string;
  usable: number;
  left: number;
  is_waiting: boolean;
  waiting: number;
  problem: string;
  imported_at: string;
}

/** All imported APIs, by name. */
export interface ImportedApis {
  items: Array<ImportedApiRecord>;
}

/** A tool in the description's words, and what was decided about it. */
export interface ImportedToolRecord {
  name: string;
  state: "new" | "changed" | "accepted" | "left";
  choice: "accept" | "ask" | "leave";
  parts: Array<ReviewedPartRecord>;
}

/** The vault's keys. Never a key itself. */
export interface KeysRecord {
  source: string;
  masters: Array<MasterKeyRecord>;
  signing: Array<SigningKeyRecord>;
}

/** A public key of the log over the activity. */
export interface LogKeyRecord {
  key: string;
  origin: string;
  signs: boolean;
  active_at: string;
  retired_at: string | null;
}

/** The public keys of the log over the activity. */
export interface LogKeys {
  items: Array<LogKeyRecord>;
}

/** A new token. */
export interface MadeDirectoryToken {
  url: string;
  token: string;
}

/** A key that people's keys are wrapped under, and what still needs it. */
export interface MasterKeyRecord {
  id: string;
  state: "added" | "current" | "previous" | "retired";
  source: string;
  people: number;
  uses: number;
  created_at: string;
  active_at: string | null;
  retired_at: string | null;
  missing_on: Array<string>;
}

/** Decisions about the reviewed tools. Tools that aren't named stay unchanged. */
export interface McpDecisions {
  digest: string;
  tools: Record<string, "read" | "write" | "ask" | "leave">;
  forget_absent?: boolean;
}

/** A server's tools, and the digest to accept them with. */
export interface McpReview {
  digest: string;
  tools: Array<McpToolRecord>;
}

/** What to change. */
export interface McpServerChange {
  disabled: boolean;
}

/** An MCP server behind the vault, and how many of its tools are in which state. */
export interface McpServerRecord {
  name: string;
  url: string;
  title: string;
  disabled: boolean;
  usable: number;
  held: number;
  left: number;
  absent: number;
  problem: string;
  connect_url: string;
  added_at: string;
}

/** All servers, in the order in which they were added. */
export interface McpServers {
  items: Array<McpServerRecord>;
}

/** A tool in the server's words, and what was decided about it. */
export interface McpToolRecord {
  name: string;
  state: string;
  choice: "read" | "write" | "ask" | "leave";
  problem: string;
  claims: Array<string>;
  parts: Array<ReviewedPartRecord>;
}

/** A person in a group. */
export interface MemberRecord {
  person_id: string;
  name: string;
  disabled: boolean;
  sources: Array<string>;
  expires_at: string | null;
}

/** A rule that can apply to a call of this kind. */
export interface MetRule {
  rule: string;
  reason: string | null;
  place: string;
  asks: boolean;
}

/** An answer to a request. */
export interface NewAnswer {
  allow: boolean;
  days?: number | null;
  scopes?: Array<string> | null;
  words?: string;
}

/** A token to create or rotate. */
export interface NewDirectoryToken {
  name: string;
  days?: number | null;
  keep_hours?: number;
}

/** An endpoint to add. */
export interface NewEndpoint {
  url: string;
  events?: Array<string>;
}

/** A group to create. */
export interface NewGroup {
  name: string;
}

/** An account to give. */
export interface NewGroupConnection {
  connection_id: string;
  reads_only?: boolean;
  asks_writes?: boolean;
}

/** Who a person is at an identity provider. */
export interface NewIdentity {
  issuer: string;
  subject: string;
}

/** A description to import, or to import again. */
export interface NewImport {
  name: string;
  kind: "openapi" | "graphql";
  document: string;
  title?: string;
  audience?: string;
  server?: string;
  only?: Array<string>;
}

/** A server to add. */
export interface NewMcpServer {
  name: string;
  url: string;
  title?: string;
  client_id?: string;
  client_secret?: string;
  issuer?: string;
  sign_in?: "oauth" | "key" | "open";
  key_header?: string;
}

/** Whose access to end. */
export interface NewPanic {
  of: "person" | "agent" | "provider" | "everyone";
  id?: string;
  confirm?: string;
}

/** A person to add. */
export interface NewPerson {
  name: string;
  admin?: boolean;
}

/** An ended grant that isn't known to be over at its provider. */
export interface OutstandingRecord {
  connection_id: string;
  person_id: string;
  provider: string;
  result: string;
  reason: string;
  next_at: string | null;
  pages: Record<string, string>;
}

/** Outstanding revocations. */
export interface OutstandingRevocations {
  items: Array<OutstandingRecord>;
}

/** What an agent that acts for itself can get at its `resources`. */
export interface OwnApisRecord {
  scopes: Array<string>;
}

/** An agent that acts for itself, at its `resources` only. */
export interface OwnApisRegistration {
  scopes?: Array<string>;
}

/** What is connected, and what ended. */
export interface PanicRecord {
  accounts: Record<string, number>;
  grants: GrantCounts;
  complete: boolean;
}

/** A page of people. */
export interface PeoplePage {
  items: Array<PersonRecord>;
  next_cursor?: string | null;
}

/** What one agent may do with one connection. */
export interface PermissionRecord {
  client_id: string;
  agent: string | null;
  connection_id: string;
  provider: string;
  account: string;
  scopes: Array<string>;
  ask_scopes: Array<string>;
  ask_tools: Array<string>;
  expires_at: string | null;
  company?: string | null;
}

/** What agents can do with accounts. */
export interface Permissions {
  items: Array<PermissionRecord>;
}

/** What to change. A missing member stays unchanged. */
export interface PersonChange {
  admin?: boolean | null;
  role?: "owner" | "administrator" | "auditor" | "member" | null;
  disabled?: boolean | null;
}

/** A person, the number of their accounts and agents, and their external identities. */
export interface PersonDetails {
  id: string;
  name: string;
  admin: boolean;
  role: "owner" | "administrator" | "auditor" | "member";
  disabled: boolean;
  created_at: string;
  disabled_at: string | null;
  stopped_at: string | null;
  connections: number;
  agents: number;
  identities: Array<IdentityRecord>;
}

/** A person with an account here. */
export interface PersonRecord {
  id: string;
  name: string;
  admin: boolean;
  role: "owner" | "administrator" | "auditor" | "member";
  disabled: boolean;
  created_at: string;
  disabled_at: string | null;
  stopped_at: string | null;
}

/** What the rules decide about a use. */
export interface PolicyExplanation {
  outcome: "allow" | "ask" | "forbid";
  rule: string | null;
  reason: string | null;
  met: Array<MetRule>;
  digest: string;
}

/** A use of an account, which nobody makes. */
export interface PolicyUse {
  call: string;
  person_id: string;
  agent_id: string;
  arguments?: Record<string, unknown>;
  actors?: Array<string>;
  provider?: string;
  account?: string;
  scopes?: Array<string>;
  at?: string | null;
  address?: string;
  strong?: boolean;
  signed_in_seconds?: number | null;
  method?: string;
  api?: string;
  path?: string;
  shadow?: boolean;
}

/** An assertion (ID-JAG). */
export interface PresentedAssertion {
  assertion: string;
}

/** A refusal (RFC 9457). */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: string;
  errors?: Array<FieldProblem>;
  changes?: Array<ChangeRecord> | null;
  request_id?: string;
}

/** A provider, with what to enter at its console and here. */
export interface ProviderDetails {
  name: string;
  title: string;
  set_up: boolean;
  in_settings: boolean;
  client_id: string | null;
  health: ProviderHealth;
  redirect_uri: string;
  console: Array<string>;
  public: boolean;
  inputs: Array<ProviderInput>;
  testing: boolean;
  changed_at: string | null;
  revision: string;
}

/** The state of a provider here. */
export interface ProviderHealth {
  state: string;
  good: boolean;
  connections: number;
  to_reconnect: number;
  since: string | null;
  reason: string;
}

/** A value that a provider needs, such as a tenant. */
export interface ProviderInput {
  name: string;
  title: string;
  example: string;
  default: string | null;
  value: string | null;
}

/** A provider. */
export interface ProviderRecord {
  name: string;
  title: string;
  set_up: boolean;
  in_settings: boolean;
  client_id: string | null;
  health: ProviderHealth;
}

/** Our registration at a provider. */
export interface ProviderRegistration {
  client_id: string;
  client_secret?: string;
  inputs?: Record<string, string>;
  testing?: boolean;
}

/** What the provider says about our registration; null if it didn't answer in time. */
export interface ProviderTest {
  findings: Array<FindingRecord> | null;
}

/** Providers by name. */
export interface Providers {
  items: Array<ProviderRecord>;
}

/** A receipt: the result of one ended grant. */
export interface ReceiptRecord {
  connection_id: string;
  person_id: string;
  provider: string;
  result: string;
  reason: string;
  final: boolean;
  issued_at: string;
  settled_at: string | null;
  settled_by: string | null;
  receipt: string;
}

/** Receipts, the newest first. */
export interface ReceiptsPage {
  items: Array<ReceiptRecord>;
  next_cursor?: string | null;
}

/** A new agent. */
export interface RegisteredAgentRecord {
  agent: AgentRecord;
  client_secret: string | null;
}

/** A process that serves this vault. */
export interface ReplicaRecord {
  id: string;
  host: string;
  role: string;
  version: string;
  started_at: string;
  seen_at: string;
  late: boolean;
  this: boolean;
  failing: Record<string, string>;
  providers: Record<string, string>;
}

/** What to send again. */
export interface ResendOptions {
  sequence?: number | null;
}

/** How many events are sent again. */
export interface ResentEvents {
  events: number;
}

/** The result of another attempt. */
export interface RetriedRecord {
  outcome: string;
}

/** One line; `same`, `added`, or `removed` since the tool was accepted. */
export interface ReviewedLineRecord {
  mark: "same" | "added" | "removed";
  text: string;
}

/** A part of a tool's description; for a changed tool, only the changes. */
export interface ReviewedPartRecord {
  name: string;
  lines: Array<ReviewedLineRecord>;
}

/** What a person may do for all users. Each role includes those listed after it. */
export interface Role {
}

/** A new signing key. */
export interface RotatedKey {
  kid: string;
  signs_from: string;
}

/** A new secret, shown only here. */
export interface RotatedSecret {
  endpoint: EndpointRecord;
  secret: string;
  previous_until: string;
}

/** How to rotate a secret. */
export interface RotationOptions {
  overlap_hours?: number;
}

/** A service account for the Admin API. */
export interface ServiceAccountRegistration {
  person_id: string;
  scopes: Array<string>;
}

/** A setting in effect. */
export interface SettingRecord {
  name: string;
  value: string | null;
  origin: "default" | "environment" | "file";
  variable: string;
}

/** A link that signs a person in once, where they choose a new password. */
export interface SignInLink {
  url: string;
}

/** A key that tokens are signed with. */
export interface SigningKeyRecord {
  kid: string;
  state: "next" | "current" | "retiring";
  signs_from: string;
  retires_at: string | null;
}

/** Calls that were approved in advance. */
export interface StandingApprovals {
  items: Array<StandingRecord>;
}

/** Calls that a person approved in advance. */
export interface StandingRecord {
  id: string;
  client_id: string;
  tool: string;
  provider: string;
  account: string;
  per_day: number;
  used_today: number;
  expires_at: string;
}

/** One precondition. */
export interface StepRecord {
  step: "user" | "client" | "grant" | "connection" | "provider" | "operator" | "state" | "scopes" | "delegation" | "token" | "policy" | "approval" | "upstream";
  outcome: "ok" | "failed" | "not checked";
  code: string | null;
  sentence: string | null;
  fix: string | null;
}

/** The result of a test. */
export interface TestResult {
  accepted: boolean;
  failure: string;
}

/** A tool that agents can have. */
export interface ToolRecord {
  name: string;
  title: string;
  provider: string | null;
  scopes: Array<string>;
  effect: "read" | "create" | "change";
  asks: boolean;
}

/** Tools that are offered together. */
export interface ToolSetRecord {
  name: string;
  title: string;
  tools: Array<string>;
}

/** Tool sets by name. */
export interface ToolSets {
  items: Array<ToolSetRecord>;
}

/** Tools by name. */
export interface Tools {
  items: Array<ToolRecord>;
}

/** The state of the vault. */
export interface VaultHealth {
  good: boolean;
  version: string;
  vault: string;
  replicas: Array<ReplicaRecord>;
  findings: Array<FindingRecord>;
}

/** Calls that wait for an answer. */
export interface WaitingApprovals {
  items: Array<ApprovalRecord>;
}

/** All endpoints. */
export interface WebhookList {
  items: Array<EndpointRecord>;
}

/** What a worker may do. */
export interface WorkerRecord {
  addresses: Array<string>;
  connections: Array<string>;
  scopes: Array<string>;
}

/** What a worker may do: all three are needed. */
export interface WorkerRegistration {
  addresses: Array<string>;
  connections: Array<string>;
  scopes: Array<string>;
}

/** Every operation of the Admin API. */
export class AdminClient extends AdminBase {
  /** Show the caller and the token's scopes. */
  async getCaller(): Promise<CallerRecord> {
    return this.call("GET", `/admin/v1/me`) as Promise<CallerRecord>;
  }

  /** Show which processes serve this vault, what fails in them, and the quick checks of `doctor`. */
  async getHealth(): Promise<VaultHealth> {
    return this.call("GET", `/admin/v1/health`) as Promise<VaultHealth>;
  }

  /** List the master keys and the keys that tokens are signed with. Never a key itself. */
  async listKeys(): Promise<KeysRecord> {
    return this.call("GET", `/admin/v1/keys`) as Promise<KeysRecord>;
  }

  /** Create a signing key. It is published now and used in one hour; the old one stays until its tokens expire. */
  async rotateSigningKey(): Promise<RotatedKey> {
    return this.call("POST", `/admin/v1/keys/signing`) as Promise<RotatedKey>;
  }

  /** List the settings in effect, and where each comes from. Secrets are masked. */
  async listSettings(): Promise<CurrentSettings> {
    return this.call("GET", `/admin/v1/settings`) as Promise<CurrentSettings>;
  }

  /** List people by name. */
  async listPeople(query: { limit?: number; cursor?: string; find?: string } = {}): Promise<PeoplePage> {
    return this.call("GET", `/admin/v1/people`, { query }) as Promise<PeoplePage>;
  }

  /** Add a person, who signs in with a one-time link. */
  async addPerson(body: NewPerson): Promise<AddedPersonRecord> {
    return this.call("POST", `/admin/v1/people`, { body }) as Promise<AddedPersonRecord>;
  }

  /** Show one person, and how many accounts and agents they have. */
  async getPerson(personId: string): Promise<PersonDetails> {
    return this.call("GET", `/admin/v1/people/${pathPart(personId)}`) as Promise<PersonDetails>;
  }

  /** Disable or enable a person, or give them another role. */
  async changePerson(personId: string, body: PersonChange): Promise<PersonDetails> {
    return this.call("PATCH", `/admin/v1/people/${pathPart(personId)}`, { body }) as Promise<PersonDetails>;
  }

  /** Delete a person. */
  async deletePerson(personId: string): Promise<void> {
    await this.call("DELETE", `/admin/v1/people/${pathPart(personId)}`);
  }

  /** Create a one-time link with which a person can sign in again. */
  async makeSignInLink(personId: string): Promise<SignInLink> {
    return this.call("POST", `/admin/v1/people/${pathPart(personId)}/sign-in-links`) as Promise<SignInLink>;
  }

  /** Link a person to an external identity, for sign-in and for JWTs of trusted issuers. */
  async linkIdentity(personId: string, body: NewIdentity): Promise<IdentityRecord> {
    return this.call("POST", `/admin/v1/people/${pathPart(personId)}/identities`, { body }) as Promise<IdentityRecord>;
  }

  /** List deleted people who have grants that aren't revoked at their providers yet. */
  async listDeletions(): Promise<Deletions> {
    return this.call("GET", `/admin/v1/deletions`) as Promise<Deletions>;
  }

  /** List groups by name. */
  async listGroups(query: { limit?: number; cursor?: string } = {}): Promise<GroupsPage> {
    return this.call("GET", `/admin/v1/groups`, { query }) as Promise<GroupsPage>;
  }

  /** Create a group. */
  async createGroup(body: NewGroup): Promise<GroupRecord> {
    return this.call("POST", `/admin/v1/groups`, { body }) as Promise<GroupRecord>;
  }

  /** Show a group and who is in it. */
  async getGroup(groupId: string): Promise<GroupDetails> {
    return this.call("GET", `/admin/v1/groups/${pathPart(groupId)}`) as Promise<GroupDetails>;
  }

  /** Rename a group that no directory manages. */
  async renameGroup(groupId: string, body: NewGroup): Promise<GroupDetails> {
    return this.call("PATCH", `/admin/v1/groups/${pathPart(groupId)}`, { body }) as Promise<GroupDetails>;
  }

  /** Delete a group that no directory manages. */
  async deleteGroup(groupId: string): Promise<void> {
    await this.call("DELETE", `/admin/v1/groups/${pathPart(groupId)}`);
  }

  /** Add a person to a group. Adding a member again changes nothing. */
  async addGroupMember(groupId: string, personId: string): Promise<void> {
    await this.call("PUT", `/admin/v1/groups/${pathPart(groupId)}/people/${pathPart(personId)}`);
  }

  /** Remove a person from a group to which an admin added them. */
  async removeGroupMember(groupId: string, personId: string): Promise<void> {
    await this.call("DELETE", `/admin/v1/groups/${pathPart(groupId)}/people/${pathPart(personId)}`);
  }

  /** List a group's accounts, which its members' agents can use. */
  async listGroupConnections(groupId: string): Promise<GroupConnections> {
    return this.call("GET", `/admin/v1/groups/${pathPart(groupId)}/connections`) as Promise<GroupConnections>;
  }

  /** Give one of the caller's own accounts to a group. From then on, it belongs to the group. */
  async giveConnection(groupId: string, body: NewGroupConnection): Promise<GivenConnection> {
    return this.call("POST", `/admin/v1/groups/${pathPart(groupId)}/connections`, { body }) as Promise<GivenConnection>;
  }

  /** Replace the rule of a group's account. It applies to the next calls. Omitted fields are off. */
  async changeGroupConnection(groupId: string, connectionId: string, body: GroupConnectionRule): Promise<GroupConnectionRecord> {
    return this.call("PUT", `/admin/v1/groups/${pathPart(groupId)}/connections/${pathPart(connectionId)}`, { body }) as Promise<GroupConnectionRecord>;
  }

  /** Disconnect a group's account for all its members. */
  async endGroupConnection(groupId: string, connectionId: string): Promise<void> {
    await this.call("DELETE", `/admin/v1/groups/${pathPart(groupId)}/connections/${pathPart(connectionId)}`);
  }

  /** List the tokens with which directories write people and groups (SCIM 2.0). */
  async listDirectoryTokens(): Promise<DirectoryTokens> {
    return this.call("GET", `/admin/v1/directory-tokens`) as Promise<DirectoryTokens>;
  }

  /** Create a token for a directory, or rotate the one with this name. */
  async makeDirectoryToken(body: NewDirectoryToken): Promise<MadeDirectoryToken> {
    return this.call("POST", `/admin/v1/directory-tokens`, { body }) as Promise<MadeDirectoryToken>;
  }

  /** End a directory's token immediately. People and groups stay. */
  async endDirectoryToken(tokenName: string): Promise<void> {
    await this.call("DELETE", `/admin/v1/directory-tokens/${pathPart(tokenName)}`);
  }

  /** Let the directory change, disable, and delete an existing person. */
  async letDirectoryManage(personId: string, body: DirectoryPerson): Promise<DirectoryPersonRecord> {
    return this.call("POST", `/admin/v1/people/${pathPart(personId)}/directory`, { body }) as Promise<DirectoryPersonRecord>;
  }

  /** List a person's connected accounts. */
  async listConnections(personId: string): Promise<ConnectionList> {
    return this.call("GET", `/admin/v1/people/${pathPart(personId)}/connections`) as Promise<ConnectionList>;
  }

  /** Connect an account with a credential, such as an API key. Agents can use it once its person allows them to. */
  async enterCredential(personId: string, body: EnteredCredential): Promise<ConnectionRecord> {
    return this.call("POST", `/admin/v1/people/${pathPart(personId)}/connections`, { body }) as Promise<ConnectionRecord>;
  }

  /** Disconnect an account: revoke access at the provider and destroy its key. */
  async disconnect(personId: string, connectionId: string): Promise<DisconnectedRecord> {
    return this.call("DELETE", `/admin/v1/people/${pathPart(personId)}/connections/${pathPart(connectionId)}`) as Promise<DisconnectedRecord>;
  }

  /** List what a person's agents can use. */
  async listPermissions(personId: string): Promise<Permissions> {
    return this.call("GET", `/admin/v1/people/${pathPart(personId)}/permissions`) as Promise<Permissions>;
  }

  /** Require the person's approval each time for more uses. Only the person can remove such a requirement. */
  async askMore(personId: string, connectionId: string, clientId: string, body: AskMore): Promise<PermissionRecord> {
    return this.call("POST", `/admin/v1/people/${pathPart(personId)}/connections/${pathPart(connectionId)}/permissions/${pathPart(clientId)}/ask`, { body }) as Promise<PermissionRecord>;
  }

  /** Take a connection away from an agent. */
  async revokePermission(personId: string, connectionId: string, clientId: string): Promise<void> {
    await this.call("DELETE", `/admin/v1/people/${pathPart(personId)}/connections/${pathPart(connectionId)}/permissions/${pathPart(clientId)}`);
  }

  /** List what companies let a person's agents do, including permissions that have ended. */
  async listCompanyPermissions(personId: string): Promise<CompanyPermissions> {
    return this.call("GET", `/admin/v1/people/${pathPart(personId)}/company-permissions`) as Promise<CompanyPermissions>;
  }

  /** Resume a company's permission for an agent after it ended. */
  async resumeCompanyPermission(personId: string, company: string, clientId: string): Promise<CompanyPermissionRecord> {
    return this.call("POST", `/admin/v1/people/${pathPart(personId)}/company-permissions/${pathPart(company)}/${pathPart(clientId)}/resume`) as Promise<CompanyPermissionRecord>;
  }

  /** End what a company lets an agent do for a person. What the person allowed stays. */
  async endCompanyPermission(personId: string, company: string, clientId: string): Promise<void> {
    await this.call("DELETE", `/admin/v1/people/${pathPart(personId)}/company-permissions/${pathPart(company)}/${pathPart(clientId)}`);
  }

  /** List calls and requests that wait for a person's answer, without the arguments. */
  async listApprovals(personId: string): Promise<WaitingApprovals> {
    return this.call("GET", `/admin/v1/people/${pathPart(personId)}/approvals`) as Promise<WaitingApprovals>;
  }

  /** List what a person approved in advance. */
  async listStandingApprovals(personId: string): Promise<StandingApprovals> {
    return this.call("GET", `/admin/v1/people/${pathPart(personId)}/standing-approvals`) as Promise<StandingApprovals>;
  }

  /** End a standing approval: its calls need the person's approval again. */
  async endStandingApproval(personId: string, standingId: string): Promise<void> {
    await this.call("DELETE", `/admin/v1/people/${pathPart(personId)}/standing-approvals/${pathPart(standingId)}`);
  }

  /** Explain why an agent can't use an account, or what it would get. */
  async explainAccountUse(personId: string, connectionId: string, query: { agent_id: string; scope?: string }): Promise<ExplanationRecord> {
    return this.call("GET", `/admin/v1/people/${pathPart(personId)}/connections/${pathPart(connectionId)}/explanation`, { query }) as Promise<ExplanationRecord>;
  }

  /** Explain what the operator's rules decide about a call, and which of them can apply to it. */
  async explainPolicy(body: PolicyUse): Promise<PolicyExplanation> {
    return this.call("POST", `/admin/v1/policies/explanations`, { body }) as Promise<PolicyExplanation>;
  }

  /** List the companies whose identity provider admits agents, with their rules, from the settings. */
  async listCompanies(): Promise<Companies> {
    return this.call("GET", `/admin/v1/companies`) as Promise<Companies>;
  }

  /** Explain what a company's assertion would give, or why it is refused. The assertion isn't used up. */
  async explainCompanyAssertion(body: PresentedAssertion): Promise<AssertionRecord> {
    return this.call("POST", `/admin/v1/companies/explanations`, { body }) as Promise<AssertionRecord>;
  }

  /** List requests for access that only others can give. */
  async listAccessRequests(query: { status?: "pending" | "allowed" | "denied" | "ended" } = {}): Promise<AccessRequests> {
    return this.call("GET", `/admin/v1/access-requests`, { query }) as Promise<AccessRequests>;
  }

  /** Show a request. */
  async getAccessRequest(requestId: string): Promise<AccessRequestRecord> {
    return this.call("GET", `/admin/v1/access-requests/${pathPart(requestId)}`) as Promise<AccessRequestRecord>;
  }

  /** Withdraw an open request, or end what it gave. */
  async endAccessRequest(requestId: string): Promise<AccessRequestRecord> {
    return this.call("DELETE", `/admin/v1/access-requests/${pathPart(requestId)}`) as Promise<AccessRequestRecord>;
  }

  /** Allow a request or a part of it until an end, or deny it. */
  async answerAccessRequest(requestId: string, body: NewAnswer): Promise<AccessRequestRecord> {
    return this.call("POST", `/admin/v1/access-requests/${pathPart(requestId)}/answer`, { body }) as Promise<AccessRequestRecord>;
  }

  /** Let a person answer access requests about a group. */
  async addGroupManager(groupId: string, personId: string): Promise<void> {
    await this.call("PUT", `/admin/v1/groups/${pathPart(groupId)}/managers/${pathPart(personId)}`);
  }

  /** Stop letting a person answer access requests about a group. */
  async removeGroupManager(groupId: string, personId: string): Promise<void> {
    await this.call("DELETE", `/admin/v1/groups/${pathPart(groupId)}/managers/${pathPart(personId)}`);
  }

  /** Show what ending all access would end, and what is known about what it ended. */
  async showPanic(query: { of: "person" | "agent" | "provider" | "everyone"; id?: string }): Promise<PanicRecord> {
    return this.call("GET", `/admin/v1/panics`, { query }) as Promise<PanicRecord>;
  }

  /** End all access of a person, an agent, or everyone, or all accounts at a provider, and revoke it there. */
  async endAllAccess(body: NewPanic): Promise<PanicRecord> {
    return this.call("POST", `/admin/v1/panics`, { body }) as Promise<PanicRecord>;
  }

  /** List ended grants that aren't known to be over at their providers, at most 200 of each kind. */
  async listOutstanding(): Promise<OutstandingRevocations> {
    return this.call("GET", `/admin/v1/revocations`) as Promise<OutstandingRevocations>;
  }

  /** List receipts of ended grants, the newest first. */
  async listReceipts(query: { limit?: number; cursor?: string } = {}): Promise<ReceiptsPage> {
    return this.call("GET", `/admin/v1/receipts`, { query }) as Promise<ReceiptsPage>;
  }

  /** Show the receipt of an ended grant. */
  async getReceipt(connectionId: string): Promise<ReceiptRecord> {
    return this.call("GET", `/admin/v1/receipts/${pathPart(connectionId)}`) as Promise<ReceiptRecord>;
  }

  /** List receipts of ended agents, the newest first. */
  async listAgentReceipts(query: { limit?: number; cursor?: string; agent_id?: string; outstanding?: boolean } = {}): Promise<AgentReceiptsPage> {
    return this.call("GET", `/admin/v1/agent-receipts`, { query }) as Promise<AgentReceiptsPage>;
  }

  /** Show the receipt of an ended agent. */
  async getAgentReceipt(receiptId: string): Promise<AgentReceiptRecord> {
    return this.call("GET", `/admin/v1/agent-receipts/${pathPart(receiptId)}`) as Promise<AgentReceiptRecord>;
  }

  /** Retry a revocation now. */
  async retry(connectionId: string): Promise<RetriedRecord> {
    return this.call("POST", `/admin/v1/revocations/${pathPart(connectionId)}/attempts`) as Promise<RetriedRecord>;
  }

  /** Note that someone ended the grant on the provider's page. */
  async settle(connectionId: string): Promise<ReceiptRecord> {
    return this.call("PUT", `/admin/v1/revocations/${pathPart(connectionId)}/settled`) as Promise<ReceiptRecord>;
  }

  /** List agents, newest first. */
  async listAgents(query: { limit?: number; cursor?: string; find?: string } = {}): Promise<AgentsPage> {
    return this.call("GET", `/admin/v1/agents`, { query }) as Promise<AgentsPage>;
  }

  /** Register an agent, a worker, or a service account. */
  async registerAgent(body: AgentRegistration, headers: { "Idempotency-Key"?: string } = {}): Promise<RegisteredAgentRecord> {
    return this.call("POST", `/admin/v1/agents`, { body, headers }) as Promise<RegisteredAgentRecord>;
  }

  /** List the people who signed an agent in. */
  async listAgentPeople(clientId: string): Promise<AgentUsers> {
    return this.call("GET", `/admin/v1/agents/${pathPart(clientId)}/people`) as Promise<AgentUsers>;
  }

  /** Show one agent. */
  async getAgent(clientId: string): Promise<AgentRecord> {
    return this.call("GET", `/admin/v1/agents/${pathPart(clientId)}`) as Promise<AgentRecord>;
  }

  /** Set how an agent receives upstream tokens. */
  async changeAgent(clientId: string, body: AgentChange): Promise<AgentRecord> {
    return this.call("PATCH", `/admin/v1/agents/${pathPart(clientId)}`, { body }) as Promise<AgentRecord>;
  }

  /** Remove an agent for everyone: its grants, tokens, and permissions end at the next call. */
  async removeAgent(clientId: string): Promise<void> {
    await this.call("DELETE", `/admin/v1/agents/${pathPart(clientId)}`);
  }

  /** List your own APIs: audiences of access tokens. */
  async listApis(): Promise<Apis> {
    return this.call("GET", `/admin/v1/apis`) as Promise<Apis>;
  }

  /** Show one API. */
  async getApi(resource: string): Promise<ApiRecord> {
    return this.call("GET", `/admin/v1/apis/${pathPart(resource)}`) as Promise<ApiRecord>;
  }

  /** Register an API, or change one. `clients` replaces the list of the API's clients. */
  async saveApi(resource: string, body: ApiDefinition): Promise<ApiRecord> {
    return this.call("PUT", `/admin/v1/apis/${pathPart(resource)}`, { body }) as Promise<ApiRecord>;
  }

  /** Remove an API and revoke every grant for it. */
  async removeApi(resource: string): Promise<void> {
    await this.call("DELETE", `/admin/v1/apis/${pathPart(resource)}`);
  }

  /** List providers, and the state of those that are set up. */
  async listProviders(query: { find?: string; set_up?: boolean } = {}): Promise<Providers> {
    return this.call("GET", `/admin/v1/providers`, { query }) as Promise<Providers>;
  }

  /** Show one provider: what to enter at its console, and our registration there. Never its secret. */
  async getProvider(provider: string): Promise<ProviderDetails> {
    return this.call("GET", `/admin/v1/providers/${pathPart(provider)}`) as Promise<ProviderDetails>;
  }

  /** Set up a provider, or change its registration. Every process uses it within seconds. */
  async saveRegistration(provider: string, body: ProviderRegistration, headers: { "If-Match"?: string } = {}): Promise<ProviderDetails> {
    return this.call("PUT", `/admin/v1/providers/${pathPart(provider)}/registration`, { body, headers }) as Promise<ProviderDetails>;
  }

  /** Remove our registration and destroy its secret. */
  async removeRegistration(provider: string, headers: { "If-Match"?: string } = {}): Promise<void> {
    await this.call("DELETE", `/admin/v1/providers/${pathPart(provider)}/registration`, { headers });
  }

  /** Ask the provider whether it knows our registration. Nothing is changed there. */
  async testProvider(provider: string): Promise<ProviderTest> {
    return this.call("POST", `/admin/v1/providers/${pathPart(provider)}/test`) as Promise<ProviderTest>;
  }

  /** List the tools that agents can have. */
  async listTools(): Promise<Tools> {
    return this.call("GET", `/admin/v1/tools`) as Promise<Tools>;
  }

  /** List the tool sets that agents can be offered. */
  async listToolSets(): Promise<ToolSets> {
    return this.call("GET", `/admin/v1/tool-sets`) as Promise<ToolSets>;
  }

  /** List the MCP servers behind the vault. */
  async listMcpServers(): Promise<McpServers> {
    return this.call("GET", `/admin/v1/mcp-servers`) as Promise<McpServers>;
  }

  /** Put an MCP server behind the vault. Its tools can be called once you accept them. */
  async addMcpServer(body: NewMcpServer): Promise<McpServerRecord> {
    return this.call("POST", `/admin/v1/mcp-servers`, { body }) as Promise<McpServerRecord>;
  }

  /** Show a server's tools in its own words: what is new, changed, or gone. Untrusted text. */
  async reviewMcpServer(provider: string): Promise<McpReview> {
    return this.call("GET", `/admin/v1/mcp-servers/${pathPart(provider)}/review`) as Promise<McpReview>;
  }

  /** Decide about the reviewed tools: accept them with an effect, or leave them out. */
  async decideMcpTools(provider: string, body: McpDecisions): Promise<AcceptedMcpTools> {
    return this.call("POST", `/admin/v1/mcp-servers/${pathPart(provider)}/decisions`, { body }) as Promise<AcceptedMcpTools>;
  }

  /** Disable or enable a server. Accounts, permissions, and decisions stay. */
  async changeMcpServer(provider: string, body: McpServerChange): Promise<McpServerRecord> {
    return this.call("PATCH", `/admin/v1/mcp-servers/${pathPart(provider)}`, { body }) as Promise<McpServerRecord>;
  }

  /** Remove a server to which no account is connected. */
  async removeMcpServer(provider: string): Promise<void> {
    await this.call("DELETE", `/admin/v1/mcp-servers/${pathPart(provider)}`);
  }

  /** Disconnect every account from a server and revoke it there, with receipts. */
  async disconnectMcpServer(provider: string): Promise<DisconnectedAccounts> {
    return this.call("DELETE", `/admin/v1/mcp-servers/${pathPart(provider)}/accounts`) as Promise<DisconnectedAccounts>;
  }

  /** List the imported APIs. */
  async listImportedApis(): Promise<ImportedApis> {
    return this.call("GET", `/admin/v1/imported-apis`) as Promise<ImportedApis>;
  }

  /** Import a description of an API. None of its tools can be called until you accept them. */
  async importApi(body: NewImport): Promise<ImportedApiRecord> {
    return this.call("POST", `/admin/v1/imported-apis`, { body }) as Promise<ImportedApiRecord>;
  }

  /** Show the tools in the description's words: what is new, changed, or gone. Untrusted text. */
  async reviewImportedApi(provider: string): Promise<ImportReview> {
    return this.call("GET", `/admin/v1/imported-apis/${pathPart(provider)}/review`) as Promise<ImportReview>;
  }

  /** Turn on the tools of the waiting import as reviewed, or change earlier decisions. */
  async decideImportedTools(provider: string, body: ImportDecisions): Promise<AcceptedImport> {
    return this.call("POST", `/admin/v1/imported-apis/${pathPart(provider)}/decisions`, { body }) as Promise<AcceptedImport>;
  }

  /** Discard the waiting import. Tools accepted before stay on. */
  async discardImport(provider: string, query: { digest: string }): Promise<void> {
    await this.call("DELETE", `/admin/v1/imported-apis/${pathPart(provider)}/waiting`, { query });
  }

  /** Remove an API to which no account is connected. */
  async removeImportedApi(provider: string): Promise<void> {
    await this.call("DELETE", `/admin/v1/imported-apis/${pathPart(provider)}`);
  }

  /** List what people and agents did, newest first. */
  async listEvents(query: { limit?: number; cursor?: string; person?: string; agent?: string; connection?: string; kind?: string; outcome?: "" | "ok" | "refused" | "failed"; since?: string; until?: string } = {}): Promise<EventsPage> {
    return this.call("GET", `/admin/v1/activity`, { query }) as Promise<EventsPage>;
  }

  /** Export the activity as JSON lines or CSV, newest first. It is streamed. */
  async exportEvents(query: { person?: string; agent?: string; connection?: string; kind?: string; outcome?: "" | "ok" | "refused" | "failed"; since?: string; until?: string; format?: "jsonl" | "csv" } = {}): Promise<string> {
    return this.call("GET", `/admin/v1/activity/export`, { query }) as Promise<string>;
  }

  /** Get the proof (C2SP tlog-proof) that an event is in the signed activity. */
  async getEventProof(sequence: number): Promise<string> {
    return this.call("GET", `/admin/v1/activity/${pathPart(sequence)}/proof`) as Promise<string>;
  }

  /** Get the newest signed checkpoint of the activity (C2SP tlog-checkpoint). */
  async getCheckpoint(): Promise<string> {
    return this.call("GET", `/admin/v1/activity/checkpoint`) as Promise<string>;
  }

  /** List the public keys of the log over the activity. */
  async listActivityKeys(): Promise<LogKeys> {
    return this.call("GET", `/admin/v1/activity/keys`) as Promise<LogKeys>;
  }

  /** List the endpoints that get events about accounts. */
  async listWebhooks(): Promise<WebhookList> {
    return this.call("GET", `/admin/v1/webhooks`) as Promise<WebhookList>;
  }

  /** Add an endpoint. Its secret is returned once. */
  async addWebhook(body: NewEndpoint): Promise<AddedEndpoint> {
    return this.call("POST", `/admin/v1/webhooks`, { body }) as Promise<AddedEndpoint>;
  }

  /** Remove an endpoint and its waiting events. */
  async removeWebhook(webhookId: string): Promise<void> {
    await this.call("DELETE", `/admin/v1/webhooks/${pathPart(webhookId)}`);
  }

  /** Disable or enable an endpoint. What happens while it is disabled isn't kept for it. */
  async changeWebhook(webhookId: string, body: EndpointChange): Promise<EndpointRecord> {
    return this.call("PATCH", `/admin/v1/webhooks/${pathPart(webhookId)}`, { body }) as Promise<EndpointRecord>;
  }

  /** Sign with a new secret, which is returned once; the old one also signs for a while. */
  async rotateWebhookSecret(webhookId: string, body: RotationOptions): Promise<RotatedSecret> {
    return this.call("POST", `/admin/v1/webhooks/${pathPart(webhookId)}/secrets`, { body }) as Promise<RotatedSecret>;
  }

  /** Send an event of the type `token_vault.test` now. */
  async testWebhook(webhookId: string): Promise<TestResult> {
    return this.call("POST", `/admin/v1/webhooks/${pathPart(webhookId)}/test`) as Promise<TestResult>;
  }

  /** List the events that endpoints didn't accept in all attempts. */
  async listWebhookFailures(): Promise<FailedEvents> {
    return this.call("GET", `/admin/v1/webhook-failures`) as Promise<FailedEvents>;
  }

  /** Send failed events again, even after the endpoint answered 410. */
  async resendWebhook(webhookId: string, body: ResendOptions): Promise<ResentEvents> {
    return this.call("POST", `/admin/v1/webhooks/${pathPart(webhookId)}/resend`, { body }) as Promise<ResentEvents>;
  }

  /** Make people, agents, APIs, providers, and the rest match a declaration. Repeating it changes nothing. */
  async applyDeclaration(body: Declaration, query: { plan?: boolean; prune?: boolean } = {}): Promise<AppliedRecord> {
    return this.call("POST", `/admin/v1/apply`, { query, body }) as Promise<AppliedRecord>;
  }
}
