"""The pictures of the pages, and the recordings of commands, for the documentation."""
