"""Depthwise convolution: the native kernel is the reference on every shape, and refuses what it cannot take."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hollowbone.errors import UserError
from hollowbone.ops import depthwise_conv2d, native
from hollowbone.ops.depthwise import reference

ISAS = native.available()
needs_kernels = pytest.mark.skipif(not ISAS, reason="the package was built without its kernels")


@needs_kernels
@settings(max_examples=150, deadline=None)
@given(
    isa=st.sampled_from(ISAS or ("reference",)),
    batch=st.integers(0, 3),
    channels=st.sampled_from([1, 3, 5, 17]),
    height=st.sampled_from([1, 2, 3, 7, 49, 50]),
    width=st.sampled_from([1, 2, 3, 7, 15, 16, 17, 49, 50, 150]),
    kernel=st.sampled_from([3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    biased=st.booleans(),
    clamp=st.sampled_from([None, (0.0, 6.0), (None, 0.25), (-0.5, None), (1.0, 1.0)]),
    seed=st.integers(0, 2**31),
)
def test_kernel_equals_reference(
    isa: str,
    batch: int,
    channels: int,
    height: int,
    width: int,
    kernel: int,
    stride: int,
    biased: bool,
    clamp: tuple[float | None, float | None] | None,
    seed: int,
) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, height, width, generator=draw)
    weight = torch.randn(channels, 1, kernel, kernel, generator=draw)
    bias = torch.randn(channels, generator=draw) if biased else None
    with native.using(isa):
        y = depthwise_conv2d(x, weight, bias, stride=stride, clamp=clamp)
    expected = reference.forward(x, weight, bias, stride, *(clamp or (None, None)))
    assert y.is_contiguous()
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_relu6_is_the_clamp_from_0_to_6(stride: int) -> None:
    x, weight = torch.randn(2, 4, 9, 9) * 5, torch.randn(4, 1, 3, 3)
    expected = F.relu6(F.conv2d(x, weight, stride=stride, padding=1, groups=4))
    torch.testing.assert_close(depthwise_conv2d(x, weight, stride=stride, clamp=(0, 6)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_layout_of_the_input_does_not_matter(isa: str) -> None:
    x, weight = torch.randn(2, 6, 11, 13), torch.randn(6, 1, 3, 3)
    expected = reference.forward(x, weight, None, 1, None, None)
    strided = torch.randn(2, 6, 11, 26)
    strided[..., ::2] = x
    with native.using(isa):
        for same in (
            x.to(memory_format=torch.channels_last),
            strided[..., ::2],
            x.transpose(2, 3).contiguous().transpose(2, 3),
        ):
            assert not same.is_contiguous()
            torch.testing.assert_close(depthwise_conv2d(same, weight), expected, rtol=1e-5, atol=1e-5)
        expanded = weight[:, :, :1, :1].expand(6, 1, 3, 3)
        torch.testing.assert_close(depthwise_conv2d(x, expanded), reference.forward(x, expanded, None, 1, None, None))


@pytest.mark.parametrize("isa", ISAS)
def test_nan_and_infinity_pass_as_in_the_reference(isa: str) -> None:
    x, weight = torch.randn(1, 2, 8, 40), torch.randn(2, 1, 3, 3)
    x[0, 0, 3, 3], x[0, 1, 0, 39], x[0, 1, 5, 20] = torch.nan, torch.inf, -torch.inf
    with native.using(isa):
        y = depthwise_conv2d(x, weight, clamp=(0, 6))
    torch.testing.assert_close(y, reference.forward(x, weight, None, 1, 0, 6), equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_number_of_threads_does_not_change_a_bit(isa: str) -> None:
    x, weight, bias = torch.randn(2, 48, 56, 56), torch.randn(48, 1, 3, 3), torch.randn(48)
    before = torch.get_num_threads()
    try:
        with native.using(isa):
            torch.set_num_threads(1)
            one = depthwise_conv2d(x, weight, bias)
            torch.set_num_threads(2)
            assert torch.equal(one, depthwise_conv2d(x, weight, bias))
            with ThreadPoolExecutor(4) as pool:  # callers at the same time share one set of workers
                many = list(pool.map(lambda _: depthwise_conv2d(x, weight, bias), range(8)))
        assert all(torch.equal(one, y) for y in many)
    finally:
        torch.set_num_threads(before)


@needs_kernels
def test_other_dtypes_run_on_the_reference() -> None:
    x, weight = torch.randn(1, 3, 8, 8), torch.randn(3, 1, 3, 3)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        y = depthwise_conv2d(x.to(dtype), weight.to(dtype), clamp=(0, 6))
        assert torch.equal(y, reference.forward(x.to(dtype), weight.to(dtype), None, 1, 0, 6))


X, WEIGHT = torch.randn(1, 4, 8, 8), torch.randn(4, 1, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        ((X[0], WEIGHT), {}, "x has shape"),
        ((X, WEIGHT[:3]), {}, r"for 4 channels \(4, 1, k, k\)"),
        ((X, torch.randn(4, 1, 4, 4)), {}, "k in 3, 5, 7"),
        ((X, torch.randn(4, 1, 3, 5)), {}, "weight has shape"),
        ((X, WEIGHT, torch.randn(3)), {}, "bias has shape"),
        ((X, WEIGHT), {"stride": 3}, "stride=3; 1 or 2 would do"),
        ((X[..., :0], WEIGHT), {}, "at least one pixel"),
        ((X.double(), WEIGHT), {}, "one dtype"),
        ((X.int(), WEIGHT.int()), {}, "floating-point"),
        ((X, WEIGHT), {"clamp": (6, 0)}, "rising order"),
        ((X, WEIGHT), {"clamp": (float("nan"), 6)}, "rising order"),
    ],
)
def test_a_mistake_is_refused_in_a_sentence(arguments: tuple, options: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        depthwise_conv2d(*arguments, **options)


def arrays(**changes: np.ndarray | None) -> list[np.ndarray | None]:
    given = {
        "x": np.zeros((1, 4, 8, 8), np.float32),
        "weight": np.zeros((4, 1, 3, 3), np.float32),
        "bias": np.zeros(4, np.float32),
        "y": np.zeros((1, 4, 8, 8), np.float32),
    }
    return list({**given, **changes}.values())


def aliased() -> dict[str, np.ndarray]:
    one = np.zeros((1, 4, 8, 8), np.float32)
    return {"x": one, "y": one}


@needs_kernels
@pytest.mark.parametrize(
    ("changes", "rest", "sentence"),
    [
        ({"x": np.zeros((1, 4, 8, 8))}, (), "x must hold float32"),
        ({"x": np.zeros((4, 8, 8), np.float32)}, (), "x must have 4 axes, not 3"),
        ({"x": np.zeros((1, 4, 8, 16), np.float32)[..., ::2]}, (), "x must be contiguous"),
        ({"x": np.zeros((1, 4, 8, 8), np.float32).transpose(0, 1, 3, 2)}, (), "x must be contiguous"),
        ({"x": np.zeros((1, 4, 0, 8), np.float32)}, (), "no pixels"),
        ({"weight": np.zeros((4, 1, 4, 4), np.float32)}, (), "3 x 3, 5 x 5 or 7 x 7"),
        ({"weight": np.zeros((5, 1, 3, 3), np.float32)}, (), "does not fit x"),
        ({"weight": np.zeros((4, 2, 3, 3), np.float32)}, (), "does not fit x"),
        ({"bias": np.zeros(5, np.float32)}, (), "bias of shape"),
        ({"y": np.zeros((1, 4, 8, 7), np.float32)}, (), "y of shape"),
        ({"y": np.zeros((1, 4, 8, 8), np.float64)}, (), "y must hold float32"),
        (aliased(), (), "shares memory"),
        ({}, (3, 0.0, 1.0, 1), "stride must be 1 or 2"),
        ({}, (1, 1.0, 0.0, 1), "low not above high"),
        ({}, (1, float("nan"), 0.0, 1), "low not above high"),
        ({}, (1, 0.0, 1.0, 0), "threads must be at least 1"),
    ],
)
def test_the_native_door_lets_nothing_wrong_through(changes: dict, rest: tuple, sentence: str) -> None:
    module = native.kernels()
    assert module is not None
    with pytest.raises(ValueError, match=sentence):
        module.depthwise(*arrays(**changes), *(rest or (1, 0.0, 6.0, 1)))


@needs_kernels
def test_a_read_only_output_is_refused() -> None:
    given = arrays()
    given[3].flags.writeable = False  # type: ignore[union-attr]
    with pytest.raises(TypeError):
        native.kernels().depthwise(*given, 1, 0.0, 6.0, 1)  # type: ignore[union-attr]
