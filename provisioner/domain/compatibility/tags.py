"""From a tag and, where somebody has read it, the image's own config, to what the image is.

The environment beats the build arguments in the history, and these beat the tag's text. Where tag and config do not
agree about torch or CUDA the image is unknown: tags that lie are found in the field (gpu-jupyter#139, pytorch#91097).
"""

import re
from collections.abc import Mapping

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.requirement import devel_requirement, requirements
from provisioner.domain.compatibility.torch_version import release_of, torch_fits
from provisioner.domain.values.image import Flavour, ImageFacts, TaggedImage, base_platform
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.version import CudaVersion, DottedVersion

# pytorch's own images; the patch of torch and of CUDA may be left out.
_OFFICIAL = re.compile(
    r"(?P<torch>\d{1,9}\.\d{1,9}(?:\.\d{1,9})?)-cuda(?P<cuda>\d{1,9}(?:\.\d{1,9}){1,2})"
    r"-cudnn(?P<cudnn>\d{1,9}(?:\.\d{1,9})*)"
    r"-(?P<flavour>runtime|devel)"
)
# nvcr.io/nvidia/pytorch and its mirrors; other NVIDIA containers have tags of the same form.
_NGC = re.compile(r"(?P<month>\d\d\.\d\d)-py3(?P<integrated>-igpu)?")
_NGC_REPOSITORY = re.compile(r"(.*/)?nvidia/pytorch")
_LOCAL_CUDA = re.compile(r"cu(\d{1,2})(\d)")
_NUMBERS = re.compile(r"\d{1,9}(\.\d{1,9})*")  # Python refuses to read numbers without end
# Build arguments as both builders record them: `|2 CUDA_VERSION=12.8.1 … /bin/sh -c …`, `RUN |2 … # buildkit`; and ENV.
_ARGUMENTS = re.compile(
    r"(?:RUN )?\|\d+ (?P<given>.*?)(?: /bin/\w+ -| #|$)|(?:/bin/sh -c #\(nop\) +)?ENV (?P<env>.*)", re.DOTALL
)
_GIVEN = re.compile(r"(?:^|\s)(PYTORCH_VERSION|CUDA_VERSION)=\"?([\w.+]+)")

Facts = dict[str, tuple[str, str]]  # fact -> (value, where it came from)


def read_facts(image: TaggedImage, data: CompatibilityData) -> ImageFacts:
    """Never raises: what cannot be known is a problem `unknown_build` of the facts."""
    env = image.env or {}
    claimed = _claims(image.reference, data)
    told = _told(env, image.history or (), image.labels or {})
    facts: Facts = {**claimed, **told}
    if "cuda" not in facts and "torch" in facts:
        facts.update(_implied_cuda(facts["torch"][0], env, data))
    ngc = "month" in facts or "a0" in facts.get("torch", ("", ""))[0]
    known = {name: value for name, (value, _) in facts.items()}
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
        platforms=_platforms(image, ngc=ngc, integrated="integrated" in known),
        requires=_requires(image, known, data),
        sync=image.sync,
        sources={name: source for name, (_, source) in sorted(facts.items())},
        problems=(*_conflicts(image.reference, claimed, told), *_missing(image.reference, known, ngc=ngc)),
    )


def _claims(reference: str, data: CompatibilityData) -> Facts:
    """What the text of a tag says; empty where it follows no grammar that we know."""
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
    claims = {
        "month": ngc["month"],
        "integrated": ngc["integrated"],
        "torch": row.torch if row else None,
        "cuda": str(row.cuda) if row and row.cuda else None,
    }
    return {fact: (value, "tag") for fact, value in claims.items() if value}


def _told(env: Mapping[str, str], history: tuple[str, ...], labels: Mapping[str, str]) -> Facts:
    """What the image's own config says of torch and CUDA, the environment before the history."""
    told: Facts = {}
    for source, given in (("history", _given(history)), ("env", env)):
        _tell(told, given, source)
    cudnn = env.get("NV_CUDNN_VERSION") or env.get("CUDNN_VERSION") or labels.get("com.nvidia.cudnn.version") or ""
    if match := _NUMBERS.match(cudnn):
        told["cudnn"] = (match[0], "env")
    if month := env.get("NVIDIA_PYTORCH_VERSION"):
        told["month"] = (month, "env")
    return told


