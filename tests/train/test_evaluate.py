"""Evaluation and prediction, in PyTorch and through an artifact's runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hollowbone.errors import UserError
from hollowbone.runtime.base import Artifact, Example
from hollowbone.tasks.base import Data
from hollowbone.train import evaluate, predict, train
from tests.train.toys import PLAIN, PREPROCESSING, Listed, convnet, data


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return train(convnet(), data(), recipe=PLAIN, progress=False).model


def test_evaluation_says_value_interval_and_split(network: nn.Module) -> None:
    found = evaluate(network, data(), "report", batch_size=17)
    assert found.value == (found.predictions == found.targets).mean() > 0.9
    assert found.interval[0] < found.value < found.interval[1]
    assert (found.n, found.split) == (96, "report")
    assert "on report, 96 samples" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["value"] == found.value
    whole = data()
    assert evaluate(network, Data(**{**vars(whole), "report": Listed(whole.report)})).value == found.value


def test_evaluation_leaves_mode_and_threads_as_they_were(network: nn.Module) -> None:
    threads = torch.get_num_threads()
    network.train()
    network[1].eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    evaluate(network, data(), threads=threads % 2 + 1)
    assert network.training
    assert not network[1].training
    assert torch.get_num_threads() == threads
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    network.eval()


@pytest.mark.parametrize("fixed", [False, True])
def test_artifact_is_judged_like_the_network(network: nn.Module, fixed: bool, tmp_path: Path) -> None:
    from hollowbone.runtime import export

    dynamic: Any = {} if fixed else {0: {0: "batch"}}
    example = Example(args=(torch.randn(7 if fixed else 1, 1, 8, 8),), dynamic=dynamic)
    metadata = {"hollowbone.preprocessing": json.dumps(PREPROCESSING.to_dict())}
    artifact = export(network.eval(), example, tmp_path / "net.onnx", format="onnx", metadata=metadata)
    assert isinstance(artifact, Artifact)
    ours, theirs = evaluate(network, data(), batch_size=50), evaluate(artifact, data(), batch_size=50)
    assert np.array_equal(ours.predictions, theirs.predictions)
    assert np.array_equal(predict(artifact, data().report.images), theirs.predictions)


def test_predictions_are_the_same_for_arrays_and_tensors(network: nn.Module) -> None:
    images = data().report.images
    expected = evaluate(network, data()).predictions
    assert np.array_equal(predict(network, images, preprocessing=PREPROCESSING), expected)
    assert np.array_equal(predict(network, images.numpy(), preprocessing=PREPROCESSING, batch_size=5), expected)


def test_wrong_arguments_are_refused_in_a_sentence(network: nn.Module) -> None:
    empty = data(0)
    for call, sentence in (
        (lambda: evaluate(network, data(), "test"), "a split is one of train, select, report, not 'test'"),
        (lambda: evaluate(network, empty, "train"), "the train split of stripes is empty"),
        (lambda: evaluate("net.onnx", data()), "not str"),  # type: ignore[arg-type]
        (lambda: evaluate(network, data(), threads=0), "threads must be 1 or more"),
        (lambda: predict(network, data().report.images), "needs preprocessing="),
        (lambda: predict(network, [], preprocessing=PREPROCESSING), "takes paths or an array"),
    ):
        with pytest.raises(UserError) as refused:
            call()
        assert sentence in str(refused.value)
