"""The order of work of each command: adapters are passed in, nothing here touches a machine."""
