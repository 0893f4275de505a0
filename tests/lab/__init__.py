"""A lab of real parts on one machine: nodes with their own Docker Engines, registries, and simulated GPUs.

`python -m tests.lab setup` builds its parts, `python -m tests.lab up demo --profiles rtx4090-570` starts a lab.
See README.md beside this file.
"""
