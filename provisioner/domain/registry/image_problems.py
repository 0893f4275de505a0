"""What can stand between a lab and an image on a mirror: each as the sync state it means and the Problem it is told as.

Yes, no and "no answer" stay apart: a layer that is not there makes an image PARTIAL, a timeout leaves it UNKNOWN.
"""

from collections.abc import Iterable

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.reference import Digest
from provisioner.domain.values.size import human_size
from provisioner.domain.values.sync import SyncState

_COPY_AGAIN = "Copy the image to the mirror again, or choose a tag that is complete there."
_PULL_FAILS = "Every node's pull would fail on it, after downloading the rest."


class Fault(Value):
    """`missing` and `size` (bytes) name the part that cannot be had, where it is known to be missing."""

    state: SyncState
    problem: Problem
    missing: Digest | None = None
    size: int = 0


def _fault(state: SyncState, code: str, what: str, why: str, fix: str) -> Fault:
    return Fault(state=state, problem=Problem(code, what, why, fix))


def _part(digest: str, size: int, code: str, what: str, why: str = _PULL_FAILS) -> Fault:
    problem = Problem(code, what, why, _COPY_AGAIN)
    return Fault(state=SyncState.PARTIAL, problem=problem, missing=digest, size=size)


def manifest_missing(reference: str) -> Fault:
    what = f"The mirror does not have {reference}."
    why = "It answers 404 for the manifest: the tag was never copied there, or was deleted."
    return _fault(SyncState.ABSENT, "manifest_missing", what, why, "Choose a tag that it has, or have this one copied.")


def platform_missing(digest: str, platform: str) -> Fault:
    what = f"The tag is there, but its manifest for {platform} ({digest}) is not."
    return _part(digest, 0, "manifest_missing", what)


def repository_missing(repository: str) -> Fault:
    what = f"The mirror has no repository {repository}."
    why = "It answers 404 for the list of its tags."
    return _fault(SyncState.ABSENT, "repository_missing", what, why, "Check the name, or have the repository copied.")


def config_missing(digest: str, size: int) -> Fault:
    return _part(digest, size, "config_missing", f"The image's config {digest} is missing on the mirror.")


def layer_missing(digest: str, size: int) -> Fault:
    return _part(digest, size, "layer_missing", f"A layer of {human_size(size)} is missing on the mirror: {digest}.")


def layer_truncated(digest: str, size: int, has: int | None = None) -> Fault:
    found = "the mirror delivers less" if has is None else f"the mirror has {human_size(has)} ({has} bytes)"
    what = f"A layer should have {human_size(size)} ({size} bytes); {found}: {digest}."
    return _part(digest, size, "layer_truncated", what)


def not_a_layer(digest: str, size: int, seen: str) -> Fault:
    what = f"Where a layer of {human_size(size)} should be, the mirror sends {seen}: {digest}."
    why = "A web page or an error in place of the layer, with the status of a success. " + _PULL_FAILS
    return _part(digest, size, "not_a_layer", what, why)


def digest_mismatch(thing: str, digest: str, got: str, size: int = 0) -> Fault:
    what = f"The bytes of the {thing} on the mirror are not the ones asked for: {digest} wanted, {got} sent."
    why = "Damaged or replaced content; an engine refuses it after the download."
    return _part(digest, size, "digest_mismatch", what, why)


def wrong_platform(platform: str, offered: Iterable[str]) -> Fault:
    what = f"The image is not built for {platform}; it offers {', '.join(offered) or 'no platform'}."
    why = "A node could pull it but not run it."
    return _fault(SyncState.ABSENT, "wrong_platform", what, why, f"Choose or copy an image for {platform}.")


def not_an_image(reason: str) -> Fault:
    what = f"What the mirror sends for this name is no container image: {reason}."
    why = "A signature, a chart, a web page or a manifest of a kind that engines no longer read."
    return _fault(SyncState.UNKNOWN, "not_an_image", what, why, "Check the reference; look at it in a browser.")


