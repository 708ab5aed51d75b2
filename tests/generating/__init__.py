"""Programs that write data into the repository from other projects' published descriptions, with their version."""
