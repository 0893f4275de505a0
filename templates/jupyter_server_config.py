# ruff: noqa: INP001  (a file of a seat)
"""Jupyter of a seat: reached through a port that only this node, or its lab, can see; let in by the seat's token."""

import hmac
import os
import sys
from contextlib import suppress
from pathlib import Path

# An empty token would switch authentication off; without a token file Jupyter would invent a token and print it into
# the log. After an ordinary error in this file Jupyter goes on with its defaults, so the way out is to end here.
SHORTEST = 32
CONFIG = "/etc/provisioner"
try:
    token = Path(os.environ["JUPYTER_TOKEN_FILE"]).read_text(encoding="ascii").strip()
except (KeyError, OSError, UnicodeDecodeError) as error:
    sys.exit(f"no token: {error!r}")
if len(token) < SHORTEST:
    sys.exit(f"the seat's token is shorter than {SHORTEST} characters")

# Jupyter writes the token into files of its runtime folder. By default that is in the home, of which backups and file
# servers keep copies; here it ends with the container. Earlier releases left such files in the home.
RUNTIME = "/tmp/jupyter-runtime"  # noqa: S108  (no other account runs programs in this container)
os.environ["JUPYTER_RUNTIME_DIR"] = RUNTIME
with suppress(OSError):
    for path in Path(os.environ["HOME"], ".local/share/jupyter/runtime").glob("jpserver-*"):
        with suppress(OSError):
            path.unlink()

# Programs that a student installs; last, so that none of them hides one of the image's.
os.environ["PATH"] += f":{os.environ['PYTHONUSERBASE']}/bin"

c = get_config()  # noqa: F821  (traitlets puts it here)
c.IdentityProvider.token = token
c.ServerApp.runtime_dir = RUNTIME
# Browsers stay logged in when the container is replaced.
c.ServerApp.cookie_secret = hmac.digest(token.encode(), b"cookies", "sha256")
c.ServerApp.ip = "0.0.0.0"  # noqa: S104  (inside the container; what is published says compose.yaml)
c.ServerApp.port = 8888
c.ServerApp.port_retries = 0
c.ServerApp.open_browser = False
c.ServerApp.allow_root = False
c.ServerApp.root_dir = os.environ["HOME"]
c.ServerApp.terminals_enabled = True
# What the lab tells its people: a line above JupyterLab (notice-extension.js), read from there again and again.
c.ServerApp.extra_static_paths = [f"{CONFIG}/notice"]
c.LabApp.extra_labextensions_path = [f"{CONFIG}/labextensions"]
