"""A lab is a directory: where it is, its wish, its inventory, and the files that the wish names."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from provisioner.adapters.lab.keyfiles import certificates, package_key, public_keys
from provisioner.adapters.lab.source_location import SourceDocument, read_yaml
from provisioner.adapters.lab.validation import did_you_mean, validated
from provisioner.adapters.state.files import read_text
from provisioner.domain.lab.lab import Lab, Registry
from provisioner.domain.values.problem import Problem, ProblemError

WISH, LOCK = "lab.yml", "lab.lock"
# The authority of a registry that `provision prepare` set up: written there by it, and read where lab.yml names none.
MANAGED_CA = "registry-ca.pem"
LABS = Path("inventories")

# What may stand in a field of lab.yml whose rule is a pattern, as a person would say it.
WORDS = {
    "address": "HOST or HOST:PORT, such as registry.lab:5000",
    "repositories": "a list of lower-case names such as pytorch/pytorch",
    "repository": "a lower-case name such as provisioner/lab",
    "url": "https://HOST/PATH, or a file below this directory",
    "uri": "http://HOST/PATH or https://HOST/PATH, such as https://mirror.example/docker-ce/linux",
    "job": "the name of the sync job in the feed",
    "name": "lower-case letters, digits and -, starting with a letter, at most 31",
    "user": "a Linux user name: lower-case letters, digits, _ and -, at most 31",
    "homes": "an absolute path of letters, digits, dots, _ and -, such as /srv/homes",
    "memory": 'a size such as "512m" or "8g"',
    "shm": 'a size such as "512m" or "8g"',
    "days": "a list of mon, tue, wed, thu, fri, sat and sun",
    "from": 'a day such as 2026-12-20 in freeze, an hour in quotes such as "22:00" in windows',
    "to": 'a day such as 2027-01-10 in freeze, an hour in quotes such as "06:00" in windows',
    "why": "a few words for those who are kept waiting",
    "timezone": "a name such as Europe/Berlin or Asia/Shanghai",
    "torch": 'a version or a range in quotes, such as "2.8.0" or ">=2.6,<3"',
}

_INVENTORIES = ("hosts.yml", "hosts.yaml", "hosts.ini", "hosts", "inventory*")
_NOT_INVENTORIES = (".bak", ".orig", ".swp", ".retry", "~")


class LabDirectory(NamedTuple):
    """`keys` are the public SSH keys that the wish names; `registry_ca` is the text of its certificate (PEM).

    `package_keys`: source of packages (docker, nvidia) -> the text of the key that it is signed by.
    """

    path: Path
    lab: Lab
    inventory: Path
    keys: tuple[str, ...] = ()
    registry_ca: str | None = None
    package_keys: Mapping[str, str] = {}

    @property
    def lock(self) -> Path:
        return self.path / LOCK

    def below(self, name: str | None) -> Path | None:
        """A file that the wish names: relative to the lab's directory."""
        return None if name is None else self.path / name


def find_lab(name: str) -> Path:
    """The directory of LAB: a path, or a name looked up here and below inventories/. Raises ProblemError."""
    places = [Path(name)] if "/" in name else [Path(name), LABS / name]
    found = next((p for p in places if (p / WISH).exists()), None) or next((p for p in places if p.is_dir()), None)
    if found is None:
        raise ProblemError(_no_lab(name, places), "usage")
    return found


def read_lab(name: str) -> LabDirectory:
    """Everything that a lab's directory says. Raises ProblemError with every mistake in it."""
    path = find_lab(name)
    written = read_wish(path / WISH)
    keys, authorities = list(_named_keys(path, written)), dict(_named_authorities(path, written))
    packages, inventory = dict(_named_package_keys(path, written)), _inventory(path)
    found = [*keys, *authorities.values(), *packages.values(), inventory]
    lab = validated(written, Lab, WORDS, (value for value in found if isinstance(value, Problem)))
    lab = lab.model_copy(update={"registry": _with_managed_ca(path, lab.registry)})
    return LabDirectory(
        path=path,
        lab=lab,
        inventory=path / str(inventory),
        keys=tuple(dict.fromkeys(line for lines in keys if not isinstance(lines, Problem) for line in lines)),
        registry_ca=_registry_ca(path, lab.registry, authorities),
        package_keys={name: key for name, key in packages.items() if isinstance(key, str)},
    )


