"""Sets the limits of what seats use on the disk. It makes no generation and restarts nothing."""

from __future__ import annotations

from ansible.module_utils.provisioner.disk.limit import limit_seats
from ansible.module_utils.provisioner.jobs.entry import answer_orders

if __name__ == "__main__":
    answer_orders(limit_seats)
