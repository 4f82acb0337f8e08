"""Multiply-adds are counted as published, whatever the device, the kernel or the way a network is written."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from hollowbone.errors import UserError
from hollowbone.measure.counters import BACKWARD, count, params_of
from hollowbone.measure.operators import family
from hollowbone.runtime.base import Example


class Call(nn.Module):
    """A function as a network."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor):
        return self.function(*args)


def macs(function, *args: Tensor) -> int:
    counts = count(Call(function), args)
    assert counts.uncounted == ()
    return counts.macs


@pytest.mark.parametrize(
    ("width", "published"), [(0.35, 59_285_808), (0.5, 97_131_840), (0.75, 209_069_792), (1.0, 300_774_272)]
)
def test_mobilenetv2_counts_as_published(width: float, published: int) -> None:
    models = pytest.importorskip("torchvision").models
    with torch.device("meta"):
        model = models.mobilenet_v2(width_mult=width)
    counts = count(model, torch.zeros(1, 3, 224, 224))
    assert counts.macs == published
    assert counts.uncounted == ()
    if width == 1.0:
        assert counts.params == 3_504_872
        assert counts.buffers == sum(b.numel() for b in model.buffers()) > 0


@pytest.mark.parametrize(("name", "published"), [("efficientformer_l1", 1_291_284_736), ("efficientformer_l3", 3_906_573_312)])
def test_efficientformer_counts_as_published(name: str, published: int) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model(name)
    assert count(model, torch.zeros(1, 3, 224, 224)).macs == published


def test_counts_are_equal_on_meta_and_on_the_processor() -> None:
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    x = torch.randn(2, 10, 16)
    assert count(model, x) == count(model.to("meta"), x)


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_model_is_left_as_it_was(mode: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    model[2].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(2, 3, 8, 8)
    state = torch.random.get_rng_state()
    count(model, x, mode=mode)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == [True, True, True, False]
    assert all(p.grad is None for p in model.parameters())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_attention_is_two_products_whichever_way_it_is_called() -> None:
    q, k, v = torch.randn(2, 3, 7, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 6)
    expected = 2 * 3 * 7 * 5 * (8 + 6)
    assert macs(F.scaled_dot_product_attention, q, k, v) == expected
    assert macs(lambda q, k, v: (q @ k.transpose(-1, -2)).softmax(-1) @ v, q, k, v) == expected
    same = torch.randn(2, 3, 7, 8)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    assert macs(lambda a, b, c: fused(a, b, c)[0], same, same, same) == 2 * 3 * 7 * 7 * 16


def test_grouped_query_attention_counts_every_query_head() -> None:
    q, kv = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8)
    assert macs(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), q, kv, kv) == 4 * 6 * 6 * 16


def test_multihead_attention_is_not_hidden_by_its_fused_path() -> None:
    layer = nn.MultiheadAttention(16, 4, batch_first=True)
    x = torch.randn(2, 10, 16)
    expected = 2 * 10 * 16 * 16 * 4 + 2 * 2 * 10 * 10 * 16
    assert count(layer, (x, x, x)).macs == expected


@pytest.mark.parametrize("n", [8, 12, 100])
def test_fft_counts_five_n_log_n_operations(n: int) -> None:
    real = torch.randn(3, n)
    assert macs(torch.fft.fft, real.to(torch.complex64)) == round(2.5 * 3 * n * math.log2(n))
    assert macs(torch.fft.rfft, real) == round(1.25 * 3 * n * math.log2(n))
    assert macs(lambda x: torch.fft.irfft(x, n=n), torch.fft.rfft(real)) == round(1.25 * 3 * n * math.log2(n))


def test_two_dimensional_fft_counts_both_axes() -> None:
    assert macs(torch.fft.rfft2, torch.randn(2, 8, 16)) == round(1.25 * 2 * 128 * math.log2(128))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_count_both_matrices_at_every_step(kind: type[nn.Module], gates: int, device: str) -> None:
    model = kind(8, 6, num_layers=2, bidirectional=True, batch_first=True, device=device)
    first, second = gates * 6 * (8 + 6), gates * 6 * (12 + 6)
    assert count(model, torch.randn(3, 5, 8)).macs == 3 * 5 * 2 * (first + second)


def test_recurrent_cells_are_counted() -> None:
    assert count(nn.LSTMCell(8, 6), torch.randn(3, 8)).macs == 3 * 4 * 6 * 14
    assert count(nn.GRUCell(8, 6), torch.randn(3, 8)).macs == 3 * 3 * 6 * 14


