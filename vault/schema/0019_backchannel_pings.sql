-- Answers to requests whose client wants to be told (OpenID CIBA Core 1.0 §10.2): what is still to be sent.

create table backchannel_pings (
    tenant text not null,
    approval_id text not null,
    attempts bigint not null,
    due_at bigint not null,
    primary key (tenant, approval_id)
);
create index backchannel_pings_due on backchannel_pings (tenant, due_at);
