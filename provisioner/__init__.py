"""The same PyTorch GPU environment on every machine of a lab: selected, locked, rolled out, verified, rolled back."""
