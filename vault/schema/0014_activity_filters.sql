-- A person's events of one agent, and of one account: what the activity is filtered by.

create index events_agent on events (tenant, user_id, client_id, sequence) where client_id is not null;
create index events_account on events (tenant, user_id, connection_id, sequence) where connection_id is not null;
