-- A person's own name for an account, shown on their pages.

alter table connections add column nickname text;
