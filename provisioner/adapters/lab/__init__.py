"""The files of a lab directory: reading with line and column of each mistake, and writing."""
