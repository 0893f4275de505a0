"""Whether this node reaches the lab's registry as its engine does: by the same name, with the same CA."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Any

from ansible.module_utils.provisioner.docker.login import find_login

SECONDS = 15


def check_registry(registry: dict[str, Any]) -> list[dict[str, str]]:
    """Return problems, none when the registry answers and accepts the node.

    `registry`: `address`, `ca` (PEM or None), `plain_http`.
    """
    try:
        status = ask(registry)
    except (OSError, ValueError) as error:
        return [_unreachable(registry["address"], str(getattr(error, "reason", error)))]
    if status == HTTPStatus.UNAUTHORIZED and find_login(registry["address"]) is None:
        return [_no_login(registry["address"])]
    return []


def ask(registry: dict[str, Any], method: str = "GET", path: str = "") -> int:
    """Return the HTTP status of a request for `path` below /v2/. Raises OSError or ValueError without an answer."""
    url = f"{'http' if registry['plain_http'] else 'https'}://{registry['address']}/v2/{path}"
    request = urllib.request.Request(url, method=method)  # noqa: S310  (http or https)
    # Without a proxy of the environment: the engine has its own setting, and the registry is in the lab.
    handlers: list[Any] = [urllib.request.ProxyHandler({})]
    if not registry["plain_http"]:
        context = ssl.create_default_context()
        if registry["ca"]:
            context.load_verify_locations(cadata=registry["ca"])
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code


def _unreachable(address: str, reason: str) -> dict[str, str]:
    return {
        "code": "registry_unreachable",
        "what": f"the node does not reach the lab's registry {address}: {reason}",
        "why": "nodes pull from this registry only",
        "fix": f"try it on the node: curl -v https://{address}/v2/; its CA is registry.ca in lab.yml",
    }


def _no_login(address: str) -> dict[str, str]:
    return {
        "code": "registry_login",
        "what": f"{address} requires a login, and root on the node has none",
        "why": "the engine pulls with the login of root",
        "fix": f"on the node, as root: docker login {address}",
    }
