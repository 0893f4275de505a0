"""Choose images for the probed nodes and pin them in a new lock."""
