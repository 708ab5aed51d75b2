"""Programs that write parts of the repository, from versioned published descriptions or from the product."""
