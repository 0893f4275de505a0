"""When a mirror will have a tag: its feed, its sync history and schedule, and the advice to wait or to switch."""
