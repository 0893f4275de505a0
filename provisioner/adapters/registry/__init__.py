"""A client of OCI registries: login, retries, range requests, and the check of every layer."""
