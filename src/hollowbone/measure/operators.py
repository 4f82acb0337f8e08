"""Which operators do no multiply-adds: arithmetic on elements, and mere moves of data. Whatever is neither is *unknown*.

A count is only as good as its silence: an operator that nobody classified must not pass for free. So the two families are
allow-lists (PyTorch's own `pointwise`, `reduction` and view marks first, then the names below), and everything else that
has no formula is reported in `Cost.uncounted`.
"""

from __future__ import annotations

import re
from functools import cache

import torch
from torch._ops import OpOverload

_ARITHMETIC = re.compile(
    r"""
    (log_|safe_|masked_)?softmax | (log|cum|logcum)?(sumexp|sum|prod|max|min) | logcumsumexp | aminmax |
    (native_|quantized_|cudnn_|miopen_|fused_)?(batch|layer|group|instance|rms)_norm.* | native_norm | renorm |
    weight_norm_interface | (mkldnn_|quantized_)?(adaptive_|fractional_)?(avg|max)_pool[123]d(_with_indices)? |
    max_unpool[23]d | upsample_.* | grid_sampler_[23]d.* | cudnn_grid_sampler | affine_grid_generator |
    cudnn_affine_grid_generator | .*_loss(2d)?(_forward)? | binary_cross_entropy(_with_logits)? | log_sigmoid(_forward)?
    | (native|fused)_dropout | masked_scale | glu.* | rrelu_with_noise(_functional)? | floor_divide | linalg_cross |
    cum(max|min)_helper | prelu(_kernel)? | add_relu | elu | celu | gelu | hardswish | foreach_(?!mm).* |
    fused_(adam|adamw|adagrad|sgd) | amp_.* | fake_quantize.* | fused_moving_avg_obs_fq_helper.* | (de)?quantize(_.*)? |
    choose_qparams.* | thnn_fused_(lstm|gru)_cell.* | transform_bias_rescale_qkv | embedding_bag.* |
    (scatter|index)_(add|reduce) | segment_reduce | trace | dist | histc | histogram | bincount | count_nonzero |
    sparse_(log_)?softmax | sparse_sum
    """,
    re.VERBOSE,
)
_MOVES = re.compile(
    r"""
    empty.* | new_.* | (zeros|ones|full|rand|randn|randint|empty)(_like)? | zero | fill | arange | range | eye |
    linspace | logspace | randperm | scalar_tensor | (tril|triu)(_indices)? | .*_window | lift(_fresh)? |
    efficientzerotensor | fft_r?fftfreq | complex | polar | normal(_functional)? | uniform | bernoulli | random |
    exponential | geometric | cauchy | log_normal | multinomial | poisson | clone | lazy_clone | copy | copy_from.* |
    to_copy | to_dense | to_mkldnn | mkldnn_re(order|shape).* | detach | set | resize.* | (un)?stack | cat | chunk_cat |
    block_diag | repeat.* | roll | flip | rot90 | constant_pad_nd | (reflection|replication)_pad[123]d |
    (un)?pixel_(un)?shuffle | channel_shuffle | im2col | col2im | unfold |
    (diag|diagonal|select|slice|as_strided)(_embed|_scatter)? | unsafe_(split.*|view|index.*|masked_index.*) |
    reshape_copy | narrow_copy | index(_select|_copy|_fill|_put(_impl)?)? | gather | scatter |
    masked_(fill|select|scatter) | take | put | embedding(_dense|_renorm)? | nonzero.* | unique.* | pin_memory |
    mkldnn_transpose | to_padded_tensor | sort | topk | kthvalue | (nan)?median | mode | searchsorted | bucketize | isin
    | equal | allclose | local_scalar_dense | (functional_)?assert_.* | (functional_)?sym_.* | is_.* |
    has_same_storage_numel | print | dim[IV] | (dense|sparse)_dim | qscheme | record_stream | pack_padded_sequence |
    int_repr | q_(per_channel_)?(scale|zero_point|axis)s? | fused_sdp_choice | nnz | make_per_.*
    """,
    re.VERBOSE,
)
_QUANTIZED_ARITHMETIC = re.compile(
    r"(add|mul|(batch|layer|group|instance)_norm|sigmoid|tanh|hardswish|(p|leaky_)?relu6?|c?elu|clamp|dropout|threshold|max_pool|softmax).*"
)
_QUANTIZED_MOVES = re.compile(r"cat.*|.*_(un)?pack|make_quantized_cell_params.*")


@cache
def family(func: OpOverload) -> str:
    """`view` (nothing moves), `moves`, `arithmetic`, or `unknown` where there may be work that nothing counts."""
    if func.is_view or torch.Tag.inplace_view in func.tags:
        return "view"
    if func.namespace == "quantized":
        name = func._schema.name.split("::")[1]
        if _QUANTIZED_MOVES.fullmatch(name):
            return "moves"
        return "arithmetic" if _QUANTIZED_ARITHMETIC.fullmatch(name) else "unknown"
    if func.namespace == "profiler":
        return "view"
    name = re.sub(r"_backward(_data|_impl|_jvp|_reduce|_elemt)?$", "", func._schema.name.split("::")[1].strip("_"))
    is_ours = func.namespace in ("aten", "prims", "prim", "quantized_decomposed")
    if torch.Tag.view_copy in func.tags or (is_ours and _MOVES.fullmatch(name)):
        return "moves"
    if {torch.Tag.pointwise, torch.Tag.reduction} & set(func.tags):
        return "arithmetic"
    return "arithmetic" if is_ours and (_ARITHMETIC.fullmatch(name) or _is_pointwise(name)) else "unknown"


@cache
def _is_pointwise(name: str) -> bool:
    """Whether any overload of the operator, or of its in-place form, carries the mark that some of them lack."""
    packets = (getattr(torch.ops.aten, n, None) for n in (name, f"{name}_", f"_{name}", f"{name}_backward", f"special_{name}"))
    return any(
        {torch.Tag.pointwise, torch.Tag.reduction} & set(getattr(packet, overload).tags)
        for packet in packets
        if packet is not None
        for overload in packet.overloads()
    )
