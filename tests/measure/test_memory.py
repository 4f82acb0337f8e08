"""Peak memory is what a person would count by hand, every time the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hollowbone.measure.memory import peak_bytes


def test_peak_of_a_chain_is_weights_input_and_the_two_largest_neighbours() -> None:
    model = nn.Sequential(nn.Linear(100, 1000, bias=False), nn.ReLU(), nn.Linear(1000, 10, bias=False))
    weights, inputs, hidden = 4 * (100_000 + 10_000), 4 * 800, 4 * 8000
    assert peak_bytes(model, torch.randn(8, 100)) == weights + inputs + 2 * hidden


def test_peak_of_training_holds_saved_activations_and_gradients() -> None:
    model = nn.Sequential(nn.Linear(100, 1000, bias=False), nn.ReLU(), nn.Linear(1000, 10, bias=False))
    weights, inputs, hidden, output = 4 * (100_000 + 10_000), 4 * 800, 4 * 8000, 4 * 80
    # at the first layer's gradient: all weights and gradients, the input, the output and its gradient, and the hidden one's
    assert peak_bytes(model, torch.randn(8, 100), mode="train") == 2 * weights + inputs + 2 * output + hidden


def test_view_and_in_place_work_need_no_memory() -> None:
    model = nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), nn.Unflatten(1, (3, 4)))
    x = torch.randn(2, 3, 4)
    assert peak_bytes(model, x) == 4 * 24


def test_what_is_freed_no_longer_counts() -> None:
    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(10):
                x = x + 1
            return x

    assert peak_bytes(Steps(), torch.zeros(1000)) == 3 * 4000  # the input, the last and the next


def test_resized_tensor_counts_what_it_is() -> None:
    class Grow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clone().resize_(1000)

    assert peak_bytes(Grow(), torch.zeros(10)) == 40 + 4000


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_peak_is_repeatable_and_needs_no_numbers(mode: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    x = torch.randn(2, 3, 12, 12)
    figures = {peak_bytes(model, x, mode=mode) for _ in range(3)}
    assert len(figures) == 1
    assert peak_bytes(model.to("meta"), x) > 0


def test_training_needs_more_than_inference() -> None:
    model = nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1) for _ in range(6)])
    x = torch.randn(1, 4, 16, 16)
    map_bytes = 4 * 4 * 256
    assert peak_bytes(model, x, mode="train") - peak_bytes(model, x) > 3 * map_bytes
