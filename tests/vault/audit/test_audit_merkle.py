"""The Merkle tree (RFC 6962): published roots, and every proof for small trees."""

from __future__ import annotations

import pytest

from tests.support.doubles.witness import is_consistent
from vault.audit.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    fold_complete,
    inclusion_proof,
    leaf_hash,
    root,
    root_of_inclusion,
)

# Test vectors of Certificate Transparency's reference implementation.
LEAVES = [
    leaf_hash(bytes.fromhex(text))
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


async def small(level: int, number: int) -> bytes:
    return fold_complete(LEAVES[number << level : (number + 1) << level])


async def large(level: int, number: int) -> bytes:
    leaves = [leaf_hash(bytes([one])) for one in range(number << level, (number + 1) << level)]
    return fold_complete(leaves)


@pytest.mark.parametrize("size", range(9))
async def test_roots_are_those_of_the_published_vectors(size: int) -> None:
    assert (await root(small, size)).hex() == ROOTS[size]
    assert EMPTY_ROOT.hex() == ROOTS[0]


async def test_every_leaf_of_every_small_tree_is_proved_and_no_other_leaf_is() -> None:
    for size in range(1, 34):
        whole = await root(large, size)
        for index in range(size):
            path = await inclusion_proof(large, index, size)
            assert root_of_inclusion(leaf_hash(bytes([index])), index, size, path) == whole
            assert root_of_inclusion(leaf_hash(b"other"), index, size, path) != whole
            assert root_of_inclusion(leaf_hash(bytes([index])), index + 1, size, path) != whole
            assert root_of_inclusion(leaf_hash(bytes([index])), index, size, [*path, whole]) is None
    for index in (-1, 4):
        with pytest.raises(ValueError, match="isn't in the tree"):
            await inclusion_proof(large, index, 4)
        assert root_of_inclusion(leaf_hash(b""), index, 4, await inclusion_proof(large, 0, 4)) is None


async def test_every_pair_of_small_trees_is_proved_consistent_and_no_other_root_is() -> None:
    for size in range(1, 34):
        whole = await root(large, size)
        for old in range(size + 1):
            before = await root(large, old)
            path = await consistency_proof(large, old, size)
            assert is_consistent(old, size, before, whole, path)
            if old > 0:
                assert not is_consistent(old, size, leaf_hash(b"other"), whole, path)
    for old in (-1, 5):
        with pytest.raises(ValueError, match="the larger one"):
            await consistency_proof(large, old, 4)
