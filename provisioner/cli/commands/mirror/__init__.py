"""The commands of `provision mirror`."""