def test_matrix_products_of_every_kind() -> None:
    a, b = torch.randn(2, 4, 5), torch.randn(2, 5, 6)
    assert macs(torch.bmm, a, b) == 2 * 4 * 5 * 6
    assert macs(torch.baddbmm, torch.randn(2, 4, 6), a, b) == 2 * 4 * 5 * 6
    assert macs(torch.addbmm, torch.randn(4, 6), a, b) == 2 * 4 * 5 * 6
    assert macs(torch.addmm, torch.randn(4, 6), a[0], b[0]) == 4 * 5 * 6
    assert macs(lambda x, a, b: x.clone().addmm_(a, b), torch.randn(4, 6), a[0], b[0]) == 4 * 5 * 6
    assert macs(torch.mv, a[0], b[0, :, 0]) == 4 * 5
    assert macs(torch.dot, a[0, 0], b[0, :, 0]) == 5
    assert macs(lambda a, b: torch.einsum("bij,bjk->bik", a, b), a, b) == 2 * 4 * 5 * 6
    assert macs(torch.mm, a[0].to(torch.complex64), b[0].to(torch.complex64)) == 4 * 4 * 5 * 6
    assert count(nn.Bilinear(4, 5, 3, bias=False), (torch.randn(2, 4), torch.randn(2, 5))).macs == 2 * 3 * 4 * 5


def test_convolutions_of_every_kind() -> None:
    x = torch.randn(2, 8, 9, 9)
    assert count(nn.Conv2d(8, 6, 3, stride=2, groups=2), x).macs == 2 * 6 * 4 * 4 * (4 * 9)
    assert count(nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2), x).macs == 2 * 81 * 8 * 3 * 9
    assert count(nn.Conv1d(8, 4, 5, dilation=2), torch.randn(1, 8, 20)).macs == 4 * 12 * 8 * 5
    assert count(nn.Conv3d(2, 3, 2), torch.randn(1, 2, 4, 4, 4)).macs == 3 * 27 * 2 * 8


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.ConvTranspose2d(8, 6, 3, groups=2), nn.Linear(8, 5)]
)
def test_backward_is_once_forward_for_the_weight_and_once_for_the_input(layer: nn.Module) -> None:
    x = torch.randn(2, 8) if isinstance(layer, nn.Linear) else torch.randn(2, 8, 6, 6)
    forward = count(layer, x).macs
    assert count(layer, x, mode="train").macs == 2 * forward  # the example needs no gradient: only the weight's is computed
    stem = nn.Linear(8, 8) if isinstance(layer, nn.Linear) else nn.Conv2d(8, 8, 1)
    before = count(stem, x).macs
    two = count(nn.Sequential(stem, layer), x, mode="train")
    assert two.macs == 2 * before + 3 * forward
    assert next(row for row in two.by_module if row.name == BACKWARD).macs == before + 2 * forward


def test_int8_layers_are_counted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import quantize_dynamic

        model = quantize_dynamic(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)), {nn.Linear}, dtype=torch.qint8)
        counts = count(model, torch.randn(5, 8))
        recurrent = quantize_dynamic(nn.Sequential(nn.LSTM(8, 6, bidirectional=True)), {nn.LSTM}, dtype=torch.qint8)
        rnn = count(recurrent, torch.randn(3, 2, 8))
    assert counts.macs == 5 * (8 * 6 + 6 * 4)
    assert counts.params == params_of(model) == 8 * 6 + 6 + 6 * 4 + 4
    assert rnn.macs == 3 * 2 * 2 * 4 * 6 * 14
    assert counts.uncounted == rnn.uncounted == ()
    int8 = torch.randint(-5, 5, (32, 16), dtype=torch.int8)
    assert macs(torch._int_mm, int8, int8.t().contiguous()) == 32 * 16 * 32


def test_operator_without_formula_is_named_and_never_free() -> None:
    @torch.library.custom_op("hollowbone_test::silent", mutates_args=())
    def silent(x: Tensor) -> Tensor:
        return x @ x

    counts = count(Call(lambda x: silent(x) + 1), torch.randn(4, 4))
    assert counts.macs == 0
    assert counts.uncounted == ("hollowbone_test.silent",)
    assert count(Call(torch.linalg.inv), torch.eye(3)).uncounted != ()


def test_operator_that_registered_a_formula_is_counted() -> None:
    @torch.library.custom_op("hollowbone_test::spoken", mutates_args=())
    def spoken(x: Tensor) -> Tensor:
        return x @ x

    @register_flop_formula(torch.ops.hollowbone_test.spoken)
    def flops(x_shape, *args, out_shape=None, **kwargs) -> int:
        return 2 * x_shape[0] ** 3

    assert macs(spoken, torch.randn(4, 4)) == 64


