"""Settings of the container engine that hide what a mirror really has."""

import pytest

from provisioner.domain.registry.interference import EngineNetwork, engine_problems

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
def test_each_diverting_setting_is_a_problem(engine: EngineNetwork, plain_http: bool, codes: list[str]) -> None:
    assert [problem.code for problem in engine_problems(HOST, engine, plain_http=plain_http)] == codes


def test_problem_names_the_setting_and_the_file_to_change() -> None:
    (problem,) = engine_problems(HOST, PROXIES, plain_http=False)
    assert problem.what == f"Docker on this machine asks {HOST} through the proxy http://p:2 (variable HTTPS_PROXY)"
    assert "NO_PROXY=127.0.0.0/8,registry.lab" in problem.fix
    assert "daemon.json" in problem.fix
    (problem,) = engine_problems(HOST, MIRRORS, plain_http=False)
    assert "https://hub.campus/" in problem.what
    assert f"docker pull {HOST}/REPOSITORY@DIGEST" in problem.fix
