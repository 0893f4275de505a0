"""Images that are brought to the node before a rollout."""
