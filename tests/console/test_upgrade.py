from typing import Any

from provisioner.console.upgrade import lock_change_view
from provisioner.domain.lab.lock import UNBUILT
from provisioner.domain.rollout.upgrade import ImageChange, LockChange, NamedChange
from tests.builders import a_locked_image
from tests.console.screen import expected_text, render_text

OLD = a_locked_image("m:5200/p/p:2.8.0-cuda12.8", torch="2.8.0", cuda="12.8", lab="r:5201/l@sha256:" + "a" * 64)
NEW = a_locked_image("m:5200/p/p:2.14.1-cuda13.0", torch="2.14.1", cuda="13.0", lab="r:5201/l@sha256:" + "b" * 64)


def test_an_upgrade_with_every_kind_of_change() -> None:
    moves = [ImageChange(node=f"n{number}", before=OLD.reference, after=NEW.reference) for number in (1, 2)]
    moves += [
        ImageChange(node="v1", before=OLD.reference, after=None),
        ImageChange(node="x1", before=None, after=NEW.reference),
    ]
    change = LockChange(torch_before="2.8.0", torch_after="2.14.1", gone=(OLD,), new=(NEW,), moves=tuple(moves))
    assert render_text(lock_change_view(change)) == expected_text(f"""

        torch 2.8.0 -> 2.14.1
          - m:5200/p/p:2.8.0-cuda12.8
              CUDA 12.8
              r:5201/l@sha256:{"a" * 64}
          + m:5200/p/p:2.14.1-cuda13.0
              CUDA 13.0
              r:5201/l@sha256:{"b" * 64}
          n[1-2]  2.8.0-cuda12.8 -> 2.14.1-cuda13.0
          v1  2.8.0-cuda12.8 -> no image
          x1  no image -> 2.14.1-cuda13.0
    """)


def test_an_image_that_is_not_built_yet_has_no_digest() -> None:
    unbuilt = NEW.model_copy(update={"lab": f"r:5201/l@{UNBUILT}"})
    text = render_text(lock_change_view(LockChange(torch_before="2.8.0", torch_after="2.14.1", new=(unbuilt,))))
    assert "CUDA 13.0\n      not built yet: its digest is known after that" in text
    assert UNBUILT not in text


def test_an_upgrade_without_changes() -> None:
    text = render_text(lock_change_view(LockChange(torch_before="2.8.0", torch_after="2.8.0")))
    assert "The lock stays as it is" in text


def test_an_upgrade_to_another_image_with_the_same_torch() -> None:
    change = LockChange(torch_before="2.8.0", torch_after="2.8.0", gone=(OLD,), new=(OLD,))
    assert "torch stays 2.8.0; its image changes:" in render_text(lock_change_view(change))


def test_named_environments_are_shown_after_default_and_alone_where_it_stays() -> None:
    move = ImageChange(node="n1", before=None, after=OLD.reference)
    torch: dict[str, Any] = {"torch_before": None, "torch_after": "2.8.0"}
    named = {
        "2026s": NamedChange(state="kept", new=(OLD,), moves=(move,), **torch),
        "cv": NamedChange(state="added", **torch),
        "nlp": NamedChange(state="removed", torch_before="2.8.0", torch_after=None, gone=(OLD,)),
        "rl": NamedChange(state="changed", torch_before="2.8.0", torch_after="2.14.1"),
    }
    text = render_text(lock_change_view(LockChange(torch_before="2.8.0", torch_after="2.8.0", environments=named)))
    assert [line for line in text.splitlines() if line.startswith(("environment", "torch"))] == [
        "environment 2026s: the images of before stay under this name, torch 2.8.0",
        "environment cv: new, torch 2.8.0",
        "environment nlp: lab.yml does not name it any more; seats keep its image until the rollout",
        "environment rl: torch 2.8.0 -> 2.14.1",
    ]
    assert "n1  no image -> 2.8.0-cuda12.8" in text
