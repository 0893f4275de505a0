"""Run every benchmark and print its tables in Markdown. Nothing is asserted."""

from bench import people, registry, rollout, scale, self_service, startup

scale.main()
people.main()
startup.main()
registry.main()
rollout.main()
self_service.main(1)
