# The parts of Ansible that our code on nodes and in Ansible uses; mypy_path leads here.
