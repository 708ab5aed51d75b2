-- Answers that are sent themselves (OpenID CIBA Core 1.0 §10.3): what was issued, until the client has it. And the codes
-- without which a client that has to send one can't ask a person (§7.1).

alter table backchannel_pings add column issued bytea;

create table user_codes (
    tenant text not null,
    user_id text not null,
    code_hash text not null,
    changed_at bigint not null,
    primary key (tenant, user_id)
);
