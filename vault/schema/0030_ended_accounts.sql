-- Ended connections of one account at a provider, whosever they were: what waits for the end of its newest grant.

create index connections_ended_account on connections (tenant, provider, account) where ended_at is not null;
