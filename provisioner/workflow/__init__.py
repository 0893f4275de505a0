"""The order of work of each command. Adapters are passed in; no module here does I/O itself."""