def test_sparse_products_are_not_counted_as_dense() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = torch.eye(4).to_sparse_csr()
        counts = count(Call(lambda x: sparse @ x), torch.randn(4, 4))
    assert counts.macs == 0
    assert counts.uncounted


def test_common_operators_without_multiply_adds_are_known() -> None:
    x = torch.randn(2, 4, 8, 8)

    def everything(x: Tensor) -> Tensor:
        y = F.gelu(F.group_norm(x, 2)) + F.hardswish(x).sigmoid() * F.silu(x) - x.mean((2, 3), keepdim=True)
        y = F.interpolate(F.max_pool2d(y, 2), scale_factor=2, mode="bilinear") + F.interpolate(F.avg_pool2d(y, 2), size=8)
        y = F.pad(torch.cat([y, y.roll(1, 2)], 1)[:, ::2], (1, 1)).softmax(-1).cumsum(1)
        order = y.flatten(1).argsort(1)
        y = y.flatten(1).gather(1, order).sort(1).values.topk(8, 1).values
        y = F.layer_norm(y, (8,)) + F.one_hot(order[:, :8] % 8, 8).sum(1) + torch.arange(8)
        y = torch.where(y > 0, y, y.exp().log1p()).clamp(-1, 1).masked_fill(y < -3, 0)
        z = F.grid_sample(x, torch.zeros(2, 3, 3, 2), align_corners=False).amax((1, 2, 3))
        y = y.std(1) + y.norm(dim=1) + F.cross_entropy(y, order[:, 0] % 8) + x.view(2, -1).max(1).values
        return y + z + F.unfold(x, 3).sum((1, 2))

    counts = count(Call(everything), x)
    assert counts.uncounted == ()
    assert counts.macs == 0
    assert counts.elementwise > 0


def test_whole_families_of_operators_are_told_apart() -> None:
    ops = torch.ops.aten
    assert family(ops.view.default) == "view"
    assert family(ops.clone.default) == "moves"
    assert family(ops.relu.default) == family(ops.native_layer_norm_backward.default) == "arithmetic"
    assert family(ops.linalg_inv_ex.default) == family(ops._cdist_forward.default) == "unknown"


def test_elementwise_activations_and_bytes_of_a_layer_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    counts = count(model, torch.randn(2, 3, 8, 8))
    output = 2 * 4 * 64
    assert counts.activations == counts.elementwise == output
    assert counts.bytes_moved == 4 * (2 * 3 * 64 + 4 * 27 + 4 + output)
    assert counts.intensity == 2 * counts.macs / counts.bytes_moved
    conv, relu = counts.by_module
    assert (conv.name, conv.type, conv.params, conv.other_bytes) == ("0", "Conv2d", 4 * 27 + 4, 0)
    assert (relu.name, relu.macs, relu.bytes, relu.other_bytes) == ("1", 0, 0, 2 * 4 * output)


def test_functional_work_belongs_to_the_module_that_does_it() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.inner(x).t()

    rows = {row.name: row for row in count(nn.Sequential(Block()), torch.randn(3, 4)).by_module}
    assert rows["0"].macs == 3 * 4 * 3
    assert rows["0.inner"].macs == 3 * 4 * 4
    assert set(rows) == {"0", "0.inner"}


def test_shared_parameters_are_counted_once_and_shared_work_twice() -> None:
    layer = nn.Linear(4, 4)
    counts = count(nn.Sequential(layer, layer), torch.randn(2, 4))
    assert counts.params == 20
    assert counts.macs == 2 * 2 * 16


def test_other_entry_points_are_counted() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

        def encode(self, x: Tensor) -> Tensor:
            return self.layer(x) @ x.t()

    assert count(Two(), torch.randn(2, 4), entry="encode").macs == 2 * 16 + 2 * 4 * 2
    assert count(Two(), Example(args=(), kwargs={"x": torch.randn(2, 4)})).macs == 2 * 2 * 16
    with pytest.raises(UserError, match="no entry point named 'decode'"):
        count(Two(), torch.randn(2, 4), entry="decode")


def test_inference_mode_inside_a_network_hides_nothing() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(4, 5), nn.Linear(5, 2)

        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    counts = count(Frozen(), torch.randn(3, 2, 4))
    assert counts.macs == 6 * 4 * 5 * 9 + 6 * 10
    assert counts.uncounted == ()


def test_nothing_to_train_and_nonsense_are_refused() -> None:
    with pytest.raises(UserError, match="no output depends on a parameter"):
        count(nn.ReLU(), torch.randn(2), mode="train")
    with pytest.raises(UserError, match="'infer' or 'train'"):
        count(nn.ReLU(), torch.randn(2), mode="fast")
    with pytest.raises(UserError, match="an example"):
        count(nn.ReLU(), None)