def _tell(told: Facts, given: Mapping[str, str], source: str) -> None:
    torch, _, local = given.get("PYTORCH_VERSION", "").partition("+")
    if match := _NUMBERS.match(given.get("CUDA_VERSION", "")):
        told["cuda"] = (match[0], f"{source} CUDA_VERSION")
    # "2.8.0+cu128" is torch's word about itself; CUDA_VERSION is only the base image's.
    if built := _LOCAL_CUDA.fullmatch(local):
        told["cuda"] = (f"{built[1]}.{built[2]}", f"{source} PYTORCH_VERSION")
    if torch:
        whole = torch if built or not local else f"{torch}+{local}"
        told["torch"] = (whole, f"{source} PYTORCH_VERSION")


def _given(history: tuple[str, ...]) -> dict[str, str]:
    """The last word of the history on each build argument. What a RUN line executes is never read."""
    given: dict[str, str] = {}
    for step in history:
        match = _ARGUMENTS.match(step)
        if match:
            given.update(_GIVEN.findall(match["given"] or match["env"] or ""))
    return given


def _implied_cuda(torch: str, env: Mapping[str, str], data: CompatibilityData) -> Facts:
    """nvidia/cuda images demand their own version first ("cuda>=12.8 …"): taken where torch has such a build."""
    match = re.match(r"cuda>=(\d{1,9}\.\d{1,9})(\s|$)", env.get("NVIDIA_REQUIRE_CUDA", ""))
    release = release_of(torch)
    if match is None or release is None or data.build(release, CudaVersion(match[1])) is None:
        return {}
    return {"cuda": (match[1], "env NVIDIA_REQUIRE_CUDA")}


def _flavour(text: str | None) -> Flavour | None:
    return "runtime" if text == "runtime" else "devel" if text == "devel" else None


def _arch_list(env: Mapping[str, str]) -> tuple[str, ...] | None:
    return tuple(re.split(r"[\s;,]+", text.strip())) if (text := env.get("TORCH_CUDA_ARCH_LIST")) else None


def _platforms(image: TaggedImage, *, ngc: bool, integrated: bool) -> tuple[str, ...]:
    """Where the registry has not said: official CUDA images are amd64 only (pytorch#188815, closed unmerged)."""
    if image.platforms is not None:
        return tuple(base_platform(platform) for platform in image.platforms)
    if integrated:
        return ("linux/arm64",)
    return ("linux/amd64", "linux/arm64") if ngc else ("linux/amd64",)


def _requires(image: TaggedImage, known: Mapping[str, str], data: CompatibilityData) -> tuple[str, ...]:
    if image.env is not None:
        return requirements(image.env)
    if known.get("flavour") == "devel":
        return (devel_requirement(CudaVersion(known["cuda"]), data),)
    return ()


def _conflicts(reference: str, claimed: Facts, told: Facts) -> list[Problem]:
    if "month" in claimed:  # there the versions are ours, not the tag's own text
        return []
    return [
        Problem(
            "unknown_build",
            f"{reference}: the tag says {fact} {claimed[fact][0]}, its {told[fact][1]} says {told[fact][0]}",
            "one of the two is wrong, and nothing here tells which",
            (
                "find out inside the image (python -c 'import torch; print(torch.__version__, torch.version.cuda)')"
                " and tag it by what it holds, or choose another tag"
            ),
        )
        for fact in ("torch", "cuda")
        if fact in claimed and fact in told and not _agree(claimed[fact][0], told[fact][0])
    ]


def _agree(claimed: str, told: str) -> bool:
    """12.8 and 12.8.1 agree: whoever says less is not wrong."""
    ours, theirs = claimed.split("."), re.split(r"[.+]", told)
    return all(a == b for a, b in zip(ours, theirs, strict=False))


def _missing(reference: str, known: Mapping[str, str], *, ngc: bool) -> list[Problem]:
    needed = (("cuda", "CUDA"),) if ngc else (("torch", "torch"), ("cuda", "CUDA"))
    absent = [name for fact, name in needed if fact not in known]
    if not absent:
        return []
    return [
        Problem(
            "unknown_build",
            (
                f"{reference}: neither its tag nor what was read of its config says which {' and '.join(absent)}"
                " it holds"
            ),
            "an image of unknown make may hold no code for a card, or need a newer driver",
            (
                "set PYTORCH_VERSION and CUDA_VERSION in the image's environment, or use a tag such as"
                " 2.8.0-cuda12.8-cudnn9-runtime"
            ),
        )
    ]


def may_fit(tag: str, torch: str, flavour: Flavour) -> bool:
    """Whether a tag is worth looking at: its text does not rule it out. Signatures and attestations are no images."""
    official = _OFFICIAL.fullmatch(tag)
    if official is None:
        return not re.match(r"sha256-[0-9a-f]{64}", tag)
    return torch_fits(official["torch"], torch) and (flavour == "runtime" or official["flavour"] == flavour)
