# The parts of Ansible that node code uses; mypy_path leads here.
