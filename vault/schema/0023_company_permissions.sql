-- What a company's identity provider lets an agent do for a person, until when, and whether the person ended it.

create table company_permissions (
    tenant text not null,
    user_id text not null,
    client_id text not null,
    company text not null,
    scopes text not null,
    accounts text not null,
    given text not null default '{}',
    created_at bigint not null,
    renewed_at bigint not null,
    expires_at bigint not null,
    ended_at bigint,
    ended_reason text,
    primary key (tenant, user_id, client_id, company)
);
create index company_permissions_client on company_permissions (tenant, client_id);
