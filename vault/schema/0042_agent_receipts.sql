-- Provider tokens that agents were given, for each account the one that lives longest; receipts of ended agents.

create table released_tokens (
    tenant text not null,
    client_id text not null,
    user_id text not null,
    connection_id text not null,
    token_hash text not null,
    released_at bigint not null,
    expires_at bigint,
    primary key (tenant, client_id, user_id, connection_id)
);
create index released_tokens_over on released_tokens (tenant, expires_at);
create index released_tokens_connection on released_tokens (tenant, connection_id);

create table agent_receipts (
    tenant text not null,
    client_id text not null,
    user_id text not null,
    connection_id text not null,
    ended_at bigint not null,
    provider text not null,
    token_hash text,
    released_at bigint,
    expires_at bigint,
    id text,
    reason text,
    issued_at bigint,
    receipt text,
    primary key (tenant, client_id, user_id, connection_id, ended_at)
);
create index agent_receipts_owed on agent_receipts (tenant, ended_at) where receipt is null;
create index agent_receipts_id on agent_receipts (tenant, id);
create index agent_receipts_time on agent_receipts (tenant, issued_at);
