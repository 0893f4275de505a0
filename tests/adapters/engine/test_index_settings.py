"""The index of uv, as the installed pip and uv's own settings name it."""

import os
from pathlib import Path

import pytest

from provisioner.adapters.engine.index_settings import uv_settings

FILE = """\
[global]
index-url = https://user:secret@files.campus/simple
extra-index-url =
    https://one.campus/simple
    https://two.campus/simple
trusted-host = files.campus
client-cert = /etc/campus.pem
proxy = http://proxy.campus:3128
timeout = 90
[download]
find-links = /srv/wheels /srv/more
[install]
find-links = /srv/never
"""
OURS = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "UV_INSECURE_HOST", "SSL_CLIENT_CERT", "UV_HTTP_TIMEOUT")


@pytest.fixture
def pip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "system"))
    file = tmp_path / "pip.conf"
    file.write_text(FILE)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    return file


@pytest.mark.usefixtures("pip_file")
def test_pips_settings_are_those_of_a_download() -> None:
    found = uv_settings()
    assert [found.environment.get(name) for name in OURS] == [
        "https://user:secret@files.campus/simple",
        "https://one.campus/simple https://two.campus/simple",
        "/srv/wheels,/srv/more",
        "files.campus",
        "/etc/campus.pem",
        "90",
    ]
    assert found.environment["HTTPS_PROXY"] == "http://proxy.campus:3128"
    assert "secret" not in " ".join(found.options)


@pytest.mark.usefixtures("pip_file")
def test_a_variable_of_pip_comes_before_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://env.campus/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "yes")
    assert uv_settings().environment["UV_DEFAULT_INDEX"] == "https://env.campus/simple"
    assert "--no-index" in uv_settings().options


@pytest.mark.usefixtures("pip_file")
def test_a_persons_own_variable_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/own.pem")
    assert uv_settings().environment["SSL_CERT_FILE"] == "/own.pem"


@pytest.mark.parametrize(
    ("text", "is_own"),
    [
        ('index-url = "https://uv.campus/simple"', True),
        ('[[index]]\nurl = "https://uv.campus/simple"\ndefault = true', True),
        ('[pip]\nextra-index-url = ["https://uv.campus/simple"]', True),
        ('cache-dir = "/var/cache/uv"', False),
        ("not toml", False),
    ],
)
@pytest.mark.parametrize("folder", ["config", "system"])
def test_uvs_own_index_comes_before_pips(pip_file: Path, folder: str, text: str, is_own: bool) -> None:
    file = pip_file.parent / folder / "uv/uv.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert ("UV_DEFAULT_INDEX" not in uv_settings().environment) is is_own


@pytest.mark.usefixtures("pip_file")
def test_uvs_own_variable_comes_before_pips_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_INDEX", "https://uv.campus/simple")
    found = uv_settings()
    assert found.environment["UV_INDEX"] == "https://uv.campus/simple"
    assert "UV_DEFAULT_INDEX" not in found.environment
    assert not found.options
