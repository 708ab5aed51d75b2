-- Each attempt to refresh has a fence of its own, in the lease and in the intent; a token that met silence has a pause.

alter table intents add column fence bigint;

alter table connections add column retry_at bigint;
