"""Programs that write parts of the repository, from published descriptions with their version or from the product."""
