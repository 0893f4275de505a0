"""The Docker Engine of this machine: it builds the lab image and pushes it."""
