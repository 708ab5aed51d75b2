-- Which rules of the operator each process uses, so that a difference between processes can be seen.

alter table replicas add column policy text;
