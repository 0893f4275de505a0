"""What is asked for from inside of a seat: the package index, the Hugging Face endpoint, the proxy of Jupyter."""
