"""This machine's Docker Engine: builds the lab image and pushes it."""
