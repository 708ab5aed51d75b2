-- What the upkeep and the pages look for among a million connections.

create index delegations_connection on delegations (tenant, connection_id);
create index connections_idle_end on connections (tenant, idle_expires_at)
    where idle_expires_at is not null and ended_at is null;
create index connections_age_end on connections (tenant, grant_expires_at)
    where grant_expires_at is not null and ended_at is null;
create index upstream_revocations_due on upstream_revocations (tenant, next_at) where done_at is null;
create index upstream_revocations_user on upstream_revocations (tenant, user_id, created_at);
