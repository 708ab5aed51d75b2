-- What reaches a person outside the pages: when and where to, and what is on its way. `due_at` is null once that is over.

create table notice_settings (
    tenant text not null,
    user_id text not null,
    zone text not null,
    language text not null,
    quiet_from bigint,
    quiet_until bigint,
    digest_at bigint not null,
    kinds text not null,
    primary key (tenant, user_id)
);

create table notice_channels (
    tenant text not null,
    id text not null,
    user_id text not null,
    kind text not null,
    label text not null,
    sealed bytea not null,
    created_at bigint not null,
    confirmed_at bigint,
    sent_at bigint,
    failed_at bigint,
    failure text,
    held_until bigint,
    primary key (tenant, id)
);
create index notice_channels_user on notice_channels (tenant, user_id);

create table notices (
    tenant text not null,
    channel_id text not null,
    sequence bigint not null,
    user_id text not null,
    kind text not null,
    state text not null,
    attempts bigint not null,
    created_at bigint not null,
    expires_at bigint not null,
    due_at bigint,
    primary key (tenant, channel_id, sequence)
);
create index notices_due on notices (tenant, due_at) where due_at is not null;
create index notices_age on notices (tenant, created_at);
create index notices_user on notices (tenant, user_id);

create table notice_feeds (
    tenant text not null primary key,
    sequence bigint not null
);
