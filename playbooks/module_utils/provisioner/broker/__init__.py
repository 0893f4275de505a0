"""The broker: a daemon through which people start and stop their own seats, within what the admin has published."""
