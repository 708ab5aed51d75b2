-- Which end of its grant was announced last; and the order in which they are, however many come in one second.
-- `connections_idle_end` and `connections_age_end` are left for a program that knows schema 8.

alter table connections add column announced_end bigint;

create index connections_idle_order on connections (tenant, idle_expires_at, id)
    where idle_expires_at is not null and ended_at is null;
create index connections_age_order on connections (tenant, grant_expires_at, id)
    where grant_expires_at is not null and ended_at is null;
