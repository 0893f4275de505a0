"""Whether an image runs on a GPU under a driver: the data, its rules, and the verdict."""
