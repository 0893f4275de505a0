"""What may be mounted into seats, and which mistakes are found in lab.yml."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from provisioner.adapters.lab.directory import read_lab
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.mounts import Mount
from provisioner.domain.values.problem import ProblemError

BASE = {"name": "ml", "mirror": {"address": "m.lab"}, "registry": {"address": "r.lab"}}
TEXT = "name: ml\nmirror: {address: m.lab}\nregistry: {address: r.lab}\n"
PARTS = st.sampled_from(
    ["etc", "var", "home", "data", "srv", "opt", "..", ".", "", "run", "a b", "x:ro", "tmp", "$HOME"]
)


def test_a_mount_is_read_only_unless_it_says_otherwise() -> None:
    lab = Lab.model_validate(BASE | {"mounts": [{"source": "/mnt/nfs/data", "target": "/data", "mounted": True}]})
    assert lab.mounts == (Mount(source="/mnt/nfs/data", target="/data", mounted=True),)
    assert lab.mounts[0].read_only


SYSTEM = "/ /etc /etc/ssl /var/run/docker.sock /var/lib/docker /run /proc/1/root /root /usr /lib64 /boot /dev/sda /srv"
PEOPLE = "/home /home/li /tmp /srv/provisioner /srv/provisioner/homes/li"
ODD = ("data", "/data/", "//data", "/data/../etc", "/data/.", "/data:ro", "/da ta", "/data\n", "/data/$HOME", "")


@pytest.mark.parametrize("source", [*SYSTEM.split(), *PEOPLE.split(), *ODD])
def test_a_source_is_no_folder_of_the_system_or_of_people(source: str) -> None:
    with pytest.raises(ValidationError):
        Lab.model_validate(BASE | {"mounts": [{"source": source, "target": "/data"}]})


NEEDED = "/ /etc/provisioner /home/li /opt /opt/conda/bin /tmp /usr/local /dev/shm /proc /run /srv /var/data /root"


@pytest.mark.parametrize("target", [*NEEDED.split(), *ODD])
def test_a_target_hides_nothing_that_a_seat_needs(target: str) -> None:
    with pytest.raises(ValidationError):
        Lab.model_validate(BASE | {"mounts": [{"source": "/data", "target": target}]})


@pytest.mark.parametrize(("homes", "source"), [("/data/homes", "/data"), ("/data", "/data/x"), ("/data", "/data")])
def test_a_mount_and_the_homes_are_apart(homes: str, source: str) -> None:
    mounts = [{"source": source, "target": "/data"}]
    with pytest.raises(ValidationError, match="overlap"):
        Lab.model_validate(BASE | {"mounts": mounts, "seat": {"homes": homes}})
    assert Lab.model_validate(BASE | {"mounts": mounts, "seat": {"homes": "/data-2/homes"}}).mounts


def test_all_overlaps_of_targets_are_named() -> None:
    targets = ("/data", "/data/x", "/models", "/models", "/data2")
    with pytest.raises(ValidationError, match="/data and /data/x, /models and /models") as caught:
        Lab.model_validate(BASE | {"mounts": [{"source": f"/mnt/{i}", "target": t} for i, t in enumerate(targets)]})
    assert caught.value.errors()[0]["loc"] == ("mounts",)


def test_every_mistake_has_its_place(tmp_path: Path) -> None:
    wrong = "mounts:\n  - {source: /etc, target: /data}\n  - {source: /x, target: /home/li, mounted: maybe}\n"
    (tmp_path / "lab.yml").write_text(TEXT + wrong + "  - {source: /y, target: /y, propagation: shared}\n")
    with pytest.raises(ProblemError) as caught:
        read_lab(str(tmp_path))
    found = [problem.what.partition("lab.yml:")[2] for problem in caught.value.problems]
    assert [text.partition(" ")[0] for text in found if text] == ["5:14:", "6:26:", "6:45:", "7:30:"]


@given(st.lists(PARTS, max_size=4), st.lists(PARTS, max_size=4))
def test_whatever_is_accepted_is_a_plain_path_outside_of_the_system(source: list[str], target: list[str]) -> None:
    texts = ["/" + "/".join(parts) for parts in (source, target)]
    try:
        mount = Mount(source=texts[0], target=texts[1])
    except ValidationError:
        return
    for path in (mount.source, mount.target):
        assert path == str(Path(path))
        assert path.isascii()
        assert not {"etc", "var", "home", "run", "tmp"} & {path.split("/")[1]}
        assert not {" ", ":", "$", ".."} & set(path)
