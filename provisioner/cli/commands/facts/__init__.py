"""The commands of `provision facts`: one module each, and their group."""
