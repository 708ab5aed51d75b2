-- Removed agents; what strangers left, apart from the codes that were redeemed within a day; and what concerns nobody but
-- the vault itself, such as a restore: a few among millions of events.

create index clients_removed on clients (tenant, removed_at) where removed_at is not null;
create index tickets_of_strangers on tickets (tenant, expires_at) where user_id is null and outcome is null;
create index events_of_vault on events (tenant, at)
    where user_id is null and client_id is null and connection_id is null;
