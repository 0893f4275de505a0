"""A seat and its compose project: the rendered files of a node, and the proof of what they contain."""
