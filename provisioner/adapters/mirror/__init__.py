"""What a mirror has besides its registry: its feed, its wheels, its profile, and the history of past checks."""