def cold() -> Fault:
    what = "The mirror is a cache and does not hold every layer yet."
    why = "It would fetch them from its upstream at the first pull, if the upstream then answers."
    return _fault(SyncState.COLD, "cold", what, why, "Pull it on one machine first; after that the cache is warm.")


def not_looked_at() -> Fault:
    what = "The mirror is a cache; its layers were not looked at."
    why = "Asking such a mirror for a layer makes it download that layer, so lists of tags are read without."
    return _fault(SyncState.COLD, "cold", what, why, "Ask for this one image: provision mirror check REFERENCE.")


def listed_only() -> Fault:
    what = "Only its name was read, in the list of tags."
    why = "The registry counts what it is asked, so no tag is looked at that would not be chosen."
    return _fault(SyncState.COLD, "cold", what, why, "Ask for this one image: provision mirror check REFERENCE.")


def unmeasured(digest: str) -> Fault:
    what = f"The mirror sends layer {digest} without saying how long it is, and only as a whole."
    why = "So it cannot be told from a truncated one without reading all of it."
    return _fault(SyncState.UNKNOWN, "unreachable", what, why, "Check it with --deep, which reads every byte.")


def stale(reference: str, here: str, upstream: str, there: str) -> Fault:
    what = f"{reference} is {here} on the mirror; {upstream}, which it copies, has {there} under this tag."
    why = "The tag was moved upstream and not copied again, or what the mirror hands out never was upstream's."
    fix = "Wait for its next sync or copy the tag again by digest; until then choose another tag."
    return _fault(SyncState.STALE, "stale", what, why, fix)


def auth_failed(host: str, reason: str) -> Fault:
    what = f"{host} wants a login: {reason}."
    why = "Without it the mirror shows nothing; some mirrors answer so for images that do not exist, too."
    return _fault(SyncState.DENIED, "auth_failed", what, why, f"Log in with: docker login {host}")


def denied(host: str, status: int) -> Fault:
    what = f"{host} refuses this (HTTP {status})."
    why = "Commonly an allow-list, a mirror for its own campus only, or an account without the right to read."
    return _fault(
        SyncState.DENIED, "denied", what, why, "Waiting does not help: use another mirror, or ask its keeper."
    )


def rate_limited(host: str, wait: float | None) -> Fault:
    when = "later" if wait is None else f"in {wait:.0f} s"
    what = f"{host} says: too many requests (HTTP 429)."
    why = "Its limit is counted per account or address; a whole campus can share one."
    return _fault(
        SyncState.LIMITED, "rate_limited", what, why, f"Ask again {when}, log in, or use the lab's own mirror."
    )


def tls_untrusted(host: str, reason: str) -> Fault:
    what = f"The certificate of {host} is not trusted: {reason}."
    why = "It was signed by an authority that this machine does not know, is for another name, or has run out."
    fix = "Give the authority's certificate: --ca FILE, or `ca:` of the mirror in lab.yml."
    return _fault(SyncState.UNKNOWN, "tls_untrusted", what, why, fix)


def unreachable(host: str, reason: str) -> Fault:
    what = f"No usable answer from {host}: {reason}."
    why = "So nobody knows whether the image is there: this is neither yes nor no."
    fix = "Try again; if it stays so, tell whoever keeps the mirror and use another one until then."
    return _fault(SyncState.UNKNOWN, "unreachable", what, why, fix)


def captive_portal(host: str, portal: str) -> Fault:
    what = f"{host} was asked, and {portal} answered with a web page."
    why = "A network that wants a login sends every request to its own page: the mirror itself was never asked."
    fix = "Log in to the network in a browser, then try again; or run this where no login is wanted."
    return _fault(SyncState.UNKNOWN, "captive_portal", what, why, fix)


def no_such_service(host: str, reason: str) -> Fault:
    what = f"{host} is no image registry: {reason}."
    why = "Do not wait: nothing there speaks the registry protocol, so no image will appear there."
    fix = "Check the address and port (and whether it is plain http: --plain-http); else use another mirror."
    return _fault(SyncState.NO_SUCH_SERVICE, "no_such_service", what, why, fix)
