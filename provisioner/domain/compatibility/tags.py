"""Derives what an image contains from its tag and, if it was read, from its config.

The environment takes precedence over the build arguments in the history, and these over the tag. If tag and config
disagree about torch or CUDA, the image is unknown: wrong tags exist (gpu-jupyter#139, pytorch#91097).
"""

import posixpath
import re
from collections.abc import Iterator, Mapping

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.requirement import devel_requirement, read_requirements
from provisioner.domain.compatibility.torch_version import how_to_measure, release_of, torch_fits
from provisioner.domain.values.image import Flavour, ImageFacts, TaggedImage, base_platform
from provisioner.domain.values.measured import MeasuredImage
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.version import CudaVersion, DottedVersion

# pytorch's own images; the patch of torch and of CUDA may be left out.
_OFFICIAL = re.compile(
    r"(?P<torch>\d{1,9}\.\d{1,9}(?:\.\d{1,9})?)-cuda(?P<cuda>\d{1,9}(?:\.\d{1,9}){1,2})"
    r"-cudnn(?P<cudnn>\d{1,9}(?:\.\d{1,9}){0,8})"
    r"-(?P<flavour>runtime|devel)",
    re.ASCII,
)
# nvcr.io/nvidia/pytorch and its mirrors; other NVIDIA containers have tags of the same form.
_NGC = re.compile(r"(?P<month>\d\d\.\d\d)-py3(?P<integrated>-igpu)?")
_NGC_REPOSITORY = re.compile(r"(.*/)?nvidia/pytorch")
_OFFICIAL_REPOSITORY = re.compile(r"(.*/)?pytorch/pytorch")
_LOCAL_CUDA = re.compile(r"cu([0-9]{1,2})([0-9])")
_NUMBERS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,8}")  # Python refuses to parse numbers with too many digits
# Build arguments as both builders record them: `|2 CUDA_VERSION=12.8.1 … /bin/sh -c …`, `RUN |2 … # buildkit`; and ENV.
_ARGUMENTS = re.compile(
    r"(?:RUN )?\|\d+ (?P<arguments>.*?)(?: /bin/\w+ -| #|$)|(?:/bin/sh -c #\(nop\) +)?ENV (?P<env>.*)", re.DOTALL
)
_ASSIGNMENT = re.compile(r"(?:^|\s)(PYTORCH_VERSION|CUDA_VERSION)=\"?([\w.+]+)")

# With both, the dynamic linker loads a library of the image into every program, with its rights. Up to version 1.17.7,
# the hook of NVIDIA's container toolkit was such a program, as root of the host (CVE-2025-23266).
_PRELOADS = ("LD_PRELOAD", "LD_AUDIT")
# Folders that users of a seat write to; in them, a library would take the place of the image's own.
_WRITABLE = re.compile(r"/(home|root|tmp|var/tmp|dev/shm)(/|$)")

# What else torch is built for: words of a reference, variables of a config, and the name for a sentence.
_OTHERS = (
    (r"rocm[\d.]*|hip|gfx\d+\w*", "PYTORCH_ROCM_ARCH ROCM_PATH ROCM_VERSION", "AMD GPUs (ROCm)"),
    (r"ascend\w*|cann[\d.]*|npu|910b\d*|310p\d*", "ASCEND_HOME_PATH ASCEND_TOOLKIT_HOME", "Ascend NPUs (CANN)"),
    (r"xpu|ipex|oneapi", "ONEAPI_ROOT", "Intel GPUs (XPU)"),
    (r"hpu|gaudi\d*|habana\w*", "HABANA_LOGS", "Gaudi (HPU)"),
    (r"musa[\d.]*", "MUSA_HOME", "Moore Threads GPUs (MUSA)"),
    (r"dtk[\d.]*|dcu", "DTK_HOME", "Hygon DCUs (DTK)"),
    (r"tpu|xla", "", "TPUs (XLA)"),
    (r"cpu", "", "processors alone (CPU)"),
)
_CUDA_WORD = re.compile(r"cuda|cu1\d\d|gpu")
_NIGHTLY = re.compile(r"\.?dev\d{6,8}|nightly|(?<=\d)-?rc\d+|pytorch-test\b")

