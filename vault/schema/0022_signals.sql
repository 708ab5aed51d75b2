-- Signals. A person whose agents stand still until they sign in again where the signal came from, or an admin lets them
-- go on; the address by which an identity provider knows a person; endpoints of the operator's that hear what happens.

alter table users add column stopped_at bigint;
alter table users add column stopped_by text;

alter table identities add column email text;
create index identities_email on identities (tenant, issuer, email) where email is not null;

create index connections_at_provider on connections (tenant, provider, account, id) where ended_at is null;
drop index connections_provider;

alter table notice_channels add column events text;
alter table notices add column failure text;
create index notices_channel_state on notices (tenant, channel_id, state);
