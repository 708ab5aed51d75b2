"""Two servers of one vault: restarted, upgraded, rekeyed, or with clocks that disagree."""
