"""The commands of `provision environments`: one module each, and their group."""
