"""Damages to the files of a registry."""

from collections.abc import Callable

from tests.adapters.registry.made_image import Made
from tests.adapters.registry.real_registry import RealRegistry

Damage = Callable[[RealRegistry, Made], None]


def lose_layer(registry: RealRegistry, image: Made) -> None:
    registry.blob(image.layers[0]).unlink()


def lose_small_layer(registry: RealRegistry, image: Made) -> None:
    registry.blob(image.layers[2]).unlink()


def halve_layer(registry: RealRegistry, image: Made) -> None:
    blob = registry.blob(image.layers[0])
    blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2])


def cut_last_byte(registry: RealRegistry, image: Made) -> None:
    blob = registry.blob(image.layers[1])
    blob.write_bytes(blob.read_bytes()[:-1])


def empty_layer(registry: RealRegistry, image: Made) -> None:
    registry.blob(image.layers[0]).write_bytes(b"")


def lose_config(registry: RealRegistry, image: Made) -> None:
    registry.blob(image.config).unlink()


def empty_config(registry: RealRegistry, image: Made) -> None:
    registry.blob(image.config).write_bytes(b"")


def flip_byte(registry: RealRegistry, image: Made) -> None:
    blob = registry.blob(image.layers[0])
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)


def page_for_layer(registry: RealRegistry, image: Made) -> None:
    blob = registry.blob(image.layers[0])
    blob.write_bytes(b"<!DOCTYPE html>".ljust(blob.stat().st_size, b" "))


def other_manifest(registry: RealRegistry, image: Made) -> None:
    registry.blob(image.manifest).write_bytes(image.body + b" ")


def lose_manifest(registry: RealRegistry, image: Made) -> None:
    registry.blob(image.manifest).unlink()


def lose_link(registry: RealRegistry, image: Made) -> None:
    for link in registry.links(image.layers[1]):
        link.unlink()


def nothing(registry: RealRegistry, image: Made) -> None:
    """Leave the files as they are."""


DAMAGES: dict[str, Damage] = {
    "nothing": nothing,
    "layer deleted": lose_layer,
    "small layer deleted": lose_small_layer,
    "layer halved": halve_layer,
    "last byte of a layer lost": cut_last_byte,
    "layer emptied": empty_layer,
    "config deleted": lose_config,
    "config emptied": empty_config,
    "web page stored as a layer": page_for_layer,
    "one byte flipped": flip_byte,
    "manifest of other bytes": other_manifest,
    "manifest deleted": lose_manifest,
    "link of a layer lost": lose_link,
    "link of a layer lost, but remembered": lose_link,
}
