-- Which channels have notices that are due, read from the index alone; an endpoint's address, which may hold a token, only
-- where it is sealed.

drop index notices_due;
create index notices_due_channels on notices (tenant, due_at, channel_id) where due_at is not null;

update notice_channels set label = '' where kind = 'endpoint';
