-- APIs that an operator imported from a description: what waits for an admin, and what an admin accepted.

create table imported_apis (
    tenant text not null,
    name text not null,
    offered text,
    offered_at bigint not null,
    offered_by text not null,
    accepted text,
    accepted_at bigint,
    accepted_by text,
    primary key (tenant, name)
);
