-- What became of ended grants at their providers: one signed receipt each, the public keys that verify them, and ends of
-- many grants at once that some process still has to finish.

create table revocation_receipts (
    tenant text not null,
    connection_id text not null,
    user_id text not null,
    provider text not null,
    result text not null,
    reason text not null,
    is_final bigint not null,
    is_open bigint not null,
    issued_at bigint not null,
    settled_at bigint,
    settled_by text,
    receipt text not null,
    primary key (tenant, connection_id)
);
create index revocation_receipts_person on revocation_receipts (tenant, user_id, issued_at);
create index revocation_receipts_time on revocation_receipts (tenant, issued_at, connection_id);
create index revocation_receipts_open on revocation_receipts (tenant, issued_at, connection_id) where is_open = 1;

create table receipt_keys (
    tenant text not null,
    kid text not null,
    jwk text not null,
    first_used_at bigint not null,
    primary key (tenant, kid)
);

create table panics (
    tenant text not null,
    id text not null,
    kind text not null,
    subject text not null,
    requested_by text not null,
    requested_at bigint not null,
    done_at bigint,
    primary key (tenant, id)
);

alter table upstream_revocations add column owes_receipt bigint not null default 0;
create index upstream_revocations_owing on upstream_revocations (tenant, connection_id) where owes_receipt = 1;
create index upstream_revocations_provider on upstream_revocations (tenant, provider, next_at) where done_at is null;
