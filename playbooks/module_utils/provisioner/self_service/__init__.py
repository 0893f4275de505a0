"""Installing the broker on a node with what the admin has published, verifying it there, and removing it."""
