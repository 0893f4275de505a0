from provisioner.console.upgrade import change_view
from provisioner.domain.rollout.upgrade import LockChange, Move
from tests.builders import a_locked_image
from tests.console.screen import drawing, drawn

OLD = a_locked_image("m:5200/p/p:2.8.0-cuda12.8", torch="2.8.0", cuda="12.8", lab="r:5201/l@sha256:" + "a" * 64)
NEW = a_locked_image("m:5200/p/p:2.14.1-cuda13.0", torch="2.14.1", cuda="13.0", lab="r:5201/l@sha256:" + "b" * 64)


def test_an_upgrade_with_everything_in_it() -> None:
    moves = [Move(node=f"n{number}", before=OLD.reference, after=NEW.reference) for number in (1, 2)]
    moves += [Move(node="v1", before=OLD.reference, after=None), Move(node="x1", before=None, after=NEW.reference)]
    change = LockChange(torch_before="2.8.0", torch_after="2.14.1", gone=(OLD,), new=(NEW,), moves=tuple(moves))
    assert drawn(change_view(change)) == drawing(f"""

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


def test_one_that_changes_nothing_says_so() -> None:
    text = drawn(change_view(LockChange(torch_before="2.8.0", torch_after="2.8.0")))
    assert "The lock stays as it is" in text


def test_the_same_torch_in_another_image() -> None:
    change = LockChange(torch_before="2.8.0", torch_after="2.8.0", gone=(OLD,), new=(OLD,))
    assert "torch stays 2.8.0; its image is another one:" in drawn(change_view(change))
