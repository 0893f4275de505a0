"""Leases of a node: who has which GPU for how long, as values. No clock, no file and no process is touched here."""