Facts = dict[str, tuple[str, str]]  # fact -> (value, source)


def read_facts(image: TaggedImage, data: CompatibilityData) -> ImageFacts:
    """Return what an image contains. Never raises.

    Its problems are `unknown_build`, `unsafe_environment` and `image_volume`.
    """
    env = image.env or {}
    from_tag = _facts_of_tag(image.reference, data)
    from_config = _facts_of_config(env, image.history or (), image.labels or {})
    facts: Facts = {**from_tag, **from_config}
    if "cuda" not in facts and "torch" in facts:
        facts.update(_cuda_from_requirement(facts["torch"][0], env, data))
    measured = data.measured_image(image.digest)
    if measured is not None:
        facts = {**facts, **_facts_of_row(measured)}
    ngc = "month" in facts or "a0" in facts.get("torch", ("", ""))[0]
    known = {name: value for name, (value, _) in facts.items() if value}
    other = _find_other(image, known)
    if measured is not None and measured.cuda is None:
        other = other or "something else, as was measured,"
    nightly = measured is None and _is_nightly(image.reference, known)
    return ImageFacts(
        reference=image.reference,
        family="ngc" if ngc else "wheel",
        torch=known.get("torch"),
        cuda=CudaVersion(known["cuda"]) if "cuda" in known else None,
        cudnn=DottedVersion(known["cudnn"]) if "cudnn" in known else None,
        flavour=_flavour(known.get("flavour")),
        month=known.get("month"),
        integrated="integrated" in known,
        compiled_for=_arch_list(env) if ngc else None,
        measured=measured,
        is_measurable=measured is None and other is None and not nightly,
        platforms=_platforms(image, ngc=ngc, integrated="integrated" in known, official=bool(from_tag)),
        requires=_requires(image, known, data),
        sync=image.sync,
        sources={name: source for name, (_, source) in sorted(facts.items())},
        problems=(
            *(() if measured else _conflict_problems(image.reference, from_tag, from_config)),
            *(
                [_other_problem(image.reference, other)]
                if other
                else _missing_problems(image, known, data, ngc=ngc, nightly=nightly)
            ),
            *_environment_problems(image.reference, env),
            *_volume_problems(image),
        ),
    )


def _facts_of_row(row: MeasuredImage) -> Facts:
    """Return what was measured, whatever tag and config say; an empty text for the CUDA of a build without it."""
    release = row.torch.partition("+")[0]
    torch = release if _NUMBERS.fullmatch(release) else row.torch
    return {"torch": (torch, "measured"), "cuda": (str(row.cuda or ""), "measured")}


def _facts_of_tag(reference: str, data: CompatibilityData) -> Facts:
    """Return what the text of a tag says; empty if it has no known form."""
    try:
        name = ImageReference.parse(reference)
    except ValueError:
        return {}
    official = _OFFICIAL.fullmatch(name.tag or "")
    if official:
        return {fact: (value, "tag") for fact, value in official.groupdict().items()}
    ngc = _NGC.fullmatch(name.tag or "")
    if ngc is None or not _NGC_REPOSITORY.fullmatch(name.repository):
        return {}
    row = data.ngc_month(ngc["month"])
    found = {
        "month": ngc["month"],
        "integrated": ngc["integrated"],
        "torch": row.torch if row else None,
        "cuda": str(row.cuda) if row and row.cuda else None,
    }
    return {fact: (value, "tag") for fact, value in found.items() if value}


def _facts_of_config(env: Mapping[str, str], history: tuple[str, ...], labels: Mapping[str, str]) -> Facts:
    """Return what the image's config says; the environment takes precedence over the history."""
    found = _versions(_build_arguments(history), "history") | _versions(env, "env")
    cudnn = env.get("NV_CUDNN_VERSION") or env.get("CUDNN_VERSION") or labels.get("com.nvidia.cudnn.version") or ""
    if match := _NUMBERS.match(cudnn):
        found["cudnn"] = (match[0], "env")
    if month := env.get("NVIDIA_PYTORCH_VERSION"):
        found["month"] = (month, "env")
    return found


