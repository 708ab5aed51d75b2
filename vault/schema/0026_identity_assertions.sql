-- Connections that identity assertions renew instead of a refresh token: the connection to the identity provider.

alter table connections add column renewed_by text;
