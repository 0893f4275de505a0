"""Seats, their access and letters, also those to everybody, with good defaults."""

from typing import Any

from provisioner.domain.rollout.common_letter import Ceilings, CommonLetter, LetterNode
from provisioner.domain.rollout.letter import Letter
from provisioner.domain.rollout.report import Access
from provisioner.domain.rollout.status import SeatStatus

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC2Vb3m3hGZ7gQkM1x7h1m9S9w3zqk3yq8e0mYbX6z1B"
TUNNEL = "ssh -p 22000 anna@198.18.0.11 -N -L 8888:jupyter:8888"


def an_access(*, hidden: bool = True) -> Access:
    return Access(
        jupyter="http://127.0.0.1:8888/lab" if hidden else "http://198.18.0.11:22001/lab",
        ssh="ssh -p 22000 anna@198.18.0.11",
        tunnel=TUNNEL if hidden else "",
        host_key=HOST_KEY,
        host="198.18.0.11",
        port=22000,
        user="anna",
    )


def a_seat_status(**over: Any) -> SeatStatus:
    given = {
        "node": "gpu1",
        "seat": "ml_anna",
        "person": "anna",
        "image": "registry.lab/lab@sha256:0",
        "generation": 1,
        "services": {"jupyter": "healthy", "ssh": "healthy"},
        "access": an_access(),
    }
    return SeatStatus(**(given | over))


def a_letter(**over: Any) -> Letter:
    given = {
        "person": "anna",
        "lab": "ml",
        "node": "gpu1",
        "alias": "ml_anna",
        "host": "198.18.0.11",
        "port": 22000,
        "user": "anna",
        "host_key": HOST_KEY,
        "jupyter": "http://127.0.0.1:8888/lab",
        "tunnel": True,
    }
    return Letter(**(given | over))


def a_letter_node(name: str = "gpu1", **over: Any) -> LetterNode:
    return LetterNode(**({"name": name, "address": "198.18.0.11", "gpus": 2} | over))


def some_ceilings(**over: Any) -> Ceilings:
    return Ceilings(**({"gpus": 1, "hours": 24, "idle_hours": 4, "grace_minutes": 10} | over))


def a_common_letter(*nodes: LetterNode, **over: Any) -> CommonLetter:
    given = {"lab": "ml", "nodes": nodes or (a_letter_node(),), "unix_group": "lab-students"}
    return CommonLetter(**({"ceilings": some_ceilings(), **given} | over))
