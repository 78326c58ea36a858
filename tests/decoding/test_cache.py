"""`TreeCache` against one list of keys per row: writing at ragged lengths, keeping a path, dropping and taking rows."""

import pytest
import torch

from ssft.decoding.cache import TreeCache

LAYERS, BATCH, HEADS, SIZE, WIDTH = 2, 3, 2, 20, 4


def make_cache(batch=BATCH, lengths=None, dtype=torch.float32):
    cache = TreeCache(LAYERS, batch, HEADS, SIZE, WIDTH, torch.zeros((), dtype=dtype))
    generator = torch.Generator().manual_seed(0)
    cache.store.copy_(torch.randn(cache.store.shape, generator=generator))
    cache.set_lengths(list(lengths or [0] * batch))
    return cache


def states(rows, seed=1, batch=BATCH):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, HEADS, rows, WIDTH, generator=generator).unbind()


def write(cache, rows, seed=1):
    """One pass of `rows` rows through every layer; returns what was written, [layer][key or value]."""
    written = []
    for layer in range(LAYERS):
        keys, values = states(rows, seed + layer, cache.store.shape[2])
        cache.update(keys, values, layer)
        written.append((keys, values))
    return written


@pytest.mark.parametrize("lengths", [[4, 4, 4], [4, 0, 7], [0, 0, 0], [1, 2, 2]])
def test_rows_are_written_behind_their_own_length_and_nothing_else_changes(lengths):
    cache = make_cache(lengths=lengths)
    before = cache.store.clone()
    written = write(cache, 5)
    for row, length in enumerate(lengths):
        for layer in range(LAYERS):
            for kind in range(2):
                expected = before[layer, kind, row].clone()
                expected[:, length : length + 5] = written[layer][kind][row]
                assert torch.equal(cache.store[layer, kind, row], expected)


@pytest.mark.parametrize("lengths", [[4, 4, 4], [4, 0, 7]])
def test_update_returns_all_slots_up_to_the_longest_row(lengths):
    cache = make_cache(lengths=lengths)
    keys, values = cache.update(*states(5), 1)
    assert keys.shape == values.shape == (BATCH, HEADS, max(lengths) + 5, WIDTH)
    assert torch.equal(keys, cache.store[1, 0, :, :, : max(lengths) + 5])
    assert torch.equal(values, cache.store[1, 1, :, :, : max(lengths) + 5])
    assert cache.get_seq_length() == max(lengths)
    assert cache.get_mask_sizes(5, 0) == (max(lengths) + 5, 0)


def test_ragged_write_equals_a_cache_per_row():
    lengths = [4, 0, 7]
    together = make_cache(lengths=lengths)
    alone = [make_cache(lengths=lengths) for _ in lengths]
    for cache, row in zip(alone, range(BATCH), strict=True):
        cache.select([row])
    written = write(together, 3)
    for row, cache in enumerate(alone):
        for layer, (keys, values) in enumerate(written):
            cache.update(keys[row : row + 1], values[row : row + 1], layer)
        assert torch.equal(cache.store[:, :, 0], together.store[:, :, row])


def test_layers_of_one_pass_may_write_different_numbers_of_rows():
    cache = make_cache(lengths=[4, 0, 7])
    cache.update(*states(2), 0)
    keys, _ = states(6)
    cache.update(keys, keys, 1)
    for row, length in enumerate(cache.lengths):
        assert torch.equal(cache.store[1, 0, row, :, length : length + 6], keys[row])


@pytest.mark.parametrize("lengths", [[4, 4, 4], [4, 0, 7]])
@pytest.mark.parametrize(
    "paths", [[[0], [0], [0]], [[0, 1, 2], [0], [0, 1]], [[0, 2, 5], [0, 1, 4], [0, 3]], [[0, 1, 5], [0, 5], [0]]]
)
def test_kept_path_stands_behind_the_old_length_in_order(lengths, paths):
    cache = make_cache(lengths=lengths)
    written = write(cache, 6)
    before, address = cache.store.clone(), cache.store.data_ptr()
    cache.keep(paths)
    assert cache.store.data_ptr() == address
    assert cache.lengths == [length + len(path) for length, path in zip(lengths, paths, strict=True)]
    for row, (length, path) in enumerate(zip(lengths, paths, strict=True)):
        assert torch.equal(cache.store[:, :, row, :, :length], before[:, :, row, :, :length])
        for layer in range(LAYERS):
            for kind in range(2):
                kept = cache.store[layer, kind, row, :, length : length + len(path)]
                assert torch.equal(kept, written[layer][kind][row][:, path])


def test_the_next_pass_overwrites_what_was_not_kept():
    cache = make_cache(lengths=[2, 2, 2])
    write(cache, 6)
    cache.keep([[0, 3], [0], [0, 1, 2]])
    written = write(cache, 4, seed=50)
    for row, start in enumerate([4, 3, 5]):
        assert torch.equal(cache.store[0, 0, row, :, start : start + 4], written[0][0][row])
    cache.keep([[0], [0], [0]])
    assert cache.lengths == [5, 4, 6]


@pytest.mark.parametrize("rows", [[0], [2], [0, 2], [0, 1, 2]])
def test_select_keeps_rows_with_their_lengths(rows):
    cache = make_cache(lengths=[4, 0, 7])
    before = cache.store.clone()
    cache.select(rows)
    assert cache.lengths == [[4, 0, 7][row] for row in rows]
    assert torch.equal(cache.store, before[:, :, rows])


@pytest.mark.parametrize(("sizes", "size"), [((20, 20), 20), ((20, 11), 20), ((9, 20), 20), ((9, 11), 30)])
def test_joined_rows_keep_their_tokens_and_have_the_room_that_was_asked_for(sizes, size):
    caches = []
    for seed, (slots, lengths) in enumerate(zip(sizes, ([4, 0, 7], [2, 8]), strict=True)):
        cache = TreeCache(LAYERS, len(lengths), HEADS, slots, WIDTH, torch.zeros(()))
        cache.store.copy_(torch.randn(cache.store.shape, generator=torch.Generator().manual_seed(seed)))
        cache.set_lengths(lengths)
        caches.append(cache)
    first, second = caches
    alone = [cache.store[:, :, b, :, :length] for cache in caches for b, length in enumerate(cache.lengths)]
    first.join(second, size)
    assert first.lengths == [4, 0, 7, 2, 8]
    assert first.store.shape == (LAYERS, 2, 5, HEADS, size, WIDTH)
    for b, kept in enumerate(alone):
        assert torch.equal(first.store[:, :, b, :, : kept.shape[3]], kept)
    written = write(first, 1)
    for b, length in enumerate(first.lengths):
        assert torch.equal(first.store[1, 0, b, :, length], written[1][0][b, :, 0])


def test_store_has_the_dtype_of_the_model():
    assert make_cache(dtype=torch.bfloat16).store.dtype == torch.bfloat16
