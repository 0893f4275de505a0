"""The commands of `provision registry`: one module each, and their group."""
