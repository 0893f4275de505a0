"""Logins: tokens that expire, wrong passwords, and secrets that must not reach another host."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from provisioner.adapters.registry.auth import Challenge, read_challenge
from provisioner.adapters.registry.client import Registry
from provisioner.adapters.registry.transport import RetryPolicy
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport
from tests.adapters.registry.made_image import an_image
from tests.adapters.registry.scripted_registry import (
    API,
    Answer,
    ReceivedRequest,
    Script,
    ScriptedRegistry,
    ranged,
    served,
)
from tests.adapters.registry.token_service import TokenService

REPOSITORIES = ("pytorch/pytorch", "lab/torch")
REFERENCES = [ImageReference(repository=name, tag="1") for name in REPOSITORIES]
AMD64 = "linux/amd64"
FAIL_FAST = RetryPolicy(connect=2, read=5, whole=10, attempts=2, first_wait=0.01)
IMAGE = an_image()
SECRET = "correct-horse-battery"
BASIC = f"Basic {b64encode(f'alice:{SECRET}'.encode()).decode()}"

Serve = Callable[..., ScriptedRegistry]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(*scripts: Script) -> ScriptedRegistry:
            registry = ScriptedRegistry(*scripts)
            for repository in REPOSITORIES:
                registry.put(repository, "1", IMAGE)
            return stack.enter_context(served(registry))

        yield start


def with_tokens(serve: Serve, service: TokenService) -> ScriptedRegistry:
    registry = serve(service.tokens, lambda asked: service.guard(asked) if asked.path != "/token" else None)
    service.realm = f"http://{registry.host}/token"
    return registry


def require_basic(asked: ReceivedRequest) -> Answer | None:
    if asked.headers.get("Authorization") == BASIC:
        return None
    return Answer(401, API | {"WWW-Authenticate": 'Basic realm="lab"'})


def log_in(home: Path, host: str, password: str = SECRET) -> dict[str, str]:
    """Return the environment of a user who ran `docker login`."""
    (home / ".docker").mkdir(exist_ok=True)
    auth = b64encode(f"alice:{password}".encode()).decode()
    (home / ".docker/config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return {"HOME": str(home)}


def check(host: str, environment: dict[str, str]) -> tuple[SyncReport, ...]:
    with Registry(host, plain_http=True, policy=FAIL_FAST, environment=environment) as registry:
        return registry.check(REFERENCES, AMD64)


def states(reports: tuple[SyncReport, ...]) -> list[str]:
    return [report.state.value for report in reports]


def test_anonymous_access_gets_one_token_for_each_repository(serve: Serve) -> None:
    service = TokenService()
    registry = with_tokens(serve, service)
    assert states(check(registry.host, {})) == ["complete", "complete"]
    assert sorted(query["scope"] for query in service.issued) == sorted(f"repository:{r}:pull" for r in REPOSITORIES)
    assert {query["service"] for query in service.issued} == {"lab"}


@pytest.mark.parametrize("uses", [1, 2, 3])
def test_token_that_expires_during_a_run_is_renewed(serve: Serve, uses: int) -> None:
    service = TokenService(uses=uses)
    registry = with_tokens(serve, service)
    with Registry(registry.host, plain_http=True, policy=FAIL_FAST, connections=1, environment={}) as mirror:
        reports = mirror.check(REFERENCES, AMD64)
    assert states(reports) == ["complete", "complete"]
    assert len(service.issued) > 2


def test_token_that_is_never_accepted_is_denied_at_once(serve: Serve) -> None:
    service = TokenService(uses=0)
    registry = with_tokens(serve, service)
    assert states(check(registry.host, {})) == ["denied", "denied"]
    assert len(service.issued) == len(REPOSITORIES)


@pytest.mark.parametrize(("refresh_at", "seconds"), [(0, 300), (0.8, 300), (0.8, None)])
def test_token_is_renewed_before_it_expires(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, refresh_at: float, seconds: int | None
) -> None:
    """A token without a time is valid for 60 s; one that is renewed after no part of its time is used once."""
    monkeypatch.setattr("provisioner.adapters.registry.auth._REFRESH_AT", refresh_at)
    service = TokenService(seconds=seconds)
    registry = with_tokens(serve, service)
    assert states(check(registry.host, {})) == ["complete", "complete"]
    refused = [a for a in registry.asked if "Authorization" not in a.headers and a.path not in ("/v2/", "/token")]
    assert (len(service.issued) > 2) == (refresh_at == 0)
    assert refused


def test_login_with_basic_and_bearer(serve: Serve, tmp_path: Path) -> None:
    basic = serve(require_basic)
    service = TokenService(login=BASIC)
    bearer = with_tokens(serve, service)
    assert states(check(basic.host, log_in(tmp_path, basic.host))) == ["complete", "complete"]
    assert states(check(bearer.host, log_in(tmp_path, bearer.host))) == ["complete", "complete"]


def test_identity_token_is_sent_in_the_body(serve: Serve, tmp_path: Path) -> None:
    service = TokenService()
    registry = with_tokens(serve, service)
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: {"identitytoken": SECRET}}}))
    assert states(check(registry.host, {"DOCKER_CONFIG": str(tmp_path)})) == ["complete", "complete"]
    assert {(query["grant_type"], query["refresh_token"]) for query in service.issued} == {("refresh_token", SECRET)}
    assert all(SECRET not in asked.path for asked in registry.asked)


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_wrong_password_is_denied_and_tried_once(serve: Serve, tmp_path: Path, kind: str) -> None:
    service = TokenService(login=BASIC)
    registry = serve(require_basic) if kind == "basic" else with_tokens(serve, service)
    environment = log_in(tmp_path, registry.host, "wrong-" + SECRET)
    with Registry(registry.host, plain_http=True, policy=FAIL_FAST, connections=1, environment=environment) as mirror:
        reports = mirror.check([*REFERENCES, *REFERENCES], AMD64)
    problem = reports[0].problems[0]
    assert states(reports) == ["denied"] * 4
    assert problem.code == "auth_failed"
    assert str(tmp_path / ".docker/config.json") in problem.what
    assert f"docker login {registry.host}" in problem.fix
    assert SECRET not in repr(reports)
    sent = [asked for asked in registry.asked if "Basic" in asked.headers.get("Authorization", "")]
    assert len(sent) == (1 if kind == "basic" else len(REPOSITORIES))


def test_missing_login_is_denied(serve: Serve) -> None:
    reports = check(serve(require_basic).host, {})
    assert states(reports) == ["denied", "denied"]
    assert "no login is configured" in reports[0].problems[0].what


def test_unusable_configuration_is_named_in_the_problem(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    reports = check(serve(require_basic).host, {"DOCKER_CONFIG": str(tmp_path)})
    assert states(reports) == ["denied", "denied"]
    assert str(tmp_path / "config.json") in reports[0].problems[0].what


def test_credential_is_not_sent_to_another_host(serve: Serve, tmp_path: Path) -> None:
    blobs = IMAGE.blobs
    cdn = serve(lambda asked: ranged(blobs[asked.path.rsplit("/", 1)[1]], asked))
    home = serve(
        require_basic,
        lambda asked: Answer(307, {"Location": f"http://{cdn.host}{asked.path}"}) if "/blobs/" in asked.path else None,
    )
    assert states(check(home.host, log_in(tmp_path, home.host))) == ["complete", "complete"]
    assert cdn.asked
    assert not [asked for asked in cdn.asked if "authorization" in {name.lower() for name in asked.headers}]


def test_password_is_not_sent_in_plain_text_to_another_host(serve: Serve, tmp_path: Path) -> None:
    service = TokenService()
    tokens = serve(service.tokens)
    registry = serve(service.guard)
    service.realm = f"http://localhost:{tokens.host.rsplit(':', 1)[1]}/token"
    reports = check(registry.host, log_in(tmp_path, registry.host))
    assert states(reports) == ["denied", "denied"]
    assert "does not use TLS" in reports[0].problems[0].what
    assert not tokens.asked


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (Answer(500), "unknown"),
        (Answer(200, {}, b"not json"), "unknown"),
        (Answer(200, {}, b'{"token": "two\\nlines"}'), "unknown"),
        (Answer(429, {"Retry-After": "3600"}), "limited"),
        (Answer(403), "denied"),
    ],
)
def test_failing_token_service(serve: Serve, answer: Answer, state: str) -> None:
    service = TokenService()
    registry = serve(lambda asked: answer if asked.path.startswith("/token") else None, service.guard)
    service.realm = f"http://{registry.host}/token"
    assert states(check(registry.host, {})) == [state, state]


def test_raised_problem_holds_no_secret(serve: Serve, tmp_path: Path) -> None:
    registry = serve(require_basic)
    environment = log_in(tmp_path, registry.host, "wrong-" + SECRET)
    with Registry(registry.host, plain_http=True, policy=FAIL_FAST, environment=environment) as mirror:
        with pytest.raises(ProblemError) as refused:
            mirror.tags("pytorch/pytorch")
        with pytest.raises(ProblemError):
            mirror.exists(REFERENCES[0])
    assert refused.value.problems[0].code == "auth_failed"
    assert SECRET not in repr(refused.getrepr(showlocals=True)) + str(refused.value)


@pytest.mark.parametrize(
    ("text", "challenge"),
    [
        ('Bearer realm="https://a/t",service="s",scope="x y"', Challenge(True, "https://a/t", "s", "x y")),
        ('Basic realm="r", Bearer realm="https://a/t"', Challenge(False)),  # engines read the first of a line
        ('Bearer realm="https://a/t", Basic realm="r"', Challenge(True, "https://a/t")),
        ('bearer realm="https://a/t" , service=s', Challenge(True, "https://a/t", "s")),
        (r'BEARER Realm="https://a/\t",Service="a \"b\""', Challenge(True, "https://a/t", 'a "b"')),
        ("Bearer realm=https://a/t", Challenge(True, "https")),  # a colon is no part of a value without quotes
        ('Basic realm="Bearer"', Challenge(False)),
        ("Bearer", None),
        ("Negotiate", None),
        ("", None),
    ],
)
def test_read_challenge(text: str, challenge: Challenge | None) -> None:
    assert read_challenge(text) == challenge
    assert read_challenge('Basic realm="r"', text) == (
        challenge if challenge and challenge.bearer else Challenge(False)
    )
