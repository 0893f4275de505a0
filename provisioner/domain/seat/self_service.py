"""The files that a self-service seat has its own form of: the end of its lease is shown, and busy kernels are seen.

The texts of all other seats stay as they are: another text would be a new generation, and start everybody's seat anew.
"""

import hashlib
from collections.abc import Mapping

from provisioner.domain.seat.fill import culling_lines

HEALTH_TEMPLATE = "self_service_health.py"
_EXTENSION, _MANIFEST = "notice-extension.js", "notice-extension.json"
# Where each file names the notices: as it is, and with that of the end of a lease.
_NOTICES = {
    "notice.sh": ("notice/disk.txt;", "notice/disk.txt /etc/provisioner/notice/lease.txt;"),
    _EXTENSION: ("'disk.txt'];", "'disk.txt', 'lease.txt'];"),
}
_VERSION_LENGTH = 12  # characters of its hash that the address of the extension has: browsers keep it for a year


def self_service_texts(templates: Mapping[str, str], cull_s: int) -> dict[str, str]:
    """Return the files that differ in a self-service seat. `templates`: text by file name.

    `cull_s`: after so many seconds an idle kernel is ended, 0: never.
    """
    texts = {name: templates[name].replace(*both) for name, both in _NOTICES.items()}
    before, after = (_version(files[_EXTENSION]) for files in (templates, texts))
    return {
        **texts,
        _MANIFEST: templates[_MANIFEST].replace(before, after),
        "health.py": templates[HEALTH_TEMPLATE],
        "jupyter_server_config.py": templates["jupyter_server_config.py"] + culling_lines(cull_s),
    }


def _version(extension: str) -> str:
    return hashlib.sha256(extension.encode()).hexdigest()[:_VERSION_LENGTH]
