-- A person's yes that stands for some calls a day until a date, how much of it is used, and answers that suggest one.

create table standing_approvals (
    tenant text not null,
    user_id text not null,
    client_id text not null,
    connection_id text not null,
    digest bytea not null,
    id text not null,
    tool text not null,
    payload bytea not null,
    per_day bigint not null,
    day bigint not null,
    used bigint not null,
    created_at bigint not null,
    expires_at bigint not null,
    revoked_at bigint,
    primary key (tenant, user_id, client_id, connection_id, digest)
);

create unique index standing_approvals_id on standing_approvals (tenant, id);
create index standing_approvals_expiry on standing_approvals (tenant, expires_at);

create table approval_answers (
    tenant text not null,
    user_id text not null,
    client_id text not null,
    connection_id text not null,
    digest bytea not null,
    approved bigint not null,
    changed_at bigint not null,
    primary key (tenant, user_id, client_id, connection_id, digest)
);

create index approval_answers_changed on approval_answers (tenant, changed_at);
