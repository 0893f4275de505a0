"""Runs every benchmark and prints its tables in Markdown; nothing is asserted here."""

from bench import scale, startup

scale.main()
startup.main()
