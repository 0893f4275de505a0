"""Images as registries hold them: manifests, sync state, copies, garbage collection."""
