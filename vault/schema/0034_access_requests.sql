-- What a person asks of others, and what these allowed until when: of a group's account beyond its rule (`account`), a
-- group's accounts (`group`), and an agent that a company's rules don't let in for this person (`company`). `state`:
-- 1 pending, 2 allowed, 3 denied, 4 ending, 5 ended.

create table access_requests (
    tenant text not null,
    id text not null,
    user_id text not null,
    client_id text not null,
    kind text not null,
    target text not null,
    group_id text not null,
    scopes text not null,
    reason text not null,
    lifetime bigint not null,
    filed_by text not null,
    state bigint not null,
    created_at bigint not null,
    expires_at bigint not null,
    decided_at bigint,
    decided_by text,
    answer text not null default '',
    made_permission bigint not null default 0,
    ended_at bigint,
    ended_reason text,
    primary key (tenant, id)
);
create unique index access_requests_pending on access_requests (tenant, user_id, client_id, kind, target)
    where state = 1;
create unique index access_requests_allowed on access_requests (tenant, user_id, client_id, kind, target)
    where state = 2;
create index access_requests_due on access_requests (tenant, state, expires_at, id);
create index access_requests_newest on access_requests (tenant, created_at, id);
create index access_requests_user on access_requests (tenant, user_id, created_at);
create index access_requests_client on access_requests (tenant, client_id, target);
create index access_requests_decided on access_requests (tenant, decided_by) where decided_by is not null;

-- Who answers for a group beside administrators.

create table group_managers (
    tenant text not null,
    group_id text not null,
    user_id text not null,
    created_at bigint not null,
    primary key (tenant, user_id, group_id)
);
create index group_managers_group on group_managers (tenant, group_id, user_id);
