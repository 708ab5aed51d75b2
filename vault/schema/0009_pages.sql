-- Which end of its grant was announced last; and the orders in which ends, agents and admins are read, a page at a time,
-- however many come in one second. `connections_idle_end` and `connections_age_end` are left for a program that knows
-- schema 8.

alter table connections add column announced_end bigint;

create index connections_idle_order on connections (tenant, idle_expires_at, id)
    where idle_expires_at is not null and ended_at is null;
create index connections_age_order on connections (tenant, grant_expires_at, id)
    where grant_expires_at is not null and ended_at is null;
create index clients_age on clients (tenant, created_at, id) where removed_at is null;
create index users_admins on users (tenant, name_key) where is_admin = 1;
