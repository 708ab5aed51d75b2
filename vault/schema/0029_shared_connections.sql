-- Connections that belong to a group: `connections.user_id` is then the group's id, under whose own key they are sealed.
-- What its members' agents can have of one at most, and what their person is asked about each time.

create table shared_connections (
    tenant text not null,
    connection_id text not null,
    group_id text not null,
    scopes text not null,
    ask text not null,
    given_by text not null,
    given_at bigint not null,
    primary key (tenant, connection_id)
);
create index shared_connections_group on shared_connections (tenant, group_id);
