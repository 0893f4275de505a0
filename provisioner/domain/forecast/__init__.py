"""When a mirror will have a tag: its feed, its history, its schedule, and the advice to wait or to move."""
