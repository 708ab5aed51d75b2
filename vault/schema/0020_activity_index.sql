-- A person's events by one index instead of three: a commit then writes one page of it for each person, not three. What
-- the activity is filtered by stands in it, so looking for one agent or account reads entries of the index only.

create index events_person on events (tenant, user_id, sequence, client_id, connection_id);
drop index events_user;
drop index events_agent;
drop index events_account;
