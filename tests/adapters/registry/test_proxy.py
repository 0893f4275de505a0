"""Through a proxy as the environment names it: in the clear, in a tunnel, with a login, and where it refuses."""

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from provisioner.adapters.registry.client import Registry
from provisioner.adapters.registry.transport import Patience
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport
from tests.adapters.registry.made_image import an_image
from tests.adapters.registry.scripted_registry import Answer, Script, ScriptedRegistry, served
from tests.adapters.registry.small_proxy import SmallProxy, proxying
from tests.lab import pki

IMAGE = an_image()
NAME = "registry.campus:5000"  # a name that only the proxy can look up
HASTY = Patience(connect=5, read=10, attempts=1)
PAGE = Answer(200, {"Content-Type": "text/html"}, b"<html>Log in</html>")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pki")
    pki.make_ca(root)
    pki.issue(root, root / "server", ["DNS:registry.campus"])
    return root


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def start(
    stack: ExitStack, *, tls: ssl.SSLContext | None = None, login: str = ""
) -> tuple[ScriptedRegistry, SmallProxy]:
    registry = ScriptedRegistry()
    registry.put("a/b", "t", IMAGE)
    stack.enter_context(served(registry, tls=tls))
    return registry, stack.enter_context(proxying(SmallProxy({NAME: registry.host}, login)))


def look(environment: dict[str, str], *, name: str = NAME, ca: Path | None = None) -> SyncReport:
    with Registry(name, ca=ca, plain_http=ca is None, environment=environment, patience=HASTY) as registry:
        return registry.check([ImageReference(repository="a/b", tag="t")], "linux/amd64")[0]


def codes(report: SyncReport) -> list[str]:
    return [problem.code for problem in report.problems]


def always(answer: Answer) -> Script:
    return lambda _: answer


def test_in_the_clear(stack: ExitStack) -> None:
    _, proxy = start(stack)
    report = look({"HTTP_PROXY": f"http://{proxy.address}"})
    assert (report.state, codes(report)) == ("complete", [])
    assert f"GET {NAME}" in proxy.asked


def test_in_a_tunnel_tls_is_the_registrys_own(stack: ExitStack, authority: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server/server.crt", authority / "server/server.key")
    registry, proxy = start(stack, tls=context)
    report = look({"https_proxy": proxy.address}, ca=pki.ca_certificate(authority))
    assert (report.state, codes(report)) == ("complete", [])
    assert set(proxy.asked) == {f"CONNECT {NAME}"}
    assert not [asked for asked in registry.asked if "Proxy-Authorization" in asked.headers]


def test_with_a_login_that_nobody_else_sees(stack: ExitStack) -> None:
    registry, proxy = start(stack, login="ann:p@ss")
    report = look({"HTTP_PROXY": f"http://ann:p%40ss@{proxy.address}"})
    assert report.state == "complete"
    assert not [asked for asked in registry.asked if "Proxy-Authorization" in asked.headers]


def test_who_is_excepted_is_asked_directly(stack: ExitStack) -> None:
    _, proxy = start(stack)
    report = look({"HTTP_PROXY": f"http://{proxy.address}", "NO_PROXY": "registry.campus"})
    assert (report.state, codes(report)) == ("no_such_service", ["no_such_service"])
    assert proxy.asked == []


def test_loopback_is_never_asked_through_a_proxy(stack: ExitStack) -> None:
    registry, proxy = start(stack)
    assert look({"HTTP_PROXY": f"http://{proxy.address}"}, name=registry.host).state == "complete"
    assert proxy.asked == []


def test_a_refusal_of_the_proxy_is_told_with_the_variable_that_names_it(stack: ExitStack, authority: Path) -> None:
    _, proxy = start(stack)
    variable = {"HTTP_PROXY": f"http://ann:secret@{proxy.address}"}
    refused = look(variable, name="other.campus:5000")
    assert (refused.state, codes(refused)) == ("denied", ["denied", "proxy_in_between"])
    assert "NO_PROXY=other.campus" in refused.problems[1].fix
    assert "secret" not in str(refused)
    tunnel = {"HTTPS_PROXY": f"http://ann:secret@{proxy.address}"}
    refused = look(tunnel, name="other.campus:5000", ca=pki.ca_certificate(authority))
    assert (refused.state, codes(refused)) == ("unknown", ["proxy_failed"])
    assert "HTTP 403" in refused.problems[0].what
    assert "secret" not in str(refused)


@pytest.mark.parametrize("ca", [True, False])
def test_a_proxy_that_is_away(authority: Path, ca: bool) -> None:
    away = {"HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1"}
    report = look(away, ca=pki.ca_certificate(authority) if ca else None)
    assert (report.state, codes(report)) == ("unknown", ["proxy_failed"])
    assert "no connection to the proxy" in report.problems[0].what


def test_a_layer_that_is_missing_behind_a_proxy_may_be_the_proxys_word(stack: ExitStack) -> None:
    registry, proxy = start(stack)
    registry.lose(IMAGE.layers[0])
    report = look({"HTTP_PROXY": f"http://{proxy.address}"})
    assert (report.state, codes(report)) == ("partial", ["layer_missing", "proxy_in_between"])


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "http://", "http://host:port"])
def test_a_variable_that_names_no_http_proxy_is_a_mistake(proxy: str) -> None:
    with pytest.raises(ProblemError) as ended:
        look({"HTTP_PROXY": proxy})
    assert (ended.value.ending, ended.value.problems[0].code) == ("usage", "proxy_unusable")
    assert "HTTP_PROXY" in ended.value.problems[0].what


def test_a_login_page_of_the_network_is_not_the_mirror(stack: ExitStack) -> None:
    """Sent on to another host, or told so by its own status (RFC 6585)."""
    portal = stack.enter_context(served(ScriptedRegistry(lambda _: PAGE)))
    sent_on = Answer(302, {"Location": f"http://localhost:{portal.host.rpartition(':')[2]}/login"})
    for answer in (sent_on, Answer(511, {"Content-Type": "text/html"}, b"")):
        network = stack.enter_context(served(ScriptedRegistry(always(answer))))
        report = look({}, name=network.host)
        assert (report.state, codes(report)) == ("unknown", ["captive_portal"])


def test_a_page_of_the_host_itself_is_no_registry(stack: ExitStack) -> None:
    host = stack.enter_context(served(ScriptedRegistry(lambda _: PAGE))).host
    assert codes(look({}, name=host)) == ["no_such_service"]
