-- The name under which agents know an accepted tool of an MCP server: given once, so that no other tool can get it, and
-- with it what people allowed. `is_retired`: the server stopped offering it, and an operator knows; the name stays taken.

alter table mcp_tools add column shown text;
alter table mcp_tools add column is_retired bigint not null default 0;
create unique index mcp_tools_shown on mcp_tools (tenant, server, shown);
