"""Buffers: where tensors lie, and their bytes on the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retentive_export.backends.tensorrt.buffers import ALIGNMENT, host_dtype, plan_arena, to_bytes, to_host
from retentive_export.spec.geometry import BYTES
from retentive_export.spec.manifest import TensorContract


def tensor(name: str, shape: list[int | str], dtype: str, role: str = "state_in") -> TensorContract:
    return TensorContract.model_validate({"name": name, "shape": shape, "dtype": dtype, "role": role})


@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 5) | st.just("T"), max_size=4), st.sampled_from(sorted(BYTES))),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 64),
)
def test_tensors_are_aligned_and_do_not_overlap(shapes: list[tuple[list[int | str], str]], chunk: int) -> None:
    tensors = [tensor(f"t{index}", shape, dtype) for index, (shape, dtype) in enumerate(shapes)]
    arena = plan_arena(tensors, chunk)
    places = sorted((slot.offset, slot.offset + slot.nbytes) for slot in arena.slots.values())
    assert all(start % ALIGNMENT == 0 for start, _ in places)
    assert all(end <= start for (_, end), (start, _) in zip(places, [*places[1:], (arena.nbytes, 0)], strict=True))
    for one in tensors:
        sizes = [chunk if n == "T" else int(n) for n in one.shape]
        assert arena.slots[one.name].nbytes == np.prod(sizes) * BYTES[one.dtype]
        assert arena.addresses(4096)[one.name] == 4096 + arena.slots[one.name].offset


FLOATS = st.lists(st.floats(width=32), min_size=1, max_size=40)


@given(FLOATS)
def test_bfloat16_is_rounded_as_torch_does(values: list[float]) -> None:
    array = np.array(values, np.float32)
    want = torch.from_numpy(array).to(torch.bfloat16)
    got = to_host(to_bytes(array, "bfloat16"), "bfloat16", array.shape)
    np.testing.assert_array_equal(got, want.to(torch.float32).numpy())
    assert to_bytes(array, "bfloat16").nbytes == 2 * array.size


def test_bfloat16_at_its_edges() -> None:
    bits = np.array([0x7F800001, 0xFFFFFFFF, 0x7F7FFFFF, 0x3F808000, 0x3F818000, 0x00000001], np.uint32)
    got = to_host(to_bytes(bits.view(np.float32), "bfloat16"), "bfloat16", (6,))
    assert np.isnan(got[:2]).all(), "a NaN became infinity"
    # The largest float32 is beyond bfloat16; ties go to the even neighbour; a subnormal goes to zero.
    np.testing.assert_array_equal(got[2:], np.array([np.inf, 1.0, 1.015625, 0.0], np.float32))


@pytest.mark.parametrize("dtype", sorted(set(BYTES) - {"bfloat16"}))
def test_other_types_keep_their_bytes(dtype: str) -> None:
    array = np.arange(24, dtype=host_dtype(dtype)).reshape(2, 3, 4)[:, ::2]
    raw = to_bytes(array, dtype)
    assert raw.dtype == np.uint8
    assert raw.nbytes == array.size * BYTES[dtype]
    back = to_host(raw, dtype, array.shape)
    np.testing.assert_array_equal(back, array)
    raw[:] = 0
    np.testing.assert_array_equal(back, array, err_msg="the host's array shares memory with the buffer")


def test_floats_are_no_token_ids() -> None:
    with pytest.raises(TypeError, match="same_kind"):
        to_bytes(np.zeros(3, np.float32), "int64")
    assert to_bytes(np.array([7], np.int64), "int32").tolist() == [7, 0, 0, 0]
