"""Shows a notice to the users of seats and to those who are logged in to the node, or removes it."""

from __future__ import annotations

from ansible.module_utils.provisioner.jobs.entry import answer_orders
from ansible.module_utils.provisioner.seat.notice import notify_seats

if __name__ == "__main__":
    answer_orders(notify_seats)
