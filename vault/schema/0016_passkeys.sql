-- Passkeys of people, and what a person sees of each browser in which they are signed in: how they signed in there, when a
-- passkey (or the company's sign-in with several factors) last proved that it was them, the kind of browser, its network.

create table passkeys (
    tenant text not null,
    id text not null,
    user_id text not null,
    credential_id bytea not null,
    public_key bytea not null,
    sign_count bigint not null,
    is_synced bigint not null,
    name text not null,
    created_at bigint not null,
    used_at bigint,
    primary key (tenant, id)
);
create unique index passkeys_credential on passkeys (tenant, credential_id);
create index passkeys_user on passkeys (tenant, user_id);

alter table sessions add column method text;
alter table sessions add column device text;
alter table sessions add column network text;
alter table sessions add column proved_at bigint;
