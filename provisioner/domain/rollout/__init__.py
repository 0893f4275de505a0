"""What a run will do and how it ended: order, plan, run spec, report, status, upgrade."""
