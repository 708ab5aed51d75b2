"""What tests stand on: rooms with a running vault, doubles of the outside, people, processes."""
