"""A seat and its compose project: from values to the files on a node, and the proof of what they say."""
