-- Dynamic registrations at MCP servers of others: when the secret ends, and where and by which token it is renewed.

alter table provider_registrations add column secret_ends_at bigint;
alter table provider_registrations add column sealed_renewal bytea;
alter table provider_registrations add column renewing_at bigint;
