"""Check what a mirror has, compare it with its upstream, and wait for a tag."""
