"""The commands of `provision seats`: one module each, and their group."""
