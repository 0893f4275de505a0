"""Small immutable values that every other room uses: versions, references, problems, events, nodes, images."""
