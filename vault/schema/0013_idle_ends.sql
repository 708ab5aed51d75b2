-- The grants of one provider in the order in which it ends them as unused: only those that may be kept alive are read, a page
-- at a time. `connections_idle_end` is left for a program that knows schema 12.

create index connections_provider_idle on connections (tenant, provider, idle_expires_at, id)
    where idle_expires_at is not null and ended_at is null;
