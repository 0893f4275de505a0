"""What can be wrong with an image on a mirror: each fault as a sync state and a Problem.

Yes, no and "no answer" stay separate: a layer that is missing makes an image PARTIAL, a timeout leaves it UNKNOWN.
"""

from collections.abc import Iterable

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import Digest
from provisioner.domain.values.size import human_size
from provisioner.domain.values.sync import SyncState

_COPY_AGAIN = "Copy the image to the mirror again, or choose a tag that is complete there."
_CHECK_ONE = "Check this one image: provision mirror check REFERENCE."
_SET_CLOCK = "Compare the clocks of this machine and of the mirror (timedatectl), set the wrong one, and try again."
_MAX_REASON = 300  # characters
_PULL_FAILS = "The pull of every node would fail on it, after it downloaded the rest."


class Fault(Value):
    """One fault of an image. `missing` and `size` (bytes) name the part that is missing, where that is certain."""

    state: SyncState
    problem: Problem
    missing: Digest | None = None
    size: int = 0


def _fault(state: SyncState, code: str, what: str, why: str, fix: str) -> Fault:
    return Fault(state=state, problem=Problem(code, what, why, fix))


def _part_fault(digest: str, size: int, code: str, what: str, why: str = _PULL_FAILS) -> Fault:
    problem = Problem(code, what, why, _COPY_AGAIN)
    return Fault(state=SyncState.PARTIAL, problem=problem, missing=digest, size=size)


def _said(text: str) -> str:
    return f', and says "{text}"' if text else ""


def manifest_missing(reference: str, said: str = "") -> Fault:
    """Build the fault of a tag that the mirror does not have. `said`: the reason that the mirror gives."""
    what = f"The mirror does not have {reference}{_said(said)}."
    why = "It answers 404 for the manifest: the tag was never copied there, or was deleted."
    return _fault(SyncState.ABSENT, "manifest_missing", what, why, "Choose a tag that it has, or have this one copied.")


def platform_missing(digest: str, platform: str) -> Fault:
    """Build the fault of an index whose manifest for `platform` is missing."""
    what = f"The mirror has the tag, but not its manifest for {platform} ({digest})."
    return _part_fault(digest, 0, "manifest_missing", what)


def repository_missing(repository: str, said: str = "") -> Fault:
    """Build the fault of a repository that the mirror does not have. `said`: the reason that the mirror gives."""
    what = f"The mirror has no repository {repository}{_said(said)}."
    why = "It answers 404 for the list of its tags."
    return _fault(SyncState.ABSENT, "repository_missing", what, why, "Check the name, or have the repository copied.")


def config_missing(digest: str, size: int) -> Fault:
    """Build the fault of an image without its config blob."""
    return _part_fault(digest, size, "config_missing", f"The image's config {digest} is missing on the mirror.")


def layer_missing(digest: str, size: int, said: str = "") -> Fault:
    """Build the fault of a missing layer of `size` bytes. `said`: the reason that the mirror gives."""
    what = f"A layer of {human_size(size)} is missing on the mirror: {digest}."
    what += f' It says "{said}".' if said else ""
    return _part_fault(digest, size, "layer_missing", what)


def layer_truncated(digest: str, size: int, has: int | None = None) -> Fault:
    """Build the fault of a layer that is shorter than `size`. `has`: its bytes on the mirror, None: unknown."""
    found = "the mirror delivers less" if has is None else f"the mirror has {human_size(has)} ({has} bytes)"
    what = f"A layer should have {human_size(size)} ({size} bytes); {found}: {digest}."
    return _part_fault(digest, size, "layer_truncated", what)


def not_a_layer(digest: str, size: int, seen: str) -> Fault:
    """Build the fault of a blob that holds something else, such as a web page. `seen` describes it."""
    what = f"Instead of a layer of {human_size(size)} the mirror sends {seen}: {digest}."
    why = f"The mirror sends a web page or an error with a status of success. {_PULL_FAILS}"
    return _part_fault(digest, size, "not_a_layer", what, why)


def digest_mismatch(thing: str, digest: str, got: str, size: int = 0) -> Fault:
    """Build the fault of content whose digest is `got`. `thing`: layer, config or manifest."""
    what = f"The {thing} on the mirror has the wrong content: {digest} was requested, {got} was sent."
    why = "The content is damaged or was replaced; an engine refuses it after the download."
    return _part_fault(digest, size, "digest_mismatch", what, why)


def wrong_platform(platform: str, offered: Iterable[str]) -> Fault:
    """Build the fault of an image that is built for other platforms only."""
    what = f"The image is not built for {platform}; it offers {', '.join(offered) or 'no platform'}."
    why = "A node could pull it but not run it."
    return _fault(SyncState.ABSENT, "wrong_platform", what, why, f"Choose or copy an image for {platform}.")


def not_an_image(reason: str) -> Fault:
    """Build the fault of a reference that leads to no readable image manifest. `reason` may quote the mirror."""
    shown = "".join(c if c.isprintable() else "?" for c in reason[:_MAX_REASON])
    what = f"What the mirror sends for this name is not a container image: {shown}."
    why = "It is a signature, a chart, a web page or a manifest of a type that engines no longer read."
    return _fault(SyncState.UNKNOWN, "not_an_image", what, why, "Check the reference; open it in a browser.")


