-- Grants that wait for another one of their account are listed, and those that ended without a receipt, before there
-- were any, get one.

create index upstream_revocations_held on upstream_revocations (tenant, created_at)
    where done_at is null and next_at is null;

update upstream_revocations set owes_receipt = 1
where done_at is not null and outcome in ('given_up', 'unsupported', 'unreadable') and not exists (
    select 1 from revocation_receipts r
    where r.tenant = upstream_revocations.tenant and r.connection_id = upstream_revocations.connection_id
);
