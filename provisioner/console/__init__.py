"""Values to text for a terminal: one module for each document."""