def _versions(variables: Mapping[str, str], source: str) -> Facts:
    found: Facts = {}
    torch, _, local = variables.get("PYTORCH_VERSION", "").partition("+")
    if match := _NUMBERS.match(variables.get("CUDA_VERSION", "")):
        found["cuda"] = (match[0], f"{source} CUDA_VERSION")
    # "2.8.0+cu128" names the CUDA of torch; CUDA_VERSION is the base image's.
    if built := _LOCAL_CUDA.fullmatch(local):
        found["cuda"] = (f"{built[1]}.{built[2]}", f"{source} PYTORCH_VERSION")
    if torch:
        whole = torch if built or not local else f"{torch}+{local}"
        found["torch"] = (whole, f"{source} PYTORCH_VERSION")
    return found


def _build_arguments(history: tuple[str, ...]) -> dict[str, str]:
    """Return the last value of each build argument in the history. The command of a RUN line is never read."""
    found: dict[str, str] = {}
    for step in history:
        match = _ARGUMENTS.match(step)
        if match:
            found.update(_ASSIGNMENT.findall(match["arguments"] or match["env"] or ""))
    return found


def _cuda_from_requirement(torch: str, env: Mapping[str, str], data: CompatibilityData) -> Facts:
    """Return the CUDA that an nvidia/cuda image requires first ("cuda>=12.8 …"), if torch has a build for it."""
    match = re.match(r"cuda>=([0-9]{1,9}\.[0-9]{1,9})(\s|$)", env.get("NVIDIA_REQUIRE_CUDA", ""))
    release = release_of(torch)
    if match is None or release is None or data.build(release, CudaVersion(match[1])) is None:
        return {}
    return {"cuda": (match[1], "env NVIDIA_REQUIRE_CUDA")}


def _flavour(text: str | None) -> Flavour | None:
    return "runtime" if text == "runtime" else "devel" if text == "devel" else None


def _arch_list(env: Mapping[str, str]) -> tuple[str, ...] | None:
    return tuple(re.split(r"[\s;,]+", text.strip())) if (text := env.get("TORCH_CUDA_ARCH_LIST")) else None


def _platforms(image: TaggedImage, *, ngc: bool, integrated: bool, official: bool) -> tuple[str, ...]:
    """Return the registry's list, else what is known of the publisher's images; empty if nothing is.

    The official images with CUDA are amd64 only (pytorch#188815, unmerged).
    """
    if image.platforms:
        return tuple(base_platform(platform) for platform in image.platforms)
    if integrated:
        return ("linux/arm64",)
    repository = image.reference.partition("@")[0].rpartition(":")[0]
    if official and ngc:
        return ("linux/amd64", "linux/arm64")
    return ("linux/amd64",) if official and _OFFICIAL_REPOSITORY.fullmatch(repository) else ()


def _find_other(image: TaggedImage, known: Mapping[str, str]) -> str | None:
    """Return what an image is built for instead of CUDA; None if it is for CUDA, or if nothing says so."""
    words = set(_words(known.get("torch", "").partition("+")[2]))
    variables = set[str]()
    if "cuda" not in known:
        variables |= set(image.env or ())
        named = set(_words(_name_in_registry(image.reference).lower()))
        words |= named if not any(_CUDA_WORD.match(word) for word in named) else set()
    return next(
        (
            name
            for pattern, own, name in _OTHERS
            if any(re.fullmatch(pattern, word) for word in words) or variables & set(own.split())
        ),
        None,
    )


def _words(text: str) -> list[str]:
    return re.split(r"[^a-z0-9.]+|\.(?=\D)", text)


def _name_in_registry(reference: str) -> str:
    """Return an image's repository and tag, without the address of the registry."""
    try:
        name = ImageReference.parse(reference)
    except ValueError:
        return reference
    return f"{name.repository}:{name.tag}"


def _is_nightly(reference: str, known: Mapping[str, str]) -> bool:
    return _NIGHTLY.search(f"{reference} {known.get('torch', '')}") is not None


def _requires(image: TaggedImage, known: Mapping[str, str], data: CompatibilityData) -> tuple[str, ...]:
    if image.env is not None:
        return read_requirements(image.env)
    if known.get("flavour") == "devel":
        return (devel_requirement(CudaVersion(known["cuda"]), data),)
    return ()


