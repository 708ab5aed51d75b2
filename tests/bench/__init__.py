"""`make bench`: server CPU per tool call, side by side in one run, as ratios. Asserts nothing about time."""
