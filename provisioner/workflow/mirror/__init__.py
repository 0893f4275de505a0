"""What a mirror has, whether it is fresh, and waiting for a tag."""
