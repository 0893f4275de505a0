"""People of a lab: the roster, and which node and cards each of them has."""
