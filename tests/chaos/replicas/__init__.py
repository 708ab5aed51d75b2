"""Two servers of one vault: restarted, upgraded, given a new master key, or with clocks that disagree."""
