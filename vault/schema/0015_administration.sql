-- Our registrations at providers that an administrator entered in the browser, and the processes that serve this vault.

create table provider_registrations (
    tenant text not null,
    provider text not null,
    revision text not null,
    client_id text not null,
    sealed bytea,
    inputs text not null,
    is_testing bigint not null default 0,
    changed_at bigint not null,
    changed_by text not null,
    primary key (tenant, provider)
);

create table replicas (
    tenant text not null,
    id text not null,
    host text not null,
    role text not null,
    version text not null,
    started_at bigint not null,
    seen_at bigint not null,
    failing text not null,
    providers text not null,
    primary key (tenant, id)
);

create index connections_provider on connections (tenant, provider) where ended_at is null;
