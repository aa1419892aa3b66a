"""Rewrites the tree of a chat template so that it pays for what no operation of the sandbox sees."""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.visitor import NodeTransformer

from elm_mlx.text.chat.operations import REASONS

MAX_NESTING = 20_000  # nodes, each counted for every block around it, as the compiler walks them; Llama 3.1: 800
TAGS: dict[type[nodes.Node], str] = {
    nodes.ScopedEvalContextModifier: "autoescape", nodes.Block: "block", nodes.Extends: "extends",
    nodes.FromImport: "from", nodes.Import: "import", nodes.Include: "include",
}  # fmt: skip
BLOCK_NODES = (nodes.For, nodes.If, nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.With, nodes.AssignBlock,
               nodes.Scope)  # fmt: skip


class Generation(Extension):
    """{% generation %}: marks what the assistant says, for training; here it is a block without an effect."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def payment(method: str, node: Any) -> nodes.Call:
    """A node that calls a method of the sandbox's budget on the value of `node`."""
    return nodes.Call(nodes.EnvironmentAttribute(method), [node], [], None, None, lineno=node.lineno)


class Metering(NodeTransformer):
    """Makes a template pay for every loop, comparison, display, slice and output; the Sandbox sees the rest."""

    def visit(self, node: Any, *_: Any, **__: Any) -> Any:
        """Adds a payment for what a node walks or makes, to its children first."""
        self.generic_visit(node)
        match node:
            case nodes.For():
                node.iter = payment("pay_each", node.iter)
            case nodes.Output() | nodes.Concat():
                node.nodes = [payment("shown", one) for one in node.nodes]
            case nodes.Compare() | nodes.Operand():
                node.expr = payment("seen", node.expr)
            case nodes.Pair():
                node.key = payment("pay_whole", node.key)
            case nodes.Getitem(arg=nodes.Slice()) | nodes.List() | nodes.Dict() | nodes.Tuple(ctx="load"):
                return payment("pay_new", node)
            case nodes.Getitem():
                node.arg = payment("pay_whole", node.arg)
        return node


def nesting(node: nodes.Node, depth: int = 1) -> int:
    """Counts the nodes below, each for every block around it. Raises ValueError for a tag that is refused."""
    if type(node) in TAGS:
        tag = TAGS[type(node)]
        raise ValueError(f"line {node.lineno}: the tag {tag} is refused, since it {REASONS['tag', tag]}")
    inner = depth + isinstance(node, BLOCK_NODES)
    return depth + sum(nesting(child, inner) for child in node.iter_child_nodes())
