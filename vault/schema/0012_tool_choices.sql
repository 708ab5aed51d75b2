-- Which tool set a person chose for one of their agents. The sets are the operator's: only the name is stored.

create table tool_choices (
    tenant text not null,
    user_id text not null,
    client_id text not null,
    tool_set text not null,
    changed_at bigint not null,
    primary key (tenant, user_id, client_id)
);

create index tool_choices_client on tool_choices (tenant, client_id);
