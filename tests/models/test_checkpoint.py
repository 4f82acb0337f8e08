"""Checkpoints: what is read, what is refused with nothing executed, what is brought into our form."""

from __future__ import annotations

import argparse
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hollowbone.errors import UserError
from hollowbone.models.base import card
from hollowbone.models.checkpoint import load_checkpoint, read_state_dict, save_checkpoint
from hollowbone.models.create import create_model
from tests.models.networks import error

NAME = "mobilenetv2_035"
TINY = dict(card(NAME).tiny_overrides)


def net(**overrides: object) -> nn.Module:
    return create_model(NAME, **{**TINY, **overrides}).eval()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_weights_are_found_in_their_wrappers(wrapper: str | None, prefix: str, tmp_path: Path) -> None:
    model = net()
    state = {prefix + key: value for key, value in model.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3, "best": None} if wrapper else state, tmp_path / "w.pth")
    fresh = net()
    assert load_checkpoint(fresh, card(NAME), tmp_path / "w.pth").layout == "hollowbone"
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(fresh(x), model(x))


def test_the_average_is_taken_before_what_it_averages(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(1)}, "model_ema": {"w": torch.ones(1)}}, tmp_path / "w.pt")
    assert read_state_dict(tmp_path / "w.pt")["w"].item() == 1


def test_both_formats_of_torch_and_safetensors_under_any_name_are_read(tmp_path: Path) -> None:
    state = {"w": torch.arange(3.0)}
    torch.save(state, tmp_path / "new.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "net.safetensors")
    save_file(state, tmp_path / "net.ckpt")
    for name in ("new.pt", "old.pt", "net.safetensors", "net.ckpt"):
        assert torch.equal(read_state_dict(tmp_path / name)["w"], state["w"])


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_with_code_is_refused_and_not_executed(zipped: bool, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    torch.save({"model": {"w": torch.ones(1)}, "extra": Bomb(proof)}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps(Bomb(proof)))
    for name in ("w.pt", "bare.pkl"):
        with pytest.raises(UserError, match="nothing of it was executed") as raised:
            load_checkpoint(net(), card(NAME), tmp_path / name)
        assert "\n" not in str(raised.value)
    assert not proof.exists()


def test_other_objects_and_whole_modules_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(1)}, "args": argparse.Namespace(lr=1)}, tmp_path / "args.pt")
    torch.save(nn.Linear(1, 1), tmp_path / "module.pt")
    for name in ("args.pt", "module.pt"):
        with pytest.raises(UserError, match="is refused"):
            read_state_dict(tmp_path / name)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "zeros", "header"])
def test_damaged_files_end_in_a_sentence(suffix: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    state = net().state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "text": b"<html>404 Not Found</html>",
            "zeros": bytes(len(whole)),
            "header": b"\xff" * 32 + whole[32:],
        }[damage]
    )
    with pytest.raises(UserError, match=r"damaged|refused"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([torch.ones(1)], "holds a list, not a dict"),
        ({"epoch": 3}, "holds no tensors by name"),
        ({}, "holds no tensors by name"),
    ],
)
def test_files_without_tensors_by_name_are_refused(content: object, sentence: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=sentence):
        read_state_dict(tmp_path / "w.pt")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no checkpoint file .*none\.pt"):
        read_state_dict(tmp_path / "none.pt")
    with pytest.raises(UserError, match="it is a folder"):
        read_state_dict(tmp_path)


def test_checkpoint_of_another_model_names_the_first_tensors_and_changes_nothing(tmp_path: Path) -> None:
    tiny_former = create_model("efficientformer_l1", **card("efficientformer_l1").tiny_overrides)
    save_checkpoint(tiny_former, tmp_path / "other.safetensors")
    save_checkpoint(net(width=1.0), tmp_path / "wider.safetensors")
    model = net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match=r"conv_stem\.weight is missing") as raised:
        load_checkpoint(model, card(NAME), tmp_path / "other.safetensors")
    assert "more)" in str(raised.value)
    with pytest.raises(UserError, match=r"blocks\.1\.0\.conv_pwl\.weight is \(16, 32, 1, 1\), not \(8, 32, 1, 1\)"):
        load_checkpoint(model, card(NAME), tmp_path / "wider.safetensors")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_another_class_count_leaves_the_head_fresh_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (NAME, "efficientformer_l1"):
        sizes = dict(card(name).tiny_overrides)
        trained = create_model(name, **{**sizes, "num_classes": 6}).eval()
        save_checkpoint(trained, tmp_path / "six.safetensors")
        model = create_model(name, **{**sizes, "num_classes": 4}).eval()
        loaded = load_checkpoint(model, card(name), tmp_path / "six.safetensors")
        assert {key.split(".")[0] for key in loaded.fresh} == set(model.heads)
        assert "has 6 classes, the model 4: its head starts fresh" in capsys.readouterr().err
        x = torch.randn(1, 3, 64, 64)
        assert torch.equal(model.forward_features(x), trained.forward_features(x))
        bare = create_model(name, **{**sizes, "num_classes": 0}).eval()
        load_checkpoint(bare, card(name), tmp_path / "six.safetensors")
        assert torch.equal(bare.forward_features(x), trained.forward_features(x))


def test_weights_for_colour_serve_gray_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (NAME, "efficientformer_l1"):
        sizes = dict(card(name).tiny_overrides)
        colour, gray = create_model(name, **sizes).eval(), create_model(name, **sizes, in_chans=1).eval()
        save_checkpoint(colour, tmp_path / "colour.safetensors")
        load_checkpoint(gray, card(name), tmp_path / "colour.safetensors")
        assert "is summed over the colours" in capsys.readouterr().err
        x = torch.randn(2, 1, 64, 64)
        assert error(gray(x), colour(x.expand(-1, 3, -1, -1))) < 1e-5
        save_checkpoint(gray, tmp_path / "gray.safetensors")
        with pytest.raises(UserError, match=r"is \(\d+, 1, 3, 3\), not \(\d+, 3, 3, 3\)"):
            load_checkpoint(colour, card(name), tmp_path / "gray.safetensors")


