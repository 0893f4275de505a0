"""What is restored when a new configuration or program cannot be verified: it is kept on disk until then.

A job that was killed leaves it there: what it had written was not verified, so the next job goes on with it. To restore
it needs no room on the disk.
"""

from __future__ import annotations

import contextlib
import json
import shutil

from ansible.module_utils.provisioner.base.files import read_existing, sync_folder, write_atomic
from ansible.module_utils.provisioner.self_service.daemon import forget_start
from ansible.module_utils.provisioner.self_service.environments import set_link
from ansible.module_utils.provisioner.self_service.layout import LINKS, Layout

FILE = "before.json"


def save(layout: Layout) -> None:
    """Keep the configuration and the links as they are, unless an earlier job has kept some. Raises OSError."""
    found = layout.read_json(FILE)
    if found:
        if found["config"] and not layout.config_before.exists():  # it was restored already
            write_atomic(layout.config_before, read_existing(layout.config))
        return
    shutil.rmtree(str(layout.program_before), ignore_errors=True)  # left by a job that was killed after its end
    config = read_existing(layout.config)
    write_atomic(layout.config_before, config)
    links = {name: {link: layout.link(name, link) for link in LINKS} for name in layout.names()}
    write_atomic(layout.folder / FILE, json.dumps({"config": bool(config), "links": links}))


def restore(layout: Layout) -> bool:
    """Restore what was kept; return whether there was a configuration. Raises OSError."""
    found = layout.read_json(FILE)
    _restore_links(layout, found["links"])
    if layout.program_before.is_dir():
        forget_start(layout)
        shutil.rmtree(str(layout.program), ignore_errors=True)
        layout.program_before.replace(layout.program)
    if not found["config"]:
        with contextlib.suppress(FileNotFoundError):
            layout.config.unlink()
    elif layout.config_before.exists():
        layout.config_before.replace(layout.config)
    sync_folder(layout.folder)
    return bool(found["config"])


def _restore_links(layout: Layout, links: dict[str, dict[str, str]]) -> None:
    for name in layout.names():
        for link in LINKS:
            version = links.get(name, {}).get(link, "")
            if layout.link(name, link) != version:
                set_link(layout, name, link, version)


def forget(layout: Layout) -> None:
    """Remove what was kept: what is there now counts. Raises OSError."""
    for path in (layout.folder / FILE, layout.config_before):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    shutil.rmtree(str(layout.program_before), ignore_errors=True)
