"""BitNet b1.58: Llama with a norm before each output product, and relu squared in its gate.

Source: transformers models/bitnet/modeling_bitnet.py. Its matrices are ternary and stored in two bits; products take
activations as they are, where the reference rounds them to 8 bits, a scale for each position.
"""

from __future__ import annotations

from elm_mlx.config import LlamaConfig, ModelConfig
from elm_mlx.models.blocks import Block, FeedForward, Gate, Norm, relu2_gate
from elm_mlx.models.llama import Llama, LlamaProjections
from elm_mlx.models.parameters import Parameters


class BitNet(Llama):
    """The BitNet b1.58 family."""

    @classmethod
    def new_gate(cls) -> Gate:
        """A gate of the architecture's feed-forwards."""
        return Gate(relu2_gate)

    @staticmethod
    def _block(
        config: ModelConfig, p: Parameters, projections: LlamaProjections, number: int, ffn: FeedForward
    ) -> Block:
        norm = p.vector(f"model.layers.{number}.self_attn.attn_sub_norm")
        projections.before_out = Norm(norm, config.norm_eps)
        return Llama._block(config, p, projections, number, ffn)

    @classmethod
    def _feed_forward(cls, name: str, config: LlamaConfig, p: Parameters, gate: Gate) -> FeedForward:
        """The feed-forward whose matrices are named so."""
        ffn = super()._feed_forward(name, config, p, gate)
        ffn.before_down = Norm(p.vector(f"{name}.ffn_sub_norm"), config.norm_eps)
        return ffn
