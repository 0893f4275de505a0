"""The command `provision` of a node, for everybody: it asks the broker for a person's own seat."""
