import json
import subprocess
import sys
from pathlib import Path

import pytest

from provisioner.adapters import resources

PACE = """
import json, sys
from ansible import constants
from ansible.plugins.loader import callback_loader
callback_loader.add_directory(sys.argv[1])
callback_loader.get("provisioner_pace", class_only=True)()
print(json.dumps(constants.DEFAULT_INTERNAL_POLL_INTERVAL))
"""


@pytest.mark.parametrize(("config", "seconds"), [("", 0.05), ("internal_poll_interval = 0.5", 0.5)])
def test_ansible_looks_for_results_at_our_pace_unless_the_user_has_set_one(
    tmp_path: Path, config: str, seconds: float
) -> None:
    (tmp_path / "ansible.cfg").write_text(f"[defaults]\n{config}\n")
    argv = [sys.executable, "-c", PACE, str(resources.playbooks() / "callback_plugins")]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == seconds
