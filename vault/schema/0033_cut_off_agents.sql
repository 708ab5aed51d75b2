-- When the person cut the agent off, which stands beside an admin's end and outlasts it.

alter table company_permissions add column cut_off_at bigint;
