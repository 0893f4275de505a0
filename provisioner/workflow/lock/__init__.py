"""From a mirror and the nodes to a new lock."""
