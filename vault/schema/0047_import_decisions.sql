-- All tools of the import that an admin decided about, those that were left out, too: decisions can change later.

alter table imported_apis add column reviewed text;
