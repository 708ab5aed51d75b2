-- The keyed head of the activity, and the checkpoints of its segments. See FORMATS.md, "Activity".

alter table event_heads add column keyed bytea;
alter table event_heads add column previous_hash bytea;
alter table event_batches add column tag bytea;

create table event_checkpoints (
    tenant text not null,
    first_height bigint not null,
    height bigint not null,
    first_sequence bigint not null,
    sequence bigint not null,
    first_at bigint not null,
    last_at bigint not null,
    sealed bytea not null,
    pruned_at bigint,
    primary key (tenant, first_height)
);
create index event_checkpoints_kept on event_checkpoints (tenant, first_height) where pruned_at is null;

-- Where the vault's key was first used; apart from what it vouches for.

create table keys.event_starts (
    tenant text not null primary key,
    height bigint not null,
    sequence bigint not null,
    created_at bigint not null
);