def _environment_problems(reference: str, env: Mapping[str, str]) -> Iterator[Problem]:
    """Yield a problem `unsafe_environment` for each variable by which foreign code gets into programs of a seat."""
    folders = filter(_WRITABLE.match, map(posixpath.normpath, env.get("LD_LIBRARY_PATH", "").split(":")))
    for variable in (
        *(f"{name}={env[name][:100]}" for name in _PRELOADS if env.get(name)),
        *(f"LD_LIBRARY_PATH with {folder[:100]}" for folder in folders),
    ):
        yield Problem(
            "unsafe_environment",
            f"{reference} sets {variable}",
            "so a library of somebody else gets into every program of a seat, or into NVIDIA's hook (CVE-2025-23266)",
            "choose another image; if it is your own, build it without the variable",
        )


def _volume_problems(image: TaggedImage) -> Iterator[Problem]:
    """Yield a problem `image_volume` for each path whose files an upgrade of the image would not replace."""
    for path in image.volumes:
        yield Problem(
            "image_volume",
            f"{image.reference} declares {path[:100]} as a volume",
            "the engine moves a volume on to the next container, where it covers the files of the new image",
            "choose another image; if it is your own, build it without VOLUME",
        )


def _conflict_problems(reference: str, from_tag: Facts, from_config: Facts) -> list[Problem]:
    if "month" in from_tag:  # its versions come from our data, not from the tag
        return []
    return [
        Problem(
            "unknown_build",
            f"{reference}: the tag says {fact} {from_tag[fact][0]}, "
            f"its {from_config[fact][1]} says {from_config[fact][0]}",
            "one of the two is wrong, and it is not known which",
            f"{how_to_measure(reference)}, or choose another tag",
        )
        for fact in ("torch", "cuda")
        if fact in from_tag and fact in from_config and not _agree(from_tag[fact][0], from_config[fact][0])
    ]


def _agree(tag_version: str, config_version: str) -> bool:
    """Compare the parts that both versions have: 12.8 agrees with 12.8.1."""
    return all(a == b for a, b in zip(tag_version.split("."), re.split(r"[.+]", config_version), strict=False))


def _other_problem(reference: str, other: str) -> Problem:
    return Problem(
        "unknown_build",
        f"{reference} is built for {other}, not for CUDA",
        "torch in it would not see a card of NVIDIA",
        "choose a tag that names a version of CUDA",
    )


def _missing_problems(
    image: TaggedImage, known: Mapping[str, str], data: CompatibilityData, *, ngc: bool, nightly: bool
) -> list[Problem]:
    needed = (("cuda", "CUDA"),) if ngc else (("torch", "torch"), ("cuda", "CUDA"))
    absent = [name for fact, name in needed if fact not in known]
    if not absent:
        return []
    what = (
        f"{image.reference}: neither its tag nor its config (as far as it was read) names the version of"
        f" {' and '.join(absent)}"
    )
    if nightly:
        why = "it is a nightly or a release candidate: each is another build, and the data has released builds only"
        return [Problem("unknown_build", what, why, "choose a tag of a released torch")]
    if ngc:
        month = known.get("month", "an unknown month")
        why = f"the data of {data.version} does not have the contents of NVIDIA's image of {month}"
        unread = "" if image.env is not None else f"let `provision mirror check {image.reference}` read its config, or "
        return [Problem("unknown_build", what, why, unread + how_to_measure(image.reference))]
    why = "a private name does not say what the image contains; it may lack code for a card"
    return [Problem("unknown_build", what, why, f"{how_to_measure(image.reference)}, or choose an official tag")]


def may_match(tag: str, torch: str, flavour: Flavour) -> bool:
    """Return whether a tag may meet a request; its text can only rule it out.

    Tags of signatures and attestations (sha256-…) are not images.
    """
    official = _OFFICIAL.fullmatch(tag)
    if official is None:
        return not re.match(r"sha256-[0-9a-f]{64}", tag)
    return torch_fits(official["torch"], torch) and (flavour == "runtime" or official["flavour"] == flavour)
