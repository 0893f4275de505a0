"""A seat on disk and its containers: generations, identity, checks, facts."""
