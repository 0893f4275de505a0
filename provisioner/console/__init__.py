"""Render values as text for a terminal: one module for each document."""
