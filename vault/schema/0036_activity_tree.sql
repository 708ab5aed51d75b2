-- The Merkle tree over the activity, its signed checkpoints, and how far each destination has them. See FORMATS.md,
-- "Tree and checkpoints".

create table event_tiles (
    tenant text not null,
    level bigint not null,
    number bigint not null,
    hashes bytea not null,
    primary key (tenant, level, number)
);

create table event_notes (
    tenant text not null,
    origin text not null,
    size bigint not null,
    created_at bigint not null,
    note text not null,
    stamp bytea,
    primary key (tenant, origin, size)
);

create table event_deliveries (
    tenant text not null,
    destination text not null,
    origin text not null,
    size bigint not null,
    delivered_at bigint,
    held_until bigint,
    failure text,
    primary key (tenant, destination)
);
