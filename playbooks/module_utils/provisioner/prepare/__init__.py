"""What a bare node, or the host of the registry, needs: packages, services, certificates."""