def _with_managed_ca(path: Path, wish: Registry) -> Registry:
    there = wish.managed and wish.ca is None and (path / MANAGED_CA).exists()
    return wish.model_copy(update={"ca": MANAGED_CA}) if there else wish


def _registry_ca(path: Path, wish: Registry, authorities: Mapping[str, str | Problem]) -> str | None:
    """Raises ProblemError where the file that we wrote once is no certificate any more."""
    if wish.ca is None:
        return None
    found = authorities.get("registry") or certificates(path / wish.ca, str(path / wish.ca))
    if isinstance(found, Problem):
        raise ProblemError(found, "usage")
    return found


def read_wish(path: Path) -> SourceDocument:
    return read_yaml(str(path), read_text(path, f"provision init {path.parent}"))


def _named_keys(path: Path, written: SourceDocument) -> Iterator[tuple[str, ...] | Problem]:
    """The key files that a wish names, read whether or not the rest of it is right: all mistakes are told at once."""
    for index, name in enumerate(_texts(written.data, "seat", "authorized_keys")):
        yield public_keys(path / name, written.place(("seat", "authorized_keys", index)))


def _named_authorities(path: Path, written: SourceDocument) -> Iterator[tuple[str, str | Problem]]:
    for way in (("mirror",), ("mirror", "upstream"), ("registry",)):
        for name in _texts(written.data, *way, "ca"):
            yield way[-1], certificates(path / name, written.place((*way, "ca")))


def _named_package_keys(path: Path, written: SourceDocument) -> Iterator[tuple[str, str | Problem]]:
    for name in ("docker", "nvidia"):
        way = ("prepare", name, "key")
        for file in _texts(written.data, *way):
            yield name, package_key(path / file, written.place(way))


def _texts(data: Any, *way: str) -> Iterator[str]:
    """The text or the texts at a place in a document that nobody has checked yet."""
    for key in way:
        data = data.get(key) if isinstance(data, dict) else None
    yield from (text for text in (data if isinstance(data, list) else [data]) if isinstance(text, str))


def inventories(path: Path) -> list[str]:
    """The inventories of a lab's directory, by the names that Ansible users give them; it should have one."""
    found = (candidate.name for pattern in _INVENTORIES for candidate in sorted(path.glob(pattern)))
    return [name for name in found if not name.endswith(_NOT_INVENTORIES)]


def _inventory(path: Path) -> str | Problem:
    found = inventories(path)
    if len(found) == 1:
        return found[0]
    return _ambiguous(path, found) if found else _no_inventory(path)


def _no_lab(name: str, places: list[Path]) -> Problem:
    known = sorted(wish.parent.name for wish in LABS.glob(f"*/{WISH}"))
    looked = " and ".join(str(place) if place.is_absolute() else f"./{place}" for place in places)
    return Problem(
        "no_such_lab",
        f"there is no lab {name}: looked at {looked}{did_you_mean(name, known)}",
        "a lab is a directory that holds hosts.yml and lab.yml",
        f"provision init {name}",
    )


def _no_inventory(path: Path) -> Problem:
    return Problem(
        "no_inventory",
        f"{path}: no inventory: none of {', '.join(_INVENTORIES)}",
        "the nodes of a lab are those of its Ansible inventory",
        f"provision init {path}",
    )


def _ambiguous(path: Path, found: list[str]) -> Problem:
    return Problem(
        "two_inventories",
        f"{path}: more than one inventory: {', '.join(found)}",
        "taking one of them would leave out nodes without a word",
        "keep one, or put them into a directory named inventory/ and let Ansible merge them",
    )
