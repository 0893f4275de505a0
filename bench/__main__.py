"""Run every benchmark and print its tables in Markdown. Nothing is asserted."""

from bench import people, registry, rollout, scale, startup

scale.main()
people.main()
startup.main()
registry.main()
rollout.main()
