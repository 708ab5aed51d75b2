-- MCP servers of others that an operator put behind the vault, and what each was seen to offer: only what an operator
-- accepted, in exactly that form, can be called.

create table mcp_servers (
    tenant text not null,
    name text not null,
    url text not null,
    title text not null,
    facts text not null,
    added_at bigint not null,
    added_by text not null,
    primary key (tenant, name)
);

create table mcp_tools (
    tenant text not null,
    server text not null,
    name text not null,
    seen text not null,
    seen_at bigint not null,
    seen_by text not null,
    is_absent bigint not null default 0,
    accepted text,
    effect text not null default 'delete',
    asks bigint not null default 1,
    accepted_at bigint,
    accepted_by text,
    primary key (tenant, server, name)
);
