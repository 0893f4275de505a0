"""Runs every benchmark and prints its tables in Markdown; nothing is asserted here."""

from bench import registry, rollout, scale, startup

scale.main()
startup.main()
registry.main()
rollout.main()
