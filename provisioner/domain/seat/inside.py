"""The settings of tools inside of a seat: files of lowest precedence, so that any other setting wins, and variables.

No package index is in a variable: pip and uv let a variable win over the student's own file.
"""

import json
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from provisioner.domain.lab.inside import Inside, SeatProxy
from provisioner.domain.seat.options import SeatOptions

# Sources of the places: pip documentation, "Configuration" (global); uv documentation, "Configuration files" (system);
# conda documentation, "Searching for .condarc", and libmamba's list, which both begin with this file.
INSIDE_FILES = {
    "pip.conf": "/etc/pip.conf",
    "uv.toml": "/etc/uv/uv.toml",
    "condarc": "/etc/conda/.condarc",
}
# What is asked for from inside of a seat or of a trial, see inside/check.py of the nodes; it is not in the container.
QUESTIONS_FILE = "inside.json"
# The URL of a channel: where it is, and its name. Mirrors have the parts of `defaults` below /pkgs/.
_CHANNEL_URL = re.compile(r"(https?://[^/]+(?:/[^/]+)*)/([A-Za-z0-9][A-Za-z0-9._-]*)/?")
_DEFAULT_CHANNEL = re.compile("^https?://.*/pkgs/")
# Hosts of a seat that are never behind a proxy: itself, and its two services.
_OWN_HOSTS = ("localhost", "127.0.0.1", "::1", "jupyter", "ssh")


def inside_files(inside: Inside) -> dict[str, str]:
    """Return the text of each file of settings, by its name in `INSIDE_FILES`; only those that the lab asks for."""
    files: dict[str, str] = {}
    if inside.pip_index:
        files |= {"pip.conf": _pip_text(inside.pip_index), "uv.toml": _uv_text(inside.pip_index)}
    if inside.conda_channels:
        files["condarc"] = _conda_text(inside.conda_channels)
    return files


def _pip_text(index: str) -> str:
    """Return pip.conf; pip does not use an index without TLS unless its host is named as trusted."""
    place = urlsplit(index)
    trusted = f"trusted-host = {place.netloc}\n" if place.scheme == "http" else ""
    return f"[global]\nindex-url = {index}\n{trusted}"


def _uv_text(index: str) -> str:
    """Return uv.toml. `index-url`, and not `[[index]]`: that one would win over a student's own `index-url`."""
    return f"index-url = {json.dumps(index)}\n"


def _conda_text(channels: tuple[str, ...]) -> str:
    """Return .condarc in JSON, which is YAML, too.

    The images of the field have a .condarc of their own that says `conda-forge` or `defaults`, and conda puts its
    channels in front. So these two names stand for the lab's channels: a mirror is not left for the original.
    """
    named = {match[2]: match[1] for channel in channels if (match := _CHANNEL_URL.fullmatch(channel))}
    defaults = [channel for channel in channels if _DEFAULT_CHANNEL.search(channel)]
    settings = {"channels": channels, "custom_channels": named, "default_channels": defaults}
    return json.dumps({key: value for key, value in settings.items() if value}, indent=2) + "\n"


def inside_variables(inside: Inside) -> dict[str, str]:
    """Return the variables of both services; a student's own `export` comes later and wins."""
    # Without the second one, files come past the mirror from the servers of Xet (huggingface_hub, since 0.32).
    hf = {"HF_ENDPOINT": inside.hf_endpoint, "HF_HUB_DISABLE_XET": "1"} if inside.hf_endpoint else {}
    proxy = _proxy_variables(inside.proxy) if inside.proxy else {}
    zone = {"TZ": inside.timezone} if inside.timezone else {}
    return {**proxy, **hf, **zone, **inside.env}


def _proxy_variables(proxy: SeatProxy) -> dict[str, str]:
    """Return the variables in both spellings: curl reads only the small one for http, other programs the other one."""
    values = {
        "http_proxy": proxy.http,
        "https_proxy": proxy.https or proxy.http,
        "no_proxy": ",".join(dict.fromkeys((*_OWN_HOSTS, *proxy.no_proxy))),
    }
    return {**values, **{name.upper(): value for name, value in values.items()}}


def questions_text(options: SeatOptions) -> str:
    """Return what a node asks for from inside, as JSON; empty where nothing is to be asked.

    `variables` are those of a trial, which has no compose file.
    """
    inside = options.inside
    if not (inside.pip_index or inside.hf_endpoint or options.extra):
        return ""
    proxy = _proxy_variables(inside.proxy) if inside.proxy else {}
    questions = {"index": inside.pip_index, "hf": inside.hf_endpoint, "extra": bool(options.extra), "variables": proxy}
    return json.dumps(questions, indent=1) + "\n"


# The proxy asks the mapping of a path before each request; a port where nothing listens would be an error 500.
_EXTRA = """\
# services.extra of lab.yml: shown under /NAME/, with the token only.
c.ServerProxy.servers = {servers!r}


def listening(name, port):
    def check(path):
        import socket
        from tornado.web import HTTPError

        try:
            socket.create_connection(("localhost", port), timeout=1).close()
        except TimeoutError:
            pass
        except OSError:
            raise HTTPError(
                503,
                "nothing listens on port %d of this seat: start the program of /%s/ in a terminal of JupyterLab, then"
                " load this page again / 座位的端口 %d 上没有程序：先在 JupyterLab 的终端里启动 %s，再刷新本页",
                *(port, name, port, name),
            ) from None
        return path

    return check


for name, server in c.ServerProxy.servers.items():
    server["mappath"] = listening(name, server["port"])
"""  # noqa: RUF001  (Chinese punctuation)


def extra_lines(options: SeatOptions) -> str:
    """Return the lines of Jupyter's configuration that show the ports of services.extra; none without any.

    An empty command: the proxy starts no process. The path is passed on without the name, so a program needs no
    setting for it. A Jupyter without the proxy does not read them.
    """
    if not options.extra:
        return ""
    servers: Mapping[str, object] = {
        name: {"command": [], "port": port, "absolute_url": False, "launcher_entry": {"title": name}}
        for name, port in sorted(options.extra.items())
    }
    return _EXTRA.format(servers=servers)
