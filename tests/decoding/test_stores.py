"""Buckets of shapes, and memory for keys and values that is lent and comes back."""

import gc

import torch

from ssft.decoding.cache import TreeCache
from ssft.decoding.stores import StaticCache, Stores, bucket, bucket_of_slots


def test_buckets_are_few_and_hold_what_they_are_for():
    sizes = {0: 0, 1: 1, 2: 2, 3: 4, 5: 8, 8: 8, 9: 16, 17: 24}
    assert {count: bucket(count) for count in sizes} == sizes
    assert bucket(1, 4) == 4
    sizes = {1: 128, 128: 128, 129: 256, 257: 512, 512: 512, 513: 1024, 1025: 1536}
    assert {count: bucket_of_slots(count) for count in sizes} == sizes
    assert bucket_of_slots(3, 512) == 512


def test_a_static_cache_holds_what_a_tree_cache_holds():
    shape, shelf = (2, 3, 2, 20, 4, torch.zeros(())), Stores()
    pairs = [[TreeCache(*shape), TreeCache(*shape)], [StaticCache(shelf, *shape), StaticCache(shelf, *shape)]]
    for first, second in pairs:
        for seed, cache in enumerate((first, second)):
            cache.set_lengths([4, 0, 7])
            generator = torch.Generator().manual_seed(seed)
            cache.store[..., :20, :] = torch.randn(2, 2, 3, 2, 20, 4, generator=generator)
        second.select([2, 0])
        first.join(second, 30)
        first.keep([[0], [0, 2], [1, 2], [0], [3]])
        first.select([4, 1, 2])
    (plain, _), (cache, _) = pairs
    assert cache.lengths == plain.lengths
    assert torch.equal(cache.store[..., :30, :], plain.store)
    assert cache.lent.tensor.shape == (2, 2, 4, 2, 128, 4)
    assert cache.store.data_ptr() == cache.lent.tensor.data_ptr()


def test_a_store_is_lent_again_empty_and_never_twice_at_once():
    shape, shelf = (2, 3, 2, 20, 4, torch.zeros(())), Stores()
    first, second = StaticCache(shelf, *shape), StaticCache(shelf, *shape)
    lent = first.lent
    assert lent is not second.lent
    first.store.fill_(float("nan"))
    first.select([0, 1, 2])  # its own store again, which has room
    assert first.lent is lent
    del first
    gc.collect()
    again = StaticCache(shelf, *shape)
    assert again.lent is lent
    assert (again.lent.tensor == 0).all()
