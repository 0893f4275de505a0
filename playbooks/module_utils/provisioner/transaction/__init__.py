"""Changes of a seat: stage, switch, verify, roll back, recover, remove."""
