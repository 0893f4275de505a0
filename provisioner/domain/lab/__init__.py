"""What an admin writes (lab.yml) and what a lab is locked to (lab.lock); its calendar and its waves."""
