"""All I/O: Ansible, registries, mirrors, Docker Engine, files of a lab, state on this machine."""
