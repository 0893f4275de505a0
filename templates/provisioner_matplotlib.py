# ruff: noqa: INP001, PTH110, PTH111, PTH118  (imported at every start of Python in the lab's environment: pathlib takes long)
"""Names the lab's matplotlibrc to matplotlib, unless a person has one of their own.

matplotlib reads the first of these: ./matplotlibrc, MATPLOTLIBRC, MPLCONFIGDIR/matplotlibrc. A seat has a
MPLCONFIGDIR for each base image, so the file of people in ~/.config, where they know it, is named here as well.
"""

from os import environ
from os.path import exists, expanduser, join

LAB = "/opt/provisioner/matplotlib/matplotlibrc"


def choose() -> "str | None":
    """Return the file to name. None where there is none, or where matplotlib itself finds a person's."""
    own = environ.get("MPLCONFIGDIR")
    if "MATPLOTLIBRC" in environ or (own and exists(join(own, "matplotlibrc"))):
        return None
    config = environ.get("XDG_CONFIG_HOME") or expanduser("~/.config")
    return next((path for path in (join(config, "matplotlib/matplotlibrc"), LAB) if exists(path)), None)


_chosen = choose()
if _chosen is not None:
    environ["MATPLOTLIBRC"] = _chosen
