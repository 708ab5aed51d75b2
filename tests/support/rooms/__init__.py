"""Running vaults to test against: each with the people, accounts, agents and providers of one subject."""
