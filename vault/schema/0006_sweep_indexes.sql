-- What the sweeps look for, so that a batch costs what it removes, whatever else there is.

create index sessions_expiry on sessions (tenant, expires_at);
create index sessions_ended on sessions (tenant, ended_at) where ended_at is not null;
create index limits_window on limits (window_start);
create index refresh_tokens_expiry on refresh_tokens (tenant, expires_at);
create index refresh_tokens_sealed on refresh_tokens (tenant, consumed_at) where successor_sealed is not null;
create index refresh_tokens_family on refresh_tokens (tenant, grant_id, family, generation);
create index clients_unused on clients (tenant, created_at) where last_used_at is null;
create index grants_ended on grants (tenant, revoked_at) where revoked_at is not null;
create index connections_ended on connections (tenant, ended_at) where ended_at is not null;
create index delegations_ended on delegations (tenant, revoked_at) where revoked_at is not null;

-- What a page or a request looks for.

create index connections_user on connections (tenant, user_id);
create index delegations_client on delegations (tenant, client_id);
create index clients_registered on clients (tenant, kind, created_at);
create index identities_user on identities (tenant, user_id);
