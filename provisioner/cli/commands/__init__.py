"""One module for each verb of `provision`."""
