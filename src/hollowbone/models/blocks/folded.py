"""MetaFormer blocks as they ship: the same functions, with all that is constant multiplied together beforehand.

- The layer scale is part of the layer before it.
- The pooling branch, x + ls (pool(x) - x), is (1 - ls) x + ls pool(x): two channel scales and a sum. A subtraction of two maps
  takes onnxruntime out of its blocked layout; these it keeps in it (as 1x1 depthwise convolutions that it makes itself).
- A head of attention adds P_h A_h (V_h y): A_h (N x N) mixes tokens, and P_h V_h (C x C) is constant. Where C is less than
  twice the value width, A_h on the tokens themselves and one layer P_h V_h is less work. So with queries and keys,
  y' Q_h' K_h y, where C is at most twice the key width.

Nothing is approximated; figures in eval mode are equal to rounding. A folded block works on any grid, as its original does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hollowbone.models.blocks.biased_attention import BiasedAttention, gather_bias


def absorb_scale(layer: nn.Module, scale: Float[Tensor, " c"]) -> None:
    """Multiply the output channels of a linear layer, convolution or norm in place."""
    for name in ("weight", "bias"):
        tensor = getattr(layer, name)
        tensor.data = tensor.data * scale.view(-1, *(1,) * (tensor.ndim - 1))


class FoldedPoolMixer(nn.Module):
    """(1 - scale) x + scale pool(x)."""

    keep: Tensor
    mix: Tensor

    def __init__(self, pool: nn.AvgPool2d, scale: Float[Tensor, " c"]) -> None:
        super().__init__()
        self.pool = pool
        self.register_buffer("keep", (1 - scale).detach()[:, None, None].clone())
        self.register_buffer("mix", scale.detach()[:, None, None].clone())

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Keeps the shape; a single pixel is its own average."""
        if x.shape[2] == x.shape[3] == 1:
            return x
        return x * self.keep + self.pool(x) * self.mix


class FoldedMeta4D(nn.Module):
    """A pooling block: mixer, then x + mlp(x)."""

    def __init__(self, mixer: FoldedPoolMixer, mlp: nn.Module) -> None:
        super().__init__()
        self.token_mixer, self.mlp = mixer, mlp

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Keeps the shape."""
        x = self.token_mixer(x)
        return x + self.mlp(x)


class FoldedAttention(nn.Module):
    """Attention of N tokens, each batch's tokens flattened to rows: (B*N, C) -> (B*N, C), the layer scale inside.

    `keys` and `values` are None where the tokens themselves take their place.
    """

    bias: Tensor
    table: Tensor

    def __init__(self, attention: BiasedAttention, scale: Float[Tensor, " c"]) -> None:
        super().__init__()
        heads, dim = attention.num_heads, attention.qkv.in_features
        sizes = [attention.key_dim, attention.key_dim, attention.value_dim]
        weights = attention.qkv.weight.detach().double().unflatten(0, (heads, -1)).split(sizes, dim=1)
        biases = attention.qkv.bias.detach().double().unflatten(0, (heads, -1)).split(sizes, dim=1)
        (wq, wk, wv), (bq, bk, bv) = weights, biases
        wq, bq = wq * attention.key_dim**-0.5, bq * attention.key_dim**-0.5
        out = (attention.proj.weight.detach() * scale[:, None]).double().unflatten(1, (heads, -1))
        shift = (attention.proj.bias.detach() * scale).double()
        self.keys = self.values = None
        like = attention.proj.weight
        if dim < 2 * attention.value_dim:
            # Rows of A_h sum to 1, so the values' bias passes through to the output.
            shift = shift + torch.einsum("chv,hv->c", out, bv)
            out = torch.einsum("chv,hvd->chd", out, wv)
        else:
            self.values = _linear(wv, bv, like)
        if self.values is None and dim <= 2 * attention.key_dim:
            # Terms that are the same for all keys do not change a softmax: only the queries' bias meets the keys.
            wq, bq = torch.einsum("hkc,hkd->hdc", wq, wk), torch.einsum("hk,hkd->hd", bq, wk)
        else:
            self.keys = _linear(wk, bk, like)
        self.queries = _linear(wq, bq, like)
        self.out = _linear(out.flatten(1)[None], shift[None], like)
        self.num_heads, self.grid = heads, attention.grid
        # The constant bias for the grid of construction, and the table that makes it for others.
        self.register_buffer("bias", attention.bias().detach().clone())
        self.register_buffer("table", attention.attention_biases.detach().clone())

    def forward(self, x: Float[Tensor, "m c"], n: int, grid: tuple[int, int] | None = None) -> Float[Tensor, "m c"]:
        """`n` tokens a picture; `grid` as in `BiasedAttention`."""
        if n == 1 and self.values is None:  # one token attends to itself with weight 1, in every head
            return F.linear(x, self.out.weight.unflatten(1, (self.num_heads, -1)).sum(1), self.out.bias)
        bias = self.bias if grid is None or grid == self.grid else gather_bias(self.table, self.grid, grid)
        tokens = x.unflatten(0, (-1, n))
        queries = self._heads(self.queries, x, n)
        if self.keys is None:
            scores = queries.flatten(1, 2) @ tokens.transpose(1, 2) + bias.flatten(0, 1)
        else:
            scores = queries @ self._heads(self.keys, x, n).transpose(2, 3) + bias
        weights = scores.softmax(dim=-1)
        if self.values is None:
            mixed = (weights if weights.ndim == 3 else weights.flatten(1, 2)) @ tokens
            mixed = mixed.unflatten(1, (self.num_heads, n))
        else:
            mixed = weights @ self._heads(self.values, x, n)
        return self.out(mixed.transpose(1, 2).flatten(2).flatten(0, 1))

    def _heads(self, layer: nn.Module, x: Tensor, n: int) -> Tensor:
        """(B*N, C) -> (B, heads, N, d)."""
        return layer(x).unflatten(0, (-1, n)).unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def _linear(weight: Tensor, bias: Tensor, like: Tensor) -> nn.Linear:
    """A linear layer from a weight (heads, out, in) and a bias (heads, out)."""
    weight, bias = weight.flatten(0, 1).to(like.dtype), bias.flatten().to(like.dtype)
    layer = nn.Linear(weight.shape[1], weight.shape[0], device=like.device, dtype=like.dtype)
    layer.weight.data, layer.bias.data = weight.contiguous(), bias.contiguous()
    return layer


class FoldedMeta3D(nn.Module):
    """An attention block that works on rows (B*N, C), where a linear layer is a single matrix product with its bias."""

    def __init__(self, norm1: nn.Module, mixer: FoldedAttention, norm2: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1, self.token_mixer, self.norm2, self.mlp = norm1, mixer, norm2, mlp

    def forward(self, x: Float[Tensor, "b n c"], grid: tuple[int, int] | None = None) -> Float[Tensor, "b n c"]:
        """`grid` = (H, W) of the tokens; the grid of construction if not given."""
        n = x.shape[1]
        rows = x.flatten(0, 1)
        rows = rows + self.token_mixer(self.norm1(rows), n, grid)
        rows = rows + self.mlp(self.norm2(rows))
        return rows.unflatten(0, (-1, n))
