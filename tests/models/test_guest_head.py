"""A guest's head for the last position alone: found by what it does, and left alone where it does something else."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

from elm_mlx.models.guest_head import last_head

VOCAB, WIDTH = 11, 4


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, WIDTH)

    def __call__(self, ids: mx.array) -> mx.array:
        return mx.cumsum(self.embed_tokens(ids), axis=1)


class Network(nn.Module):
    """Logits as mlx-lm's classes make them, with a cap after the head."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.model, self.kind = Body(), kind
        if kind == "untied":
            self.lm_head = nn.Linear(WIDTH, VOCAB, bias=False)
        if kind == "elsewhere":
            self.far = {"away": nn.Linear(WIDTH, VOCAB)}

    def __call__(self, ids: mx.array) -> mx.array:
        states = self.model(ids)
        if self.kind == "tied":
            return mx.tanh(self.model.embed_tokens.as_linear(states))
        return mx.tanh(self.lm_head(states) if "lm_head" in self else self.far["away"](states))


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_the_logits_of_the_last_position_are_those_of_all(kind: str) -> None:
    network, ids = Network(kind), mx.array([[3, 1, 4, 1, 5]])
    before = network(ids)
    head = last_head(network)
    assert head is not None
    with head.last():
        last = network(ids)
    assert last.shape == (1, 1, VOCAB)
    assert mx.allclose(last[:, 0], before[:, -1])
    assert mx.array_equal(network(ids), before)


def test_a_network_whose_head_is_elsewhere_stays_as_it_was() -> None:
    network = Network("elsewhere")
    inner = network.model.embed_tokens
    assert last_head(network) is None
    assert network.model.embed_tokens is inner
    assert network(mx.array([[1, 2]])).shape == (1, 2, VOCAB)
