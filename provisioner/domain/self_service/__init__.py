"""Self-service of a node: its pool of GPUs, its configuration, and how these differ from what is installed."""
