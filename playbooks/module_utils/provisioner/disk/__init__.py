"""What seats use on the disk: measured each night, and warned of at their limit."""
