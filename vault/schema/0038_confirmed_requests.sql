-- When the person confirmed a request: one that their agent filed gives nothing before that.

alter table access_requests add column confirmed_at bigint;
update access_requests set confirmed_at = created_at where filed_by <> 'agent';
