"""The settings of a lab (lab.yml), its lock (lab.lock), its maintenance calendar and its waves."""
