"""The verb `search`: a budget, data and a device in; a network that meets it out."""

from __future__ import annotations

import pytest
import torch

from hollowbone.errors import BudgetImpossible, UserError
from hollowbone.runtime import get_device
from hollowbone.search import efficientformer_space, get_space, list_spaces, mobilenetv2_space, search, table
from hollowbone.search.table import LatencyTable
from hollowbone.tasks import get_task
from hollowbone.train.recipe import Recipe
from tests.search.costs import AddingTimer


def test_search_slims_a_supernet_to_the_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(efficientformer_space, "LADDER", (((32, 16, 16, 16), (2, 1, 1, 2)),))
    data = get_task("classification").read("digits", seed=0)
    recipe = Recipe(epochs=1, batch_size=256, threads=1)
    space = efficientformer_space.EfficientFormerSpace()
    (supernet,) = space.supernets(resolution=32, num_classes=10, in_chans=1)
    monkeypatch.setattr(table, "ExportTimer", lambda *_: AddingTimer(overhead=0.001))
    limit = 0.8 * LatencyTable(space, get_device("local"), cache=False).network(supernet)
    network = search("efficientformer", budget=f"latency<={limit}ms", data=data, recipe=recipe)
    assert network.found.path
    assert network.found.latency_ms <= limit < network.found.start_ms
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in space.build(network.found.config).state_dict().items()
    }


def test_search_takes_the_largest_mobilenetv2_that_fits(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"WIDTHS": (0.35, 0.1), "DEPTHS": (0.25,), "GROUPS": (5,), "RESOLUTIONS": (1.0,)}.items():
        monkeypatch.setattr(mobilenetv2_space, name, value)
    network = search("mobilenetv2", budget="latency<=100ms", data="digits")
    assert network.found["width"] == 0.35
    assert network.eval()(torch.randn(1, 1, 32, 32)).shape == (1, 10)
    with pytest.raises(BudgetImpossible, match="the fastest takes"):
        search("mobilenetv2", budget="latency<=0.000001ms", data="digits")


@pytest.mark.parametrize("budget", ["size<=2MB", "latency<=0.5x", "latency.p95<=1ms", "latency<=1ms, size<=1MB"])
def test_search_refuses_budgets_that_are_not_one_latency(budget):
    with pytest.raises(UserError, match="one absolute limit"):
        search("mobilenetv2", budget=budget, data="digits")


def test_spaces_are_found_by_name():
    assert [get_space(name).name for name in list_spaces()] == list_spaces()
    with pytest.raises(UserError, match="efficientformer"):
        get_space("efficentformer")
