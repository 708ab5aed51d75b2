-- Main store. One text for SQLite and PostgreSQL: text, bigint, bytea (SQLite keeps blobs as they are under any name).
-- Scopes are sorted, space separated; JSON is canonical text; hashes are SHA-256.

create table users (
    tenant text not null,
    id text not null,
    name text not null,
    name_key text not null,
    password_hash text,
    is_admin bigint not null default 0,
    created_at bigint not null,
    disabled_at bigint,
    primary key (tenant, id)
);
create unique index users_name on users (tenant, name_key);

create table identities (
    tenant text not null,
    issuer text not null,
    subject text not null,
    user_id text not null,
    created_at bigint not null,
    primary key (tenant, issuer, subject)
);

create table sessions (
    tenant text not null,
    token_hash bytea not null primary key,
    user_id text not null,
    created_at bigint not null,
    seen_at bigint not null,
    expires_at bigint not null,
    ended_at bigint
);
create index sessions_user on sessions (tenant, user_id);

create table clients (
    tenant text not null,
    id text not null,
    kind text not null,
    name text not null,
    auth_method text not null,
    redirect_uris text not null,
    grant_types text not null,
    resources text not null,
    secret_hash bytea,
    registration_hash bytea,
    metadata text not null,
    created_at bigint not null,
    last_used_at bigint,
    removed_at bigint,
    primary key (tenant, id)
);

create table apis (
    tenant text not null,
    resource text not null,
    name text not null,
    scopes text not null default '',
    created_at bigint not null,
    primary key (tenant, resource)
);

create table api_clients (
    tenant text not null,
    resource text not null,
    client_id text not null,
    created_at bigint not null,
    primary key (tenant, resource, client_id)
);

create table grants (
    tenant text not null,
    id text not null,
    user_id text not null,
    client_id text not null,
    scopes text not null,
    resource text not null,
    redirect_uri text not null,
    derived_from text not null default '',
    created_at bigint not null,
    revoked_at bigint,
    revoked_reason text,
    primary key (tenant, id)
);
create index grants_client on grants (tenant, user_id, client_id);
create index grants_of_client on grants (tenant, client_id);
create index grants_derived on grants (tenant, derived_from);

create table refresh_tokens (
    tenant text not null,
    token_hash bytea not null primary key,
    grant_id text not null,
    client_id text not null,
    family text not null,
    generation bigint not null,
    scopes text not null,
    resource text not null,
    issued_at bigint not null,
    expires_at bigint not null,
    idle_expires_at bigint not null,
    consumed_at bigint,
    successor_hash bytea,
    successor_sealed bytea,
    key_thumbprint text
);
create index refresh_tokens_grant on refresh_tokens (tenant, grant_id);

create table tickets (
    tenant text not null,
    ticket_hash bytea not null primary key,
    purpose text not null,
    payload bytea not null,
    user_id text,
    client_id text,
    binding bytea,
    created_at bigint not null,
    expires_at bigint not null,
    consumed_at bigint,
    outcome text
);
create index tickets_expiry on tickets (expires_at);

create table connections (
    tenant text not null,
    id text not null,
    user_id text not null,
    provider text not null,
    account text not null,
    label text not null,
    scopes text not null,
    state text not null,
    reason text,
    generation bigint not null,
    refresh_sealed bytea,
    access_sealed bytea,
    access_generation bigint not null default 0,
    access_expires_at bigint,
    grant_expires_at bigint,
    idle_expires_at bigint,
    metadata text not null,
    lease_owner text,
    lease_until bigint,
    fence bigint not null default 0,
    created_at bigint not null,
    refreshed_at bigint,
    ended_at bigint,
    primary key (tenant, id)
);
create unique index connections_account on connections (tenant, user_id, provider, account) where ended_at is null;

create table intents (
    tenant text not null,
    connection_id text not null,
    owner text not null,
    generation bigint not null,
    sent_at bigint not null,
    sends bigint not null default 1,
    settled_at bigint,
    primary key (tenant, connection_id, owner)
);

create table narrowed_tokens (
    tenant text not null,
    connection_id text not null,
    scope_key text not null,
    generation bigint not null,
    sealed bytea not null,
    issued_at bigint not null,
    expires_at bigint not null,
    primary key (tenant, connection_id, scope_key)
);

create table delegations (
    tenant text not null,
    user_id text not null,
    client_id text not null,
    connection_id text not null,
    scopes text not null,
    created_at bigint not null,
    changed_at bigint not null,
    expires_at bigint,
    revoked_at bigint,
    ask text not null default '',
    is_default bigint not null default 0,
    primary key (tenant, user_id, client_id, connection_id)
);

create table approvals (
    tenant text not null,
    id text not null,
    user_id text not null,
    client_id text not null,
    connection_id text not null,
    tool text not null,
    digest bytea not null,
    payload bytea not null,
    state text not null,
    created_at bigint not null,
    expires_at bigint not null,
    decided_at bigint,
    consumed_at bigint,
    consumed_by text,
    primary key (tenant, id)
);
create index approvals_call on approvals (tenant, user_id, client_id, digest);
create index approvals_expiry on approvals (expires_at);

create table handles (
    tenant text not null,
    handle_hash bytea not null primary key,
    user_id text not null,
    client_id text not null,
    grant_id text not null,
    actors text not null,
    connection_id text not null,
    provider text not null,
    scopes text not null,
    key_thumbprint text,
    issued_at bigint not null,
    expires_at bigint not null
);
create index handles_expiry on handles (expires_at);

create table upstream_revocations (
    tenant text not null,
    connection_id text not null primary key,
    user_id text not null,
    provider text not null,
    sealed bytea,
    attempts bigint not null,
    outcome text not null,
    next_at bigint,
    created_at bigint not null,
    done_at bigint
);

create table seen (
    purpose text not null,
    value_hash bytea not null,
    expires_at bigint not null,
    primary key (purpose, value_hash)
);
create index seen_expiry on seen (expires_at);

create table limits (
    bucket text not null,
    window_start bigint not null,
    spent bigint not null,
    primary key (bucket, window_start)
);

create table events (
    tenant text not null,
    sequence bigint not null,
    at bigint not null,
    kind text not null,
    outcome text not null,
    user_id text,
    client_id text,
    connection_id text,
    details text not null,
    primary key (tenant, sequence)
);
create index events_user on events (tenant, user_id, sequence);

create table event_batches (
    tenant text not null,
    height bigint not null,
    first_sequence bigint not null,
    last_sequence bigint not null,
    previous_hash bytea not null,
    hash bytea not null,
    at bigint not null,
    primary key (tenant, height)
);

create table event_heads (
    tenant text not null primary key,
    height bigint not null,
    sequence bigint not null,
    hash bytea not null
);

-- Key store, kept apart: `keys` is an attached file on SQLite and a schema of its own on PostgreSQL.

create table keys.ring (
    id text not null primary key,
    purpose text not null,
    sealed bytea not null,
    kek_id text not null,
    created_at bigint not null,
    active_at bigint not null,
    retired_at bigint
);

create table keys.user_keys (
    tenant text not null,
    user_id text not null,
    wrapped bytea not null,
    kek_id text not null,
    created_at bigint not null,
    primary key (tenant, user_id)
);

create table keys.connection_keys (
    tenant text not null,
    connection_id text not null,
    salt bytea not null,
    created_at bigint not null,
    primary key (tenant, connection_id)
);
