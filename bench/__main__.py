"""Run every benchmark and print its tables in Markdown. Nothing is asserted."""

from bench import registry, rollout, scale, startup

scale.main()
startup.main()
registry.main()
rollout.main()
