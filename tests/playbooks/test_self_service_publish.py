"""Publishing self-service on a node: what is written in which order, what is refused, and what comes back."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.broker_world import an_environment
from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.fake_nvml import a_gpu, a_process
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE, NoJob
from tests.playbooks.self_service_world import CODE, Site, a_document, images, other_reference, publishes
from tests.playbooks.test_claims import a_claim

stores, claims, seats, states = (
    module_util(name) for name in ("broker.store", "jobs.claims", "seat.seat", "lease.state")
)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> Site:
    return Site(tmp_path, monkeypatch, engine)


def refused(site: Site, **over: Any) -> str:
    with pytest.raises(ProblemError) as caught:
        site.publish(**over)
    return str(vars(caught.value)["problem"]["code"])


def lease(site: Site, *gpus: str, seat: str = "ml_anna") -> None:
    """Record a lease, as the broker does."""
    terms = states.Terms(3600, 0, 600)
    found = states.LeaseState().with_lease(states.Lease("l-1", seat, 5001, gpus, "active", 3600.0, terms))
    stores.Store(site.state_root).write_leases(found)


def stamps(site: Site) -> dict[Path, int]:
    """When each file was written last."""
    return {path: path.lstat().st_mtime_ns for path in site.layout.folder.rglob("*") if path.is_file()}


def test_the_first_publication_writes_everything_and_starts_the_broker(site: Site) -> None:
    record = site.publish()
    assert (record["state"], record["problems"]) == ("committed", [])
    assert record["checks"] == {
        "image default": "is on the node and starts",
        "gpu default": f"torch 2.8.0 computes on 1 GPUs ({site.gpus[0]['uuid']})",
        "broker": "the broker answers root and the unix group 65534; it refuses other accounts",
        "started_by": "systemd",
    }
    folder = site.layout.environments / "default" / site.version()
    assert json.loads((folder / "document.json").read_text()) == a_document("1")
    assert str((folder.parent / "current").readlink()) == site.version()
    assert site.config() == site.order()["config"]
    assert (site.layout.config.stat().st_mode & 0o777, site.layout.folder.stat().st_mode & 0o777) == (0o600, 0o700)
    assert site.program()["ansible/module_utils/provisioner/one.py"] == "x = 1\n"
    assert site.layout.program_version() == "0.2.0"
    assert site.tags() == {f"provisioner/keep:self-service-default-{site.version()}"}
    assert site.runs_from == site.program()


def test_the_same_order_again_changes_nothing_and_starts_nothing(site: Site) -> None:
    site.publish()
    before = stamps(site)
    record = site.publish(run="r2")
    assert (record["state"], site.starts()) == ("unchanged", 1)
    assert {
        path: path.lstat().st_mtime_ns for path in sorted(site.layout.folder.rglob("*")) if path.is_file()
    } == before


def test_a_new_configuration_does_not_restart_a_broker_with_the_same_program(site: Site) -> None:
    site.publish()
    assert site.publish(show_names=False)["state"] == "committed"
    assert site.starts() == 1
    assert site.publish(code={**CODE, "provisioner/one.py": "x = 2\n"})["state"] == "committed"
    assert site.starts() == 2
    assert site.runs_from == site.program()


def test_a_broker_that_was_killed_is_started_again(site: Site) -> None:
    site.publish()
    site.pid = None
    assert site.publish()["state"] == "committed"
    assert site.pid


def test_a_broker_that_does_not_answer_is_started_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish()
    answers = iter([False, True])
    ask = site.ask

    def silent_once(path: str, verb: str) -> dict[str, Any]:
        if not next(answers, True):
            raise ProblemError("broker_silent", "x", "y", "z")
        return ask(path, verb)

    monkeypatch.setattr(module_util("self_service.verify"), "ask", silent_once)
    assert site.publish()["state"] == "committed"
    assert site.starts() == 2


@pytest.mark.parametrize(
    ("installed", "new", "replaces"),
    [
        ("0.2.0", "0.2.0", True),
        ("0.1.9", "0.2.0", True),
        ("0.3.0", "0.2.0", False),
        ("0.10.0", "0.9.0", False),
        ("0.2.0", "0.2.0rc1", False),
        ("0.2.0.dev3", "0.2.0", True),
        ("0.2", "0.2.0", True),
        ("1.0.0", "0.9.9", False),
        ("", "0.2.0", True),
    ],
)
def test_an_older_release_never_replaces_the_program_of_a_newer_one(
    site: Site, installed: str, new: str, replaces: bool
) -> None:
    site.publish(version=installed)
    record = site.publish("2", code={**CODE, "provisioner/one.py": "other = 1\n"}, version=new)
    assert (record["state"], site.config()["environments"]["default"]["version"]) == ("committed", site.version("2"))
    assert [problem["code"] for problem in record["problems"]] == ([] if replaces else ["program_newer"])
    assert site.layout.program_version() == (new if replaces else installed)
    assert site.starts() == (2 if replaces else 1)


def test_a_newer_program_that_does_not_understand_the_configuration_keeps_its_own(site: Site) -> None:
    site.publish(version="0.3.0")
    site.unreadable = {"n2"}
    record = site.publish("2", version="0.2.0", node="n2")
    assert (record["state"], [problem["code"] for problem in record["problems"]]) == ("rolled_back", ["broker_silent"])
    assert (site.config()["node"], site.layout.program_version()) == ("n1", "0.3.0")


# --- the command for people


def test_the_command_for_people_comes_with_the_broker_and_follows_its_release(site: Site) -> None:
    site.publish(version="0.2.0")
    assert (site.client.stat().st_mode & 0o777, site.socket in site.client.read_text()) == (0o755, True)
    site.publish("2", code={**CODE, "provisioner/client/me.py": "import os\n"}, version="0.3.0")
    assert "import os" in site.client.read_text()
    site.publish("3", code={**CODE, "provisioner/client/me.py": "import re\n"}, version="0.2.0")
    assert "import os" in site.client.read_text()


@pytest.mark.parametrize("hindrance", ["another program", "no python for all", "no folder"])
def test_a_command_that_cannot_be_installed_is_a_caution(site: Site, hindrance: str, tmp_path: Path) -> None:
    if hindrance == "another program":
        site.client.parent.mkdir()
        site.client.write_text("#!/bin/sh\n")
    elif hindrance == "no python for all":
        (tmp_path / "private").mkdir(mode=0o700)
        (tmp_path / "private/python3").touch(0o755)
        site.python = str(tmp_path / "private/python3")
    else:
        site.client.parent.write_text("")
    record = site.publish()
    assert (record["state"], [one["code"] for one in record["problems"]]) == ("committed", ["client_not_installed"])
    assert hindrance != "another program" or site.client.read_text() == "#!/bin/sh\n"


# --- versions


def test_the_version_before_stays_and_older_ones_go_with_their_images(site: Site) -> None:
    for digit in "bcd":
        reference = other_reference(digit)
        site.engine.images[reference] = {"RootFS": {"Layers": []}}
        image = {**an_environment()["image"], "reference": reference}
        site.publish(digit, environments={"default": an_environment(a_document(digit), image=image)})
    assert site.layout.versions("default") == sorted([site.version("c"), site.version("d")])
    assert [site.layout.link("default", link) for link in ("current", "previous")] == [
        site.version("d"),
        site.version("c"),
    ]
    assert set(site.engine.images) == {REFERENCE, other_reference("c"), other_reference("d")}


def a_seat(site: Site, name: str, **seat: Any) -> Any:
    """Write a seat with one generation, which is the current one."""
    made = seats.Seat(site.state_root, name)
    made.make_folders()
    wanted = {"name": name, "lab": "ml", "kind": "self_service", "gpus": [], "environment": "default", **seat}
    made.write(1, {"run": "me-1", "seat": wanted, "image": {"reference": REFERENCE}, "files": {}}, {})
    made.commit(1)
    return made


def test_a_version_that_a_seat_has_stays(site: Site) -> None:
    site.publish("1")
    a_seat(site, "ml_anna", version=site.version("1"))
    for text in "234":
        site.publish(text)
    assert site.layout.versions("default") == sorted(map(site.version, "134"))


def test_a_seat_of_the_roster_keeps_no_version(site: Site) -> None:
    site.publish("1")
    a_seat(site, "ml_anna", version=site.version("1"), kind="")
    for text in "234":
        site.publish(text)
    assert site.layout.versions("default") == sorted(map(site.version, "34"))


def test_an_environment_that_is_no_longer_published_goes_unless_a_seat_has_it(site: Site) -> None:
    nlp = an_environment(a_document("nlp"))
    both = {"default": an_environment(a_document("1")), "nlp": nlp}
    order = site.order(environments=both)
    order["documents"]["nlp"] = a_document("nlp")
    site.publish()
    publishes.publish(order, NoJob(), CODE)
    a_seat(site, "ml_anna", environment="nlp", version=nlp["version"])
    assert site.publish("1")["state"] == "committed"
    assert (site.layout.versions("nlp"), site.layout.link("nlp", "current")) == ([nlp["version"]], "")
    site.publish("1")
    assert (site.layout.versions("nlp"), site.layout.link("nlp", "previous")) == ([nlp["version"]], "")
    seats.Seat(site.state_root, "ml_anna").clear_current()
    site.publish("1")
    assert site.layout.names() == ["default"]


def test_an_environment_that_is_withdrawn_is_kept_once_for_a_rollback(site: Site) -> None:
    site.publish_environments("default", "nlp")
    site.publish("default")
    kept = {f"provisioner/keep:self-service-{name}-{site.version(name)}" for name in ("default", "nlp")}
    assert (site.layout.names(), site.tags()) == (["default", "nlp"], kept)
    site.publish_environments("default", "nlp")
    assert site.layout.link("nlp", "current") == site.version("nlp")
    for _ in range(2):
        site.publish("default")
    assert site.layout.names() == ["default"]


@pytest.mark.parametrize("damage", ["document.json", "environment.json"])
def test_a_damaged_version_is_written_again(site: Site, damage: str) -> None:
    site.publish()
    path = site.layout.environments / "default" / site.version() / damage
    text = path.read_text()
    path.write_text("{")
    assert site.publish()["state"] == "committed"
    assert path.read_text() == text


# --- refusals


def test_a_lab_with_self_service_on_the_node_keeps_it(site: Site) -> None:
    site.publish()
    before = site.config()
    assert refused(site, lab="cv") == "self_service_elsewhere"
    site.pid = None
    lease(site)
    assert refused(site, lab="cv") == "self_service_elsewhere"
    assert site.config() == before


def test_what_a_lab_has_left_without_broker_and_leases_is_taken_over(site: Site) -> None:
    site.publish()
    site.pid = None
    assert site.publish(lab="cv")["state"] == "committed"
    assert site.config()["lab"] == "cv"


def test_a_node_without_the_unix_group_is_left_alone(site: Site) -> None:
    with pytest.raises(ProblemError) as caught:
        site.publish(unix_group="lab-students-x")
    problem = vars(caught.value)["problem"]
    assert (problem["code"], problem["fix"].split(";")[0]) == ("no_unix_group", "on the node: groupadd lab-students-x")
    assert not site.layout.config.exists()
    assert site.calls == []


@pytest.mark.parametrize("change", ["schema", "document", "no document", "a damaged document", "state root"])
def test_an_order_that_the_broker_could_not_read_changes_nothing(site: Site, change: str) -> None:
    order = site.order()
    if change == "schema":
        order["config"]["schema"] = "provisioner/self_service/9"
    elif change == "document":
        order["documents"]["default"] = a_document("other")
    elif change == "no document":
        order["documents"] = {}
    elif change == "a damaged document":
        order["documents"]["default"] = []
    else:
        order["socket"] = "/run/x y"
    with pytest.raises(ProblemError) as caught:
        publishes.publish(order, NoJob(), CODE)
    assert vars(caught.value)["problem"]["code"] == "bad_order"
    assert not site.layout.folder.exists()


def test_a_run_whose_claim_was_replaced_publishes_nothing(site: Site) -> None:
    claims.take_claim(site.state_root, a_claim("r2", 2), "")
    assert refused(site, claim=a_claim("r1", 1)) == "fenced"
    assert not site.layout.config.exists()


# --- GPUs


def runs_on(site: Site) -> list[str]:
    """The GPUs on which a program was let compute."""
    runs = [argv for argv in site.calls if argv[0] == "docker" and "--gpus" in argv]
    return [argv[argv.index("--gpus") + 1].partition("=")[2] for argv in runs]


def test_the_program_computes_on_a_gpu_that_is_neither_leased_nor_in_use(site: Site) -> None:
    first, second, third = (gpu["uuid"] for gpu in site.gpus)
    lease(site, first)
    site.gpus[1] = a_gpu(second, processes=[a_process(4242)])
    site.publish()
    assert runs_on(site) == [third]


def test_the_check_of_a_gpu_is_made_once_for_each_image_and_boot(site: Site) -> None:
    site.publish()
    record = site.publish("2", run="r2")
    assert len(runs_on(site)) == 1
    assert record["checks"]["gpu default"] == "a program has computed with this image since the boot"


def test_environments_with_one_image_check_it_once_and_keep_it_until_none_has_it(site: Site) -> None:
    site.gpus = [a_gpu(gpu["uuid"], processes=[a_process(4242)]) for gpu in site.gpus]
    record = site.publish_environments("default", "nlp")
    assert [problem["code"] for problem in record["problems"]] == ["proof_pending"]
    assert record["checks"]["image nlp"] == "is that of default"
    assert (len(site.tags()), len(site.layout.names())) == (2, 2)
    for _ in range(2):  # the version before is kept once
        site.publish("default")
    assert site.tags() == {f"provisioner/keep:self-service-default-{site.version('default')}"}
    assert site.engine.images


def test_without_a_free_gpu_the_check_is_pending_and_the_environment_is_published(site: Site) -> None:
    site.gpus = [a_gpu(gpu["uuid"], processes=[a_process(4242)]) for gpu in site.gpus]
    record = site.publish()
    assert (record["state"], [problem["code"] for problem in record["problems"]]) == ("committed", ["proof_pending"])
    assert runs_on(site) == []


def test_without_gpus_to_lease_nothing_is_pending(site: Site) -> None:
    record = site.publish(pool=[])
    assert (record["problems"], record["checks"]["gpu default"], runs_on(site)) == ([], "no GPU is leased", [])


@pytest.mark.parametrize("check", [{"ok": False}, {"uuids": []}, {"uuids": ["GPU-x"]}, {"uuids": 1}])
def test_an_image_that_does_not_compute_is_not_published(site: Site, check: dict[str, Any]) -> None:
    site.check |= check
    assert refused(site) == "gpu_fails"
    assert (site.config(), site.tags(), site.pid) == ({}, set(), None)


def test_the_container_of_the_check_has_no_capability_no_network_and_one_gpu(site: Site) -> None:
    site.publish()
    (words,) = (" ".join(argv) for argv in site.calls if "--gpus" in argv)
    for option in ("--cap-drop ALL", "--security-opt no-new-privileges", "--user 65534:65534", "--network none"):
        assert option in words
    assert f"--gpus device={site.gpus[0]['uuid']} --pull never --entrypoint python3 {REFERENCE} -I -" in words


def test_what_lab_yml_sets_inside_is_asked_of_the_image_and_is_a_caution(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def run(argv: list[str], *_: Any, **__: Any) -> Any:
        calls.append(argv)
        found = {"index": {"outcome": "login_page", "detail": "http://portal.example/login: HTTP 200"}}
        return module_util("base.command").CommandResult(0, json.dumps(found), "")

    monkeypatch.setattr(module_util("inside.check"), "run", run)
    questions = json.dumps({"index": "http://m.example/simple", "variables": {"http_proxy": "http://p.example:3128"}})
    document = a_document("1")
    document["files"]["inside.json"] = [questions]
    order = {**site.order(environments={"default": an_environment(document)}), "documents": {"default": document}}
    module_util("jobs.node_jobs").NodeJobs(site.state_root, "self_service").make_folders()
    record = publishes.publish(order, NoJob(), CODE)
    assert (record["state"], [problem["code"] for problem in record["problems"]]) == ("committed", ["index_login_page"])
    words = " ".join(next(argv for argv in calls if argv[1] == "run"))
    for option in ("--cap-drop ALL", "--user 65534:65534", "--env http_proxy=http://p.example:3128"):
        assert option in words
    assert "--network" not in words  # it has one, as a seat has
    assert words.endswith(f"--pull never --entrypoint python3 {REFERENCE} -I - {questions}")


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        ("nvidia", ["--gpus", "device=GPU-1"]),
        ("cdi", ["--env", "NVIDIA_VISIBLE_DEVICES=void", "--device", "nvidia.com/gpu=GPU-1"]),
    ],
)
def test_the_check_gets_its_gpu_as_a_seat_does(monkeypatch: pytest.MonkeyPatch, driver: str, words: list[str]) -> None:
    monkeypatch.setattr(images, "gpu_driver", lambda _: driver)
    assert images._gpu_words("GPU-1") == words


# --- what comes back


def test_a_configuration_that_cannot_be_verified_is_replaced_by_the_one_before(site: Site) -> None:
    site.publish("1")
    before, program = site.config(), site.program()
    site.unreadable = {"n2"}
    record = site.publish("2", node="n2", code={**CODE, "provisioner/one.py": "bad = 1\n"}, version="0.3.0")
    assert (record["state"], [problem["code"] for problem in record["problems"]]) == ("rolled_back", ["broker_silent"])
    assert (site.config(), site.program()) == (before, program)
    assert site.runs_from == program
    assert [site.layout.link("default", link) for link in ("current", "previous")] == [site.version("1"), ""]
    assert not (site.layout.folder / "before.json").exists()
    assert not site.layout.program_before.exists()
    site.unreadable = set()
    assert site.publish("2", node="n2")["state"] == "committed"


def test_a_first_publication_that_cannot_be_verified_leaves_no_broker(site: Site) -> None:
    site.unreadable = {"n1"}
    record = site.publish()
    assert (record["state"], [problem["code"] for problem in record["problems"]]) == ("failed", ["broker_silent"])
    assert (site.config(), site.program(), site.pid) == ({}, {}, None)
    assert not list(site.units.rglob("*.service"))
    site.unreadable = set()
    assert site.publish()["state"] == "committed"


def test_where_the_broker_of_before_does_not_come_back_either_the_node_needs_attention(site: Site) -> None:
    site.publish("1")
    site.unreadable = {"n1", "n2"}
    record = site.publish("2", node="n2")
    assert record["state"] == "needs_attention"
    assert [problem["code"] for problem in record["problems"]] == ["broker_silent", "broker_silent"]
    site.unreadable = set()
    assert site.publish("1")["state"] == "unchanged"
    assert not (site.layout.folder / "before.json").exists()


@pytest.mark.parametrize("room", range(12))
def test_a_disk_that_becomes_full_leaves_what_was_there(site: Site, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """`room`: how many more files can be written."""
    site.publish("1")
    config, program = site.config(), site.program()
    left, write = [room], module_util("base.files").write_atomic

    def full(*words: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        write(*words)

    for name in ("self_service.environments", "self_service.before", "self_service.publish", "self_service.daemon"):
        monkeypatch.setattr(module_util(name), "write_atomic", full)
    monkeypatch.setattr(module_util("base.program"), "write_atomic", full)
    new = {**CODE, "provisioner/one.py": "x = 2\n"}
    try:
        state = site.publish("2", code=new)["state"]
    except ProblemError as fault:
        state = vars(fault)["problem"]["code"]
    assert state == ("io_error" if room < 4 else "rolled_back")
    assert (site.config(), site.program(), site.runs_from) == (config, program, program)
    assert (site.pid is not None, site.layout.link("default", "current")) == (True, site.version("1"))
    monkeypatch.setattr(module_util("base.program"), "write_atomic", write)
    left[0] = 100
    assert site.publish("2", code=new)["state"] == "committed"


def test_leases_survive_a_publication(site: Site) -> None:
    site.publish()
    lease(site, site.gpus[0]["uuid"])
    before = (site.layout.folder / "leases.json").read_text()
    site.publish("2", code={**CODE, "provisioner/two.py": ""})
    assert (site.layout.folder / "leases.json").read_text() == before


def test_a_mount_that_is_not_there_is_a_caution(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs goes on, and seats start as soon as it is there: the broker looks again for each of them."""
    mount = {"source": "/no/such", "target": "/data", "read_only": True, "mounted": False, "autofs": False}
    document = a_document("1")
    document["files"]["mounts.json"] = [json.dumps([mount])]
    monkeypatch.setattr("tests.playbooks.self_service_world.a_document", lambda _: document)
    record = site.publish()
    assert (record["state"], [one["code"] for one in record["problems"]]) == ("committed", ["mount_missing"])
