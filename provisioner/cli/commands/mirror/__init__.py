"""The commands of `provision mirror`: one module each, and their group."""
