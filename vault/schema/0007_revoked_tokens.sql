-- Access tokens that were revoked while their grant lives on, beside the grant, and the token behind each handle.

alter table grants add column revoked_tokens text;

alter table handles add column token_id text;
