"""Let Ansible's main process look for results twenty times a second, not a thousand times.

While tasks run on nodes it only waits for its workers, and its looks take a sixth of a processor. The interval has an
option in ansible.cfg alone, which is the user's own file; so it is set here, where the user has not set it.
"""

from __future__ import annotations

from ansible import constants
from ansible.plugins.callback import CallbackBase

SECONDS = 0.05
_DEFAULT = 0.001  # of Ansible (internal_poll_interval)


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible is not typed
    """Handles no event."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "provisioner_pace"

    def __init__(self) -> None:
        """Set the interval for the process that loads this plugin."""
        super().__init__()
        if constants.DEFAULT_INTERNAL_POLL_INTERVAL == _DEFAULT:
            constants.DEFAULT_INTERNAL_POLL_INTERVAL = SECONDS
