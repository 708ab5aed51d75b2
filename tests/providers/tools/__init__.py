"""Tools at the providers, coded and declared: their files, schemas, arguments, answers, and the search for them."""
