"""The same PyTorch GPU environment on every machine of a lab: picked, pinned, rolled out, verified, undone."""
