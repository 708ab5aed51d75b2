-- What tells a client that repeats its refresh token from a thief, and families that end soon.

alter table refresh_tokens add column issued_to text;
alter table refresh_tokens add column superseded_at bigint;
alter table refresh_tokens add column moved_at bigint;
alter table refresh_tokens add column announced_end bigint;

create index refresh_tokens_superseded on refresh_tokens (tenant, consumed_at)
    where successor_sealed is not null and superseded_at is not null;
create index refresh_tokens_end on refresh_tokens (tenant, idle_expires_at, token_hash)
    where consumed_at is null and announced_end is null;
