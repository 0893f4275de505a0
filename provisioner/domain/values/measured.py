"""What the torch of an image was compiled for, as read in the image itself."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from provisioner.domain.values.model import Value
from provisioner.domain.values.reference import Digest
from provisioner.domain.values.version import CudaVersion

# As compilers name them: sm_86 is machine code for 8.6 and later minors, sm_90a for exactly 9.0, compute_120 is PTX.
Target = Annotated[str, StringConstraints(pattern=r"^(sm|compute)_[1-9][0-9]{1,2}[af]?$")]
Targets = Annotated[tuple[Target, ...], Field(max_length=64)]
TorchText = Annotated[str, StringConstraints(pattern=r"^[0-9][0-9A-Za-z.+_-]{0,99}$")]


class Measured(Value):
    """Versions and targets of torch. `cuda`: None for a build without CUDA, which has no targets."""

    torch: TorchText
    cuda: CudaVersion | None = None
    targets: Targets = ()

    def __str__(self) -> str:
        """Return all of it, for a sentence."""
        cuda = f"built with CUDA {self.cuda} for {' '.join(self.targets)}" if self.cuda else "built without CUDA"
        return f"torch {self.torch} {cuda}"


class MeasuredImage(Measured):
    """What was measured in one image, as a row of compatibility data.

    `digest`: of the manifest that an engine of this platform pulls, whatever tag leads to it.
    """

    image: str
    digest: Digest
    platform: str


class Measurement(Value):
    """What was found in an image: `measured`, or None and in `reason` why nothing was.

    `how`: torch was imported, its library's own list was read, or its machine code was counted.
    """

    measured: Measured | None = None
    how: Literal["torch", "library", "code"] = "torch"
    reason: str = ""
