"""The commands of `provision registry`."""
