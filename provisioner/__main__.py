"""`python -m provisioner` is the command `provision`."""

from provisioner.cli import main

if __name__ == "__main__":
    main()
