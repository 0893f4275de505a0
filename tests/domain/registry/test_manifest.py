"""Parsing manifests, indexes and configs: OCI and Docker media types, and everything that is not an image."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.registry.manifest import (
    ACCEPT,
    Blob,
    ImageIndex,
    ImageManifest,
    choose,
    digest_of,
    is_image_tag,
    read_config,
    read_manifest,
    read_tags,
    same_platform,
)

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
KINDS = {
    "oci": (f"{OCI}.manifest.v1+json", f"{OCI}.config.v1+json", f"{OCI}.layer.v1.tar+zstd", f"{OCI}.index.v1+json"),
    "docker": (
        f"{DOCKER}.distribution.manifest.v2+json",
        f"{DOCKER}.container.image.v1+json",
        f"{DOCKER}.image.rootfs.diff.tar.gzip",
        f"{DOCKER}.distribution.manifest.list.v2+json",
    ),
}


def a_descriptor(text: str, media_type: str, size: int = 10, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(text.encode()), "size": size, **more}


def a_manifest(kind: str = "oci", layers: tuple[dict[str, Any], ...] | None = None, **over: Any) -> bytes:
    media_type, config, layer, _ = KINDS[kind]
    descriptors = tuple(a_descriptor(name, layer, 100) for name in "aab") if layers is None else layers
    document = {"schemaVersion": 2, "mediaType": media_type, "config": a_descriptor("config", config)}
    document["layers"] = descriptors
    return json.dumps(document | over).encode()


def an_entry(platform: str, text: str) -> dict[str, Any]:
    os, architecture, variant = (*platform.split("/"), "", "")[:3]
    named = {"os": os, "architecture": architecture} | ({"variant": variant} if variant else {})
    return a_descriptor(text, KINDS["oci"][0], platform=named)


def an_index(*platforms: str) -> ImageIndex:
    entries = [an_entry(platform, f"{number} {platform}") for number, platform in enumerate(platforms)]
    read = read_manifest(json.dumps({"schemaVersion": 2, "mediaType": KINDS["oci"][3], "manifests": entries}).encode())
    assert isinstance(read, ImageIndex)
    return read


@pytest.mark.parametrize("kind", KINDS)
def test_manifest_of_oci_and_docker_is_read(kind: str) -> None:
    body = a_manifest(kind)
    read = read_manifest(body)
    assert isinstance(read, ImageManifest)
    assert read.digest == digest_of(body)
    assert [layer.digest for layer in read.own_layers] == [digest_of(b"a"), digest_of(b"b")]
    assert (read.size, read.config.digest) == (210, digest_of(b"config"))


def test_foreign_layers_are_not_required() -> None:
    foreign = f"{DOCKER}.image.rootfs.foreign.diff.tar.gzip"
    layers = (
        a_descriptor("windows", foreign, 5000, urls=["https://example.org/base"]),
        a_descriptor("pushed after all", foreign, 50),
        a_descriptor("ours", KINDS["docker"][2], 100),
    )
    read = read_manifest(a_manifest("docker", layers))
    assert isinstance(read, ImageManifest)
    assert [layer.size for layer in read.own_layers] == [50, 100]
    assert read.size == 160


NOT_IMAGES: dict[str, bytes] = {
    "web page": b"<!DOCTYPE html>",
    "nothing": b"",
    "list": b"[]",
    "schema 1": b'{"schemaVersion": 1, "fsLayers": []}',
    "both": json.dumps(json.loads(a_manifest()) | {"manifests": []}).encode(),
    "no config": b'{"schemaVersion": 2, "layers": []}',
    "negative size": a_manifest(layers=(a_descriptor("a", KINDS["oci"][2], -1),)),
    "digest that is a path": a_manifest(layers=({"mediaType": "x", "digest": "sha256:../../etc", "size": 1},)),
    "chart": a_manifest(config=a_descriptor("c", "application/vnd.cncf.helm.config.v1+json")),
}


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_other_documents_are_refused_with_a_reason(name: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_manifest(NOT_IMAGES[name])


@pytest.mark.parametrize(
    ("kind", "over", "sent_as"),
    [
        ("oci", {}, KINDS["oci"][3]),
        ("oci", {}, KINDS["docker"][0]),
        ("docker", {}, KINDS["oci"][0]),
        ("docker", {"mediaType": None}, KINDS["docker"][0]),
        ("docker", {}, "application/json"),
        ("docker", {"mediaType": KINDS["docker"][3]}, ""),
        ("docker", {"schemaVersion": "2"}, ""),
        ("oci", {"annotations": {"a": 5}}, ""),
    ],
)
def test_a_manifest_of_another_type_than_it_is_sent_as_is_refused(
    kind: str, over: dict[str, Any], sent_as: str
) -> None:
    body = a_manifest(kind, **over)
    with pytest.raises(ValueError, match=r"sent as|calls itself|schemaVersion|annotations"):
        read_manifest(body, sent_as)


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_of_the_type_that_it_is_sent_as_is_read(kind: str) -> None:
    assert isinstance(read_manifest(a_manifest(kind), KINDS[kind][0]), ImageManifest)
    assert isinstance(read_manifest(a_manifest("oci", mediaType=None), KINDS["oci"][0]), ImageManifest)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_parsers_raise_only_value_error(body: bytes) -> None:
    for read in (read_manifest, read_config, read_tags):
        try:
            read(body)
        except ValueError:
            continue


PLATFORMS = {
    ("linux/amd64", ("linux/arm64", "linux/amd64")): 1,
    ("linux/amd64", ("linux/arm64",)): None,
    ("linux/amd64", ("unknown/unknown", "linux/amd64")): 1,
    ("linux/amd64", ("linux/amd64/v3", "linux/amd64")): 1,
    ("linux/amd64", ("windows/amd64", "linux/amd64")): 1,
    ("linux/arm64", ("linux/arm64/v8",)): 0,
    ("linux/arm/v7", ("linux/arm/v6", "linux/arm/v7")): 1,
    ("linux/arm/v7", ("linux/arm/v6",)): None,
    ("linux/amd64", ("linux/amd64/v2",)): None,
    ("linux/amd64", ("linux/amd64/v1",)): 0,
    ("linux/amd64", ("linux/x86_64",)): 0,
    ("linux/amd64/v3", ("linux/amd64", "linux/amd64/v3")): 1,
    ("linux/amd64/v3", ("linux/amd64",)): 0,
    ("linux/arm64", ("linux/arm64/v9",)): None,
    ("linux/amd64", ()): None,
}


@pytest.mark.parametrize(("wanted", "offered"), PLATFORMS)
def test_choose_returns_the_manifest_of_the_platform(wanted: str, offered: tuple[str, ...]) -> None:
    index, place = an_index(*offered), PLATFORMS[wanted, offered]
    assert choose(index, wanted) == (None if place is None else index.manifests[place])


def test_choose_falls_back_to_a_manifest_without_platform() -> None:
    unnamed = a_descriptor("unnamed", KINDS["oci"][0])
    body = {"schemaVersion": 2, "manifests": [unnamed, an_entry("linux/amd64", "amd")]}
    index = read_manifest(json.dumps(body).encode())
    assert isinstance(index, ImageIndex)
    assert (choose(index, "linux/arm64"), choose(index, "linux/amd64")) == index.manifests


def test_platforms_of_an_index_leave_out_attestations() -> None:
    offered = an_index("linux/amd64", "unknown/unknown", "linux/arm64/v8", "linux/arm/v7")
    assert offered.platforms == ("linux/amd64", "linux/arm64", "linux/arm/v7")


@pytest.mark.parametrize(
    ("offered", "platform", "same"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/arm64", "linux/amd64", False),
        ("linux/arm/v7", "linux/arm", True),
        ("linux/arm/v7", "linux/arm/v6", False),
    ],
)
def test_variants_count_only_if_both_platforms_have_one(offered: str, platform: str, *, same: bool) -> None:
    assert same_platform(offered, platform) is same


def test_config_is_parsed() -> None:
    body = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/a=b", "EMPTY=", "ODD"], "Labels": {"a": "b"}},
        "history": [{"created_by": "RUN |1 X=1 true"}, {"empty_layer": True}],
        "rootfs": {"type": "layers", "diff_ids": [digest_of(b"layer")]},
    }
    read = read_config(json.dumps(body).encode())
    assert read.env == {"PATH": "/a=b", "EMPTY": "", "ODD": ""}
    assert (read.labels, read.history) == ({"a": "b"}, ("RUN |1 X=1 true", ""))
    assert (read.platform, read.diff_ids) == ("linux/amd64", (digest_of(b"layer"),))


@pytest.mark.parametrize(
    "body", [b"{}", b'{"config": null, "history": null, "rootfs": null}', b'{"config": {"Env": null}}']
)
def test_config_without_fields_is_read_as_empty(body: bytes) -> None:
    read = read_config(body)
    assert (read.env, read.labels, read.history, read.platform, read.diff_ids) == ({}, {}, (), None, ())


@pytest.mark.parametrize(
    ("tag", "is_one"),
    [
        ("2.8.0-cuda12.8-cudnn9-runtime", True),
        ("sha256-" + "0" * 64, False),
        ("sha256-" + "0" * 64 + ".sig", False),
        ("sha256-of-something", True),
        ("../../etc", False),
        ("a b", False),
        ("", False),
        ("x" * 129, False),
    ],
)
def test_tags_of_signatures_and_invalid_tags_are_not_image_tags(tag: str, *, is_one: bool) -> None:
    assert is_image_tag(tag) is is_one


def test_tags_keep_the_order_of_the_registry() -> None:
    assert read_tags(b'{"name": "x", "tags": ["2.13.0", "2.9.1", "a/b"]}') == ("2.13.0", "2.9.1")
    assert read_tags(b'{"name": "x", "tags": null}') == read_tags(b'{"name": "x"}') == ()


def test_accept_header_lists_every_supported_media_type() -> None:
    assert {media_type for kinds in KINDS.values() for media_type in (kinds[0], kinds[3])} == set(ACCEPT.split(", "))


def test_blobs_are_equal_by_value() -> None:
    assert len({Blob.model_validate(a_descriptor("a", "x")), Blob.model_validate(a_descriptor("a", "x"))}) == 1
