"""Which proxy applies: as Docker's client reads the same variables."""

import pytest

from provisioner.domain.values.proxy import asked_through, proxy_for

PROXY = "http://ann:secret@proxy.campus:3128"
BOTH = {"HTTP_PROXY": "http://plain.campus:1", "HTTPS_PROXY": PROXY}

CASES: list[tuple[str, dict[str, str], str | None]] = [
    ("https://registry.lab:5000/v2/", {}, None),
    ("https://registry.lab:5000/v2/", BOTH, PROXY),
    ("http://registry.lab:5000/v2/", BOTH, "http://plain.campus:1"),
    ("https://registry.lab/", {"HTTP_PROXY": PROXY}, None),
    ("https://registry.lab/", BOTH | {"https_proxy": "lower.campus:2"}, "http://lower.campus:2"),
    ("https://registry.lab/", BOTH | {"https_proxy": " "}, PROXY),
    ("https://localhost:5000/", BOTH, None),
    ("https://127.0.0.5:5000/", BOTH, None),
    ("https://[::1]:5000/", BOTH, None),
    ("https://registry.lab:5000/", BOTH | {"NO_PROXY": "*"}, None),
    ("https://registry.lab:5000/", BOTH | {"NO_PROXY": "other, registry.lab"}, None),
    ("https://registry.lab:5000/", BOTH | {"no_proxy": ".lab"}, None),
    ("https://registry.lab:5000/", BOTH | {"no_proxy": "lab"}, None),
    ("https://registry.lab:5000/", BOTH | {"no_proxy": "*.lab"}, None),
    ("https://registry.lab:5000/", BOTH | {"no_proxy": "REGISTRY.LAB:5000"}, None),
    ("https://registry.lab:5000/", BOTH | {"no_proxy": "registry.lab:443"}, PROXY),
    ("https://registry.lab/", BOTH | {"no_proxy": "registry.lab:443"}, None),
    ("https://my-registry.lab/", BOTH | {"no_proxy": "registry.lab"}, PROXY),
    ("https://198.18.0.3:5201/", BOTH | {"no_proxy": "198.18.0.0/15"}, None),
    ("https://198.18.0.3:5201/", BOTH | {"no_proxy": "198.18.0.3:5201"}, None),
    ("https://198.18.0.3:5201/", BOTH | {"no_proxy": "198.18.0.4"}, PROXY),
    ("https://198.18.0.3:5201/", BOTH | {"no_proxy": "0.3"}, PROXY),
    ("https://[fd00::3]:5201/", BOTH | {"no_proxy": "fd00::/8"}, None),
    ("https://[fd00::3]:5201/", BOTH | {"no_proxy": "[fd00::3]:5201"}, None),
]


@pytest.mark.parametrize(("url", "environment", "expected"), CASES)
def test_the_proxy_of_an_address(url: str, environment: dict[str, str], expected: str | None) -> None:
    found = proxy_for(url, environment)
    assert (found and found.url) == expected


def test_a_password_is_told_to_nobody_and_the_way_out_keeps_what_was_excepted() -> None:
    found = proxy_for("https://registry.lab:5000/", BOTH | {"NO_PROXY": "a.lab,b.lab"})
    assert found is not None
    problem = asked_through("registry.lab:5000", found)
    assert "secret" not in str(problem)
    assert "http://proxy.campus:3128 (variable HTTPS_PROXY)" in problem.what
    assert problem.fix.endswith("NO_PROXY=a.lab,b.lab,registry.lab")
