-- When something began, for signals that arrive late: what began after their event stays. And looks at connections that
-- hints asked for, so that none is lost.

alter table users add column enabled_at bigint;
alter table identities add column signed_in_at bigint;
alter table sessions add column begun_at bigint;

create table looks (
    tenant text not null,
    connection_id text not null,
    asked bigint not null,
    tries bigint not null,
    due_at bigint,
    looked_at bigint,
    primary key (tenant, connection_id)
);
create index looks_due on looks (due_at) where due_at is not null;
create index looks_done on looks (looked_at) where due_at is null;
