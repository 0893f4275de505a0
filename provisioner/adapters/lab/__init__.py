"""The files of a lab: read with the line and column of each mistake, written the same way every time."""
