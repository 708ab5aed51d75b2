-- When the newest consent of an account was answered, in milliseconds: of two that come at once the newer one counts.

alter table connections add column consented_ms bigint;

-- Consents whose answer is not stored yet, and revocations that were done lately.

create index tickets_unfinished on tickets (tenant, purpose, consumed_at)
    where consumed_at is not null and outcome is null;
create index upstream_revocations_done on upstream_revocations (tenant, done_at) where done_at is not null;

-- People who were deleted, until their last grant is ended at its provider; then their key is destroyed.

create table deletions (
    tenant text not null,
    user_id text not null,
    name text not null,
    requested_at bigint not null,
    primary key (tenant, user_id)
);
