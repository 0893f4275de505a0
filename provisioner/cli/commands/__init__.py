"""The verbs of `provision`: one module each, or a package for a verb with its own commands."""
