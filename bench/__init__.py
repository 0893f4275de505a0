"""Benchmarks, run by hand. Their recorded results are in the Markdown files."""
