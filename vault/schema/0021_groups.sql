-- Groups of people, by which source somebody is in one and until when, and what a company's directory (SCIM) says of people.

create table people_groups (
    tenant text not null,
    id text not null,
    name text not null,
    name_key text not null,
    external_id text,
    is_provisioned bigint not null default 0,
    created_at bigint not null,
    changed_at bigint not null,
    primary key (tenant, id)
);
create unique index people_groups_name on people_groups (tenant, name_key);
create index people_groups_external on people_groups (tenant, external_id) where external_id is not null;

create table memberships (
    tenant text not null,
    group_id text not null,
    user_id text not null,
    source text not null,
    created_at bigint not null,
    expires_at bigint,
    primary key (tenant, group_id, user_id, source)
);
create index memberships_user on memberships (tenant, user_id, source, group_id);

create table provisioned_people (
    tenant text not null,
    user_id text not null,
    user_name text not null,
    user_name_key text not null,
    external_id text,
    attributes text not null,
    created_at bigint not null,
    changed_at bigint not null,
    primary key (tenant, user_id)
);
create unique index provisioned_people_name on provisioned_people (tenant, user_name_key);
create index provisioned_people_external on provisioned_people (tenant, external_id) where external_id is not null;

create table directory_tokens (
    tenant text not null,
    name text not null,
    token_hash bytea not null,
    created_at bigint not null,
    expires_at bigint,
    used_at bigint,
    previous_hash bytea,
    previous_until bigint,
    primary key (tenant, name)
);
create unique index directory_tokens_hash on directory_tokens (tenant, token_hash);
create index directory_tokens_previous on directory_tokens (tenant, previous_hash) where previous_hash is not null;
