from provisioner.console.gc import sweep_view
from provisioner.console.preparation import preparation_view
from provisioner.domain.registry.gc import GarbageReport, KeptImage, RemovedImage
from provisioner.domain.rollout.preparation import NodePreparation, Preparation, PrepareState, RegistryPreparation
from provisioner.domain.values.problem import Problem
from tests.builders import a_digest
from tests.console.screen import drawing, drawn

LACK = ("install docker.io from Debian 13's sources on the node",)
PENDING = ("restart the engine: it reads daemon.json when it starts",)
NO_APT = Problem("no_apt", "the node has no apt-get", "packages are apt's", "install by hand")


def node(name: str, state: PrepareState, *changes: str, pending: tuple[str, ...] = ()) -> NodePreparation:
    problems = (NO_APT,) if state == "failed" else ()
    return NodePreparation(node=name, state=state, changes=changes, pending=pending, problems=problems)


def test_nodes_that_are_alike_are_told_once() -> None:
    found = Preparation(
        lab="demo",
        check=False,
        registry=RegistryPreparation(node="", address="r.lab:5000", state="ready"),
        nodes=(
            node("pc01", "prepared", *LACK),
            node("pc02", "prepared", *LACK),
            node("pc03", "deferred", pending=PENDING),
            node("pc04", "failed"),
        ),
    )
    assert drawn(preparation_view(found), 120) == drawing("""
        registry r.lab:5000  ready  answers; it is used as it is
        pc[01-02]  prepared  was made ready:
          - install docker.io from Debian 13's sources on the node
        pc03  deferred  is in use; left as it is where a restart would end containers
          - pending: restart the engine: it reads daemon.json when it starts
        pc04  failed  is not ready
        ╷ no_apt  pc04
        │ the node has no apt-get
        │ why: packages are apt's
        │ fix: install by hand
        ╵

        2 of 4 nodes ready. What is pending is done by --restart-engine, which ends the containers of these nodes for a moment.
    """)  # noqa: E501  (as it is printed)


def test_a_registry_that_is_set_up_is_told_with_its_host() -> None:
    registry = RegistryPreparation(node="store", address="r.lab:5000", state="lacking", changes=("make an authority",))
    found = Preparation(lab="demo", check=True, registry=registry, nodes=())
    assert drawn(preparation_view(found)).splitlines()[:2] == [
        "registry r.lab:5000  lacking  on store  not changed yet; it lacks:",
        "  - make an authority",
    ]


def a_sweep(**over: object) -> GarbageReport:
    given = {
        "lab": "demo",
        "registry": "r.lab:5000",
        "repository": "provisioner/lab",
        "dry_run": False,
        "kept": (KeptImage(digest=a_digest("new"), tags=("new",), bytes=4_260_000_000, because=("lock lab.lock",)),),
        "removed": (RemovedImage(digest=a_digest("old"), tags=("old", "older"), bytes=4_100_000_000),),
        "bytes": 3_900_000_000,
    }
    return GarbageReport.model_validate(given | over)


def test_what_stays_and_why_and_what_goes() -> None:
    assert drawn(sweep_view(a_sweep(dry_run=True, silent=("pc07",)))) == drawing("""
        stays  new  4.26 GB  lock lab.lock
        would go  old, older  4.1 GB  no lock, no node

        1 image, 3.9 GB that no other image here shares.
        Not asked: pc07.
    """)
    assert "gone  old, older" in drawn(sweep_view(a_sweep(freed=3_900_000_000)))
    assert drawn(sweep_view(a_sweep(removed=()))).endswith("Nothing to remove: 1 image, all wanted.")
