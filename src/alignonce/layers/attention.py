"""Multi-head attention that carries the error back through feedback weights."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignonce.formats.compressed import HeldFeedback
from alignonce.layers import functional
from alignonce.layers.base import FeedbackLayer
from alignonce.layers.kinds import register_kind
from alignonce.layers.modes import runs_exactly

__all__ = ["FeedbackMultiheadAttention"]


@register_kind
class FeedbackMultiheadAttention(FeedbackLayer, nn.MultiheadAttention):
    """``nn.MultiheadAttention`` with feedback weights for its input projections.

    The output projection is a layer of its own (``out_proj``), with a feedback weight of its own. PyTorch's
    function takes all projections and the attention in one call, so that they are taken apart here;
    between them nothing has a weight.
    """

    plain_class = nn.MultiheadAttention
    weight_names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    in_proj_weight: nn.Parameter | None  # type: ignore[assignment]
    in_proj_feedback: HeldFeedback
    q_proj_feedback: HeldFeedback
    k_proj_feedback: HeldFeedback
    v_proj_feedback: HeldFeedback

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as ``nn.MultiheadAttention.forward``, whose arguments and shapes these are."""
        if runs_exactly(self) or query.is_nested:
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is a hint about attn_mask: give attn_mask too")
        batched, self_attention = query.dim() == 3, query is key is value
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        if self_attention:
            key = value = query
        _check_inputs(query, key, value)
        n, length, keys = *query.shape[:2], key.shape[1]
        _check_mask(attn_mask, "attn_mask", [(length, keys), (n * self.num_heads, length, keys)])
        _check_mask(key_padding_mask, "key_padding_mask", [(n, keys)])

        q, k, v = self._project(query, key, value)
        # A causal mask alone needs not be built: the attention kernels know it.
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if causal else _additive_mask(attn_mask, key_padding_mask, q.dtype, self.num_heads)
        q, k, v, mask = self._extend(q, k, v, mask)
        heads, weights = self._attend(q, k, v, mask, causal, need_weights)
        # (L, N, embed_dim) in memory, as PyTorch's: a dropout layer after it draws the same zeros.
        output = self.out_proj(heads.permute(2, 0, 1, 3).flatten(2))

        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return output.squeeze(1), None if weights is None else weights.squeeze(0)
        return (output.transpose(0, 1) if self.batch_first else output), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, L, E_q), (N, S, E_k), (N, S, E_v) to three of (N, L or S, embed_dim)."""
        if self.in_proj_weight is not None and query is key is value:
            packed = functional.linear(query, self.in_proj_weight, self.in_proj_feedback, self.in_proj_bias)
            q, k, v = packed.chunk(3, dim=-1)
            return q, k, v
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
            feedbacks: tuple[functional.Feedback, ...] = self.in_proj_feedback.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            feedbacks = (self.q_proj_feedback, self.k_proj_feedback, self.v_proj_feedback)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            functional.linear(x, w, b, bias)
            for x, w, b, bias in zip((query, key, value), weights, feedbacks, biases, strict=True)
        )
        return q, k, v

    def _extend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Append the learnt and the zero key and value; split into heads: (N, heads, L or S, head_dim)."""
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.to(k.dtype).expand(k.shape[0], 1, -1)], dim=1)
            v = torch.cat([v, self.bias_v.to(v.dtype).expand(v.shape[0], 1, -1)], dim=1)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        q, k, v = (x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for x in (q, k, v))
        added = (self.bias_k is not None) + self.add_zero_attn
        return q, k, v, mask if mask is None else F.pad(mask, (0, added))

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal), None
        scores = (q / math.sqrt(self.head_dim)) @ k.transpose(-2, -1)
        weights = F.dropout(torch.softmax(scores if mask is None else scores + mask, dim=-1), dropout)
        return weights @ v, weights


def _check_inputs(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Refuse what would spread silently; all are (N, L or S, features)."""
    if not query.dim() == key.dim() == value.dim() == 3:
        raise ValueError("query, key and value must all have three dimensions, or two without a batch")
    if key.shape[:2] != value.shape[:2] or key.shape[0] != query.shape[0]:
        raise ValueError(
            "query, key and value must have one batch size, and key and value one length; got (N, L, ...) "
            + ", ".join(str(tuple(x.shape)) for x in (query, key, value))
        )


def _check_mask(mask: Tensor | None, name: str, shapes: Sequence[tuple[int, ...]]) -> None:
    if mask is None:
        return
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(f"{name} must be boolean or floating-point, got {mask.dtype}")
    if mask.shape not in shapes:
        raise ValueError(f"{name} must have shape {' or '.join(map(str, shapes))}, got {tuple(mask.shape)}")


def _additive_mask(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, dtype: torch.dtype, heads: int
) -> Tensor | None:
    """One mask to add to the scores, of a shape that spreads over (N, heads, L, S)."""
    attn = None if attn_mask is None else _as_float(attn_mask, dtype)
    if attn is not None and attn.dim() == 3:  # (N * heads, L, S)
        attn = attn.unflatten(0, (-1, heads))
    if key_padding_mask is None:
        return attn
    padding = _as_float(key_padding_mask, dtype)[:, None, None, :]
    return padding if attn is None else attn + padding


def _as_float(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
