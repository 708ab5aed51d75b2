-- When the last access token of a grant ends that nothing else keeps: the upkeep then ends the grant.
alter table grants add column ends_at bigint;
create index grants_ends on grants (tenant, ends_at) where ends_at is not null and revoked_at is null;
