-- What an operator decided of MCP servers of others: a disabled one offers nothing; a tool that was left out waits for
-- nobody until it is seen in another form.

alter table mcp_servers add column is_disabled bigint not null default 0;
alter table mcp_tools add column is_left bigint not null default 0;
