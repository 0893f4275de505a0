"""Which image each node of a lab gets, why not the others, and what would change that."""
