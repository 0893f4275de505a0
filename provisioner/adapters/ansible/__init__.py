"""The nodes, through Ansible: inventory, plays, results."""
