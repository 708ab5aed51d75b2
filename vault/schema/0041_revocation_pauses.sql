-- Pauses of providers, each in one row instead of in all revocations that wait there.

create table revocation_pauses (
    tenant text not null,
    provider text not null,
    paused_until bigint not null,
    primary key (tenant, provider)
);
