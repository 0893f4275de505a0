"""The node's Docker Engine: its API, its service, images, and the machine that it runs on."""
