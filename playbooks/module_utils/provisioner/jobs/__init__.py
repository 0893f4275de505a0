"""Jobs that outlive a connection, and the claims that say which run may change the node."""
