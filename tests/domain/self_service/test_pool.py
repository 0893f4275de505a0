"""The pool of a node: kept where it fits, chosen from the end, and never a GPU that somebody has alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.self_service.pool import (
    PoolSetting,
    PoolSource,
    choose_pool,
    keep_pool,
    pool_cautions,
    pool_source,
)
from provisioner.domain.values.node import Lease, SelfServiceFacts
from tests.builders import a_gpu, a_node, a_uuid

A, B, C, D = ALL = tuple(a_uuid(f"n1/{index}") for index in range(4))


def source(*reported: str, leased: tuple[str, ...] = ()) -> PoolSource:
    return PoolSource("n1", ALL, reported, frozenset(leased))


@pytest.mark.parametrize(
    ("wanted", "given_source", "owned", "pool"),
    [
        (None, source(), (), ALL),
        (None, source(), (B,), (A, C, D)),
        (2, source(), (), (C, D)),
        (2, source(), (D,), (B, C)),
        (2, source(A, B), (), (A, B)),
        (2, source(A, B), (A,), (B, D)),
        (3, source(A), (), (A, C, D)),
        (1, source(A, B), (), (A,)),
        (1, source(A, B, leased=(B,)), (), (B,)),
        (8, source(), (A,), (B, C, D)),
        ((A, C), source(D), (), (A, C)),
        ((A, C), source(), (C,), (A,)),
        ((a_uuid("n2/0"),), source(), (), ()),
    ],
)
def test_pool_keeps_what_it_has_and_takes_the_rest_from_the_end(
    wanted: PoolSetting, given_source: PoolSource, owned: tuple[str, ...], pool: tuple[str, ...]
) -> None:
    assert choose_pool(wanted, given_source, owned) == pool


def test_where_people_share_a_growing_pool_leaves_them_one_gpu() -> None:
    assert choose_pool(4, source(), (), has_sharers=True) == (B, C, D)
    assert choose_pool(4, source(*ALL), (), has_sharers=True) == ALL


def test_pool_of_another_lab_is_not_kept() -> None:
    facts = a_node(self_service=SelfServiceFacts(lab="other", pool=(A,), leases=(Lease(seat="s", gpus=(A,)),)))
    assert pool_source("demo", facts, ALL) == PoolSource("n1", ALL)
    assert pool_source("other", facts, ALL) == PoolSource("n1", ALL, (A,), frozenset({A}))


@pytest.mark.parametrize(
    ("wanted", "pool", "says"),
    [(4, (A,), "asks for 4 GPUs of each node; 1 of 4 are free"), ((A, B), (A,), B), (4, ALL, ""), (None, (), "")],
)
def test_a_pool_that_is_smaller_than_asked_for_is_a_caution(
    wanted: PoolSetting, pool: tuple[str, ...], says: str
) -> None:
    found = pool_cautions(wanted, source(), pool, a_node(gpus=tuple(a_gpu("n1", index) for index in range(4))))
    assert [problem.code for problem in found] == (["pool_smaller"] if says else [])
    assert all(says in problem.what for problem in found)


CARDS = st.lists(st.sampled_from(ALL), unique=True).map(tuple)
SETTINGS = st.one_of(st.none(), st.integers(1, 6), CARDS.filter(bool))


@given(SETTINGS, CARDS, CARDS, CARDS, st.booleans())
def test_pool_has_no_gpu_of_a_person_and_stays_once_it_is_published(
    wanted: PoolSetting, reported: tuple[str, ...], leased: tuple[str, ...], owned: tuple[str, ...], sharers: bool
) -> None:
    pool = choose_pool(wanted, source(*reported, leased=leased), owned, has_sharers=sharers)
    assert not {*pool} & {*owned}
    assert list(pool) == [gpu for gpu in ALL if gpu in pool]
    assert choose_pool(wanted, source(*pool, leased=leased), owned, has_sharers=sharers) == pool
    if isinstance(wanted, int):
        assert len(pool) <= wanted
        assert {*keep_pool(wanted, source(*reported), owned)} <= {*reported}
