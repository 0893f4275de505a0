"""From a lock to changed nodes: plan, preflight, claims, waves, resume, rollback, removal."""