def cold() -> Fault:
    """Build the fault of a pull-through cache that does not hold every layer."""
    what = "The mirror is a cache and does not hold every layer yet."
    why = "It would fetch them from its upstream at the first pull, if the upstream then answers."
    return _fault(SyncState.COLD, "cold", what, why, "Pull it on one machine first; after that the cache is warm.")


def layers_not_checked() -> Fault:
    """Build the fault of a listing whose layers were not checked, because the mirror is a pull-through cache."""
    what = "The mirror is a cache; its layers were not checked."
    why = "A request for a layer makes such a mirror download it, so lists of tags are read without their layers."
    return _fault(SyncState.COLD, "cold", what, why, _CHECK_ONE)


def listed_only() -> Fault:
    """Build the fault of a tag of which only the name was read."""
    what = "Only its name was read, in the list of tags."
    why = "The registry counts requests, so only tags that could be selected are checked."
    return _fault(SyncState.COLD, "cold", what, why, _CHECK_ONE)


def unknown_length(digest: str) -> Fault:
    """Build the fault of a layer that the mirror sends without its length and without support for ranges."""
    what = f"The mirror sends layer {digest} without its length, and only as a whole."
    why = "A truncated layer can then only be recognised by reading all of it."
    return _fault(SyncState.UNKNOWN, "unreachable", what, why, "Check it with --deep, which reads every byte.")


def stale(reference: str, here: str, upstream: str, there: str) -> Fault:
    """Build the fault of a tag that names the digest `here` on the mirror and `there` on its upstream."""
    what = f"{reference} is {here} on the mirror; {upstream}, which it copies, has {there} under this tag."
    why = "The tag was moved upstream and not copied again, or the mirror's image never came from the upstream."
    fix = "Wait for its next sync or copy the tag again by digest; until then choose another tag."
    return _fault(SyncState.STALE, "stale", what, why, fix)


def auth_failed(host: str, reason: str, said: str = "") -> Fault:
    """Build the fault of a registry that requires a login. `said`: the reason that it gives."""
    what = f"{host} requires a login{_said(said)}: {reason}."
    why = "Without a login the mirror shows nothing; some mirrors also answer so for images that do not exist."
    return _fault(SyncState.DENIED, "auth_failed", what, why, f"Log in with: docker login {host}")


def denied(host: str, status: int, said: str = "") -> Fault:
    """Build the fault of a request that the registry refuses with an HTTP status. `said`: the reason that it gives."""
    what = f"{host} refuses this (HTTP {status}{_said(said)})."
    why = "Common causes: an allow-list, a mirror for its own campus only, an account without the right to read."
    fix = "Waiting does not help: use another mirror, or ask its administrator."
    if said == "RequestTimeTooSkewed":  # S3's code
        why, fix = "It compares the time of the request with its own clock.", _SET_CLOCK
    return _fault(SyncState.DENIED, "denied", what, why, fix)


def rate_limited(host: str, wait: float | None, said: str = "") -> Fault:
    """Build the fault of too many requests. `wait`: seconds, None where the registry names no time."""
    when = "later" if wait is None else f"in {wait:.0f} s"
    what = f"{host} answers: too many requests (HTTP 429{_said(said)})."
    why = "Its limit is counted per account or address; a whole campus can share one."
    fix = f"Try again {when}, log in, or use the lab's own mirror."
    return _fault(SyncState.LIMITED, "rate_limited", what, why, fix)


def tls_untrusted(host: str, reason: str, *, is_early: bool = False) -> Fault:
    """Build the fault of a certificate that this machine does not trust. `is_early`: it is not valid yet."""
    what = f"The certificate of {host} is not trusted: {reason}."
    why = "It is signed by an authority that this machine does not know, is for another name, or has expired."
    fix = "Give the authority's certificate: --ca FILE, or `ca:` of the mirror in lab.yml."
    fix = _SET_CLOCK if is_early else fix
    return _fault(SyncState.UNKNOWN, "tls_untrusted", what, why, fix)


def unreachable(host: str, reason: str, said: str = "") -> Fault:
    """Build the fault of a request without a usable answer. `said`: the reason that the host gives."""
    what = f"No usable answer from {host}: {reason}{_said(said)}."
    why = "So it is unknown whether the image is there: this is neither yes nor no."
    fix = "Try again; if it persists, inform the mirror's administrator and use another mirror until then."
    return _fault(SyncState.UNKNOWN, "unreachable", what, why, fix)


def captive_portal(host: str, portal: str) -> Fault:
    """Build the fault of a network that answers every request with its own login page."""
    what = f"The request to {host} was answered by {portal} with a web page."
    why = "A network that requires a login redirects every request to its own page: the mirror was never reached."
    fix = "Log in to the network in a browser, then try again; or run this from a network without a login."
    return _fault(SyncState.UNKNOWN, "captive_portal", what, why, fix)


def no_such_service(host: str, reason: str) -> Fault:
    """Build the fault of a host that does not speak the registry protocol."""
    what = f"{host} is not an image registry: {reason}."
    why = "Do not wait: nothing there speaks the registry protocol, so no image will appear there."
    fix = "Check the address and port (and whether it is plain http: --plain-http); else use another mirror."
    return _fault(SyncState.NO_SUCH_SERVICE, "no_such_service", what, why, fix)
