"""Images in registries: manifests, sync state, catalogs, copy commands, garbage collection."""