def test_only_the_head_may_differ(tmp_path: Path) -> None:
    state = net().state_dict()
    state["blocks.1.0.conv_pw.weight"] = state["blocks.1.0.conv_pw.weight"][:-1]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"blocks.1.0.conv_pw.weight is"):
        load_checkpoint(net(num_classes=3), card(NAME), tmp_path / "w.safetensors")


def test_counters_of_old_checkpoints_may_lack(tmp_path: Path) -> None:
    model = net()
    save_file({k: v for k, v in model.state_dict().items() if "num_batches" not in k}, tmp_path / "w.safetensors")
    fresh = net()
    load_checkpoint(fresh, card(NAME), tmp_path / "w.safetensors")
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(fresh(x), model(x))


def test_any_module_loads_without_a_card(tmp_path: Path) -> None:
    linear, other = nn.Linear(3, 2), nn.Linear(3, 2)
    save_checkpoint(linear, tmp_path / "w.safetensors", metadata={"classes": ["a", "b"]})
    load_checkpoint(other, None, tmp_path / "w.safetensors")
    assert torch.equal(linear.weight, other.weight)


# -- the hub


def _hub(cache: Path, repo: str, files: dict[str, bytes], revision: str = "main", commit: str = "a" * 40) -> None:
    """A repository as the Hugging Face cache lays it out: snapshots of files, and names that point at snapshots."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, with the network cut off."""
    import huggingface_hub.constants as constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def _repository(model: nn.Module, tmp_path: Path, licence: str = "apache-2.0", architecture: str = NAME) -> dict[str, bytes]:
    save_checkpoint(model, tmp_path / "m.safetensors")
    return {
        "model.safetensors": (tmp_path / "m.safetensors").read_bytes(),
        "config.json": json.dumps({"architecture": architecture, "num_classes": model.num_classes}).encode(),
        "README.md": f"---\ntags:\n- image-classification\nlicense: {licence}\n---\n# A model card\n".encode(),
    }


def _full(seed: int, **overrides: object) -> nn.Module:
    torch.manual_seed(seed)
    return create_model(NAME, **overrides).eval()


def test_hub_ids_are_read_from_the_cache_with_their_licence(
    hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = _full(1, num_classes=5), _full(2, num_classes=5)
    _hub(hub, "birds/finch", _repository(first, tmp_path))
    _hub(hub, "birds/finch", _repository(second, tmp_path, "cc-by-nc-4.0"), revision="v2", commit="b" * 40)
    x = torch.randn(1, 3, 32, 32)
    model = create_model("birds/finch").eval()
    assert torch.equal(model(x), first(x))
    assert model.card.name == NAME
    assert model.licence == "apache-2.0"
    assert "weights of birds/finch: licence apache-2.0" in capsys.readouterr().err
    pinned = create_model("hub:birds/finch@v2").eval()
    assert torch.equal(pinned(x), second(x))
    assert pinned.licence == "cc-by-nc-4.0"
    assert torch.equal(create_model(f"{NAME}@hub:birds/finch", num_classes=5).eval()(x), first(x))
    assert torch.equal(create_model(NAME, num_classes=5, checkpoint="birds/finch@v2").eval()(x), second(x))


def test_pretrained_reads_the_cards_hub_id(hub: Path, tmp_path: Path) -> None:
    name = "mobilenetv2_050"
    trained = create_model(name)
    _hub(hub, "timm/mobilenetv2_050.lamb_in1k", _repository(trained, tmp_path, architecture=name))
    model = create_model(name, pretrained=True).eval()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(x), trained.eval()(x))
    fine = create_model(name, pretrained=True, num_classes=3).eval()
    assert error(fine.forward_features(x), model.forward_features(x)) == 0
    with pytest.raises(UserError, match="no weights of mobilenetv2_075 are published"):
        create_model("mobilenetv2_075", pretrained=True)


def test_weights_as_a_pickle_in_a_hub_repository_are_read_or_refused(hub: Path, tmp_path: Path) -> None:
    model = _full(1, num_classes=5)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    files = _repository(model, tmp_path)
    del files["model.safetensors"], files["README.md"]
    _hub(hub, "birds/wren", files | {"pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()})
    assert create_model("birds/wren").licence == "not stated"
    _hub(hub, "birds/cuckoo", files | {"pytorch_model.bin": pickle.dumps(Bomb(tmp_path / "proof"))})
    with pytest.raises(UserError, match="nothing of it was executed"):
        create_model("birds/cuckoo")
    assert not (tmp_path / "proof").exists()


def test_hub_ids_that_cannot_be_read_end_in_a_sentence(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nobody/nothing is not in the local hub cache and the hub cannot be reached"):
        create_model("nobody/nothing")
    files = _repository(_full(1, num_classes=5), tmp_path)
    _hub(hub, "birds/heron", {**files, "config.json": b"not json"})
    with pytest.raises(UserError, match="does not say which network it is; give its name too: NAME@hub:birds/heron"):
        create_model("birds/heron")
    _hub(hub, "birds/egret", {**files, "config.json": b'{"architecture": "gpt5"}'})
    with pytest.raises(UserError, match="there is no model named 'gpt5'"):
        create_model("birds/egret")
    with pytest.raises(UserError, match="a hub id looks like ORG/NAME"):
        create_model("hub:///")
