"""What the admin asks of the broker of a node: verbs of root, the use of GPUs, and the question itself."""
