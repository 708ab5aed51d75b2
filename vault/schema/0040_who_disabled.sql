-- What the directory disabled it can enable again; NULL: an administrator, a command, or a signal did.

alter table users add column disabled_by text;
