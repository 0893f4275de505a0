"""A run and its documents: plan, order, run spec, report, status, notice, preparation and upgrade."""
