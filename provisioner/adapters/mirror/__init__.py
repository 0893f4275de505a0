"""A mirror beside its registry: its feed, its wheels, what was seen of it before."""
