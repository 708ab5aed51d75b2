-- What a person is here beside `is_admin`, which the release before reads: `owner`, `administrator` or `auditor`. Null
-- with `is_admin` is an owner, as every admin before was.

alter table users add column role text;
