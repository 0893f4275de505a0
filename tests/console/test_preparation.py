from provisioner.console.gc import gc_view
from provisioner.console.preparation import preparation_view
from provisioner.domain.registry.gc import GarbageReport, KeptImage, RemovedImage
from provisioner.domain.rollout.preparation import NodePreparation, Preparation, PrepareState, RegistryPreparation
from provisioner.domain.values.problem import Problem
from tests.builders import a_digest
from tests.console.screen import expected_text, render_text

CHANGES = ("install docker.io from Debian 13's sources on the node",)
PENDING = ("restart the engine: it reads daemon.json when it starts",)
NO_APT = Problem("no_apt", "the node has no apt-get", "packages are apt's", "install by hand")


def node(name: str, state: PrepareState, *changes: str, pending: tuple[str, ...] = ()) -> NodePreparation:
    problems = (NO_APT,) if state == "failed" else ()
    return NodePreparation(node=name, state=state, changes=changes, pending=pending, problems=problems)


def test_equal_nodes_share_a_line() -> None:
    found = Preparation(
        lab="demo",
        check=False,
        registry=RegistryPreparation(node="", address="r.lab:5000", state="ready"),
        nodes=(
            node("pc01", "prepared", *CHANGES),
            node("pc02", "prepared", *CHANGES),
            node("pc03", "deferred", pending=PENDING),
            node("pc04", "failed"),
        ),
    )
    assert render_text(preparation_view(found), 120) == expected_text("""
        registry r.lab:5000  ready  answers; used as it is
        pc[01-02]  prepared  prepared with these changes:
          - install docker.io from Debian 13's sources on the node
        pc03  deferred  in use; not changed where a restart would stop containers
          - pending: restart the engine: it reads daemon.json when it starts
        pc04  failed  not ready
        ╷ no_apt  pc04
        │ the node has no apt-get
        │ why: packages are apt's
        │ fix: install by hand
        ╵

        2 of 4 nodes ready. --restart-engine makes the pending changes; it stops the containers of these nodes for a moment.
    """)  # noqa: E501  (as it is printed)


def test_a_managed_registry_is_shown_with_its_host() -> None:
    registry = RegistryPreparation(node="store", address="r.lab:5000", state="lacking", changes=("make an authority",))
    found = Preparation(lab="demo", check=True, registry=registry, nodes=())
    assert render_text(preparation_view(found)).splitlines()[:2] == [
        "registry r.lab:5000  lacking  on store  not changed yet; missing:",
        "  - make an authority",
    ]


def a_collection(**over: object) -> GarbageReport:
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


def test_kept_images_with_reasons_and_removed_images() -> None:
    assert render_text(gc_view(a_collection(dry_run=True, silent=("pc07",)))) == expected_text("""
        keep  new  4.26 GB  lock lab.lock
        would remove  old, older  4.1 GB  in no lock, on no node

        1 image, 3.9 GB that no other image here shares.
        No answer: pc07.
    """)
    assert "removed  old, older" in render_text(gc_view(a_collection(freed=3_900_000_000)))
    assert render_text(gc_view(a_collection(removed=()))).endswith("Nothing to remove: 1 image, all in use.")
