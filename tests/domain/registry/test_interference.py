"""Settings of an engine that make a mirror look other than it is."""

import pytest

from provisioner.domain.registry.interference import EngineNetwork, of_engine

HOST = "registry.lab:5000"
MIRRORS = EngineNetwork(mirrors=("https://registry.lab:5000/", "https://hub.campus/"))
PROXIES = EngineNetwork(http_proxy="http://a:secret@p:1", https_proxy="http://a:secret@p:2", no_proxy="127.0.0.0/8")


@pytest.mark.parametrize(
    ("engine", "plain_http", "codes"),
    [
        (EngineNetwork(), False, []),
        (MIRRORS, False, ["registry_mirrors"]),
        (PROXIES, False, ["proxy_in_between"]),
        (PROXIES.model_copy(update={"no_proxy": ".lab"}), False, []),
        (PROXIES.model_copy(update={"https_proxy": ""}), False, []),
        (PROXIES.model_copy(update={"https_proxy": ""}), True, ["proxy_in_between"]),
    ],
)
def test_what_stands_between(engine: EngineNetwork, plain_http: bool, codes: list[str]) -> None:
    assert [problem.code for problem in of_engine(HOST, engine, plain_http=plain_http)] == codes


def test_it_is_told_whose_setting_it_is_and_where_to_mend_it() -> None:
    (problem,) = of_engine(HOST, PROXIES, plain_http=False)
    assert problem.what == f"Docker on this machine asks {HOST} through the proxy http://p:2 (variable HTTPS_PROXY)"
    assert "NO_PROXY=127.0.0.0/8,registry.lab" in problem.fix
    assert "daemon.json" in problem.fix
    (problem,) = of_engine(HOST, MIRRORS, plain_http=False)
    assert "https://hub.campus/" in problem.what
    assert f"docker pull {HOST}/REPOSITORY@DIGEST" in problem.fix
