-- Which end of its grant was announced last; and the orders in which ends that are not announced yet, agents and admins are
-- read, a page at a time, however many come in one second. `connections_age_end` is left for a program that knows schema 8.

alter table connections add column announced_end bigint;

create index connections_idle_order on connections (tenant, idle_expires_at, id)
    where idle_expires_at is not null and ended_at is null
        and (announced_end is null or announced_end <> idle_expires_at);
create index connections_age_order on connections (tenant, grant_expires_at, id)
    where grant_expires_at is not null and ended_at is null
        and (announced_end is null or announced_end <> grant_expires_at);
create index clients_age on clients (tenant, created_at, id) where removed_at is null;
create index users_admins on users (tenant, name_key) where is_admin = 1;
