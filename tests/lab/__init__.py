"""A lab of real parts on one machine: nodes with Docker Engines of their own, registries, and GPUs that are described.

`python -m tests.lab setup` builds what it needs, `python -m tests.lab up demo --profiles rtx4090-570` starts a lab.
See README.md beside this file.
"""
