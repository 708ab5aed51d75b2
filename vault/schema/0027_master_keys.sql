-- The master keys of this vault, so that one can follow another while it serves, and which of them each process holds.

create table keys.masters (
    id text not null primary key,
    state text not null,
    check_value bytea not null,
    wrapped bytea,
    described text not null,
    created_at bigint not null,
    current_at bigint,
    retired_at bigint,
    uses bigint not null default 0
);

alter table replicas add column master_keys text;
