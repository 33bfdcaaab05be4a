"""What a SavedModel says of itself: its signatures, and what a server could not run.

Read from saved_model.pb alone; nothing is loaded or run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from kerasunsup.errors import InputError

# Why an op is refused: the first name that fits.
REFUSED = {
    r"(Eager)?PyFunc(Stateless)?": (
        "runs Python, which a server does not have: write it with TensorFlow or keras.ops"
    ),
    r"Xla.*": "is run by XLA only, which TensorFlow Serving has off",
    r"Assign.*|Resource(?!Gather).*|Rng.*|StatefulRandom.*|StatefulUniform.*|.*TableInsert.*": (
        "writes a variable on every request: a signature must leave the model as it is"
    ),
    r"Random(?!Dataset|GammaGrad).*|Multinomial|TruncatedNormal|ParameterizedTruncatedNormal": (
        "draws other numbers on every call: draw with tf.random.stateless_* from `seed`"
    ),
}
CUSTOM = "is no op of TensorFlow's: a server would have to be rebuilt with it"
XLA_ATTRIBUTE = "_XlaMustCompile"


@dataclass(frozen=True)
class Problem:
    """Why one node keeps a signature from being served.

    Attributes:
        signature: Name of the signature.
        node: Path of the node, through the functions that call it.
        reason: What is wrong, and the remedy.
    """

    signature: str
    node: str
    reason: str


def read(folder: str | Path) -> meta_graph_pb2.MetaGraphDef:
    """The graph that is served: the one tagged `serve`.

    Raises:
        InputError: No SavedModel, a damaged one, or none tagged `serve`.
    """
    path = Path(folder, "saved_model.pb")
    try:
        content = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except Exception as error:  # protobuf raises its own
        raise InputError(f"{path} must be a SavedModel. Received: {error}") from error
    for graph in content.meta_graphs:
        if list(graph.meta_info_def.tags) == ["serve"]:
            return graph
    raise InputError(f"{path} must hold a graph with the tag `serve` alone. Received: none")


def describe(graph: meta_graph_pb2.MetaGraphDef) -> dict[str, Any]:
    """The public face: name -> {"inputs", "outputs"}: name -> [dtype, size, size, …].

    A size that is free is None.
    """
    return {
        name: {"inputs": _tensors(one.inputs), "outputs": _tensors(one.outputs)}
        for name, one in sorted(graph.signature_def.items())
        if not name.startswith("__")
    }


def _tensors(infos: Any) -> dict[str, list[Any]]:
    return {
        name: [tf.as_dtype(info.dtype).name, *(_sizes(info.tensor_shape) or [])]
        for name, info in sorted(infos.items())
    }


def _sizes(shape: Any) -> list[int | None] | None:
    return None if shape.unknown_rank else [None if d.size < 0 else d.size for d in shape.dim]


def problems(graph: meta_graph_pb2.MetaGraphDef) -> list[Problem]:
    """Ops that a server could not run, or that would not answer alike every time."""
    functions = {one.signature.name: one for one in graph.graph_def.library.function}
    found = []
    for name, signature in graph.signature_def.items():
        wanted = [info.name for info in signature.outputs.values()]
        for path, node in _reached(graph.graph_def.node, wanted, functions, set()):
            reason = _reason(node, functions)
            if reason:
                found.append(Problem(name, path, f"({node.op}) {reason}"))
    return found


def fixed_batches(graph: meta_graph_pb2.MetaGraphDef) -> list[Problem]:
    """Inputs and outputs without a free batch dimension."""
    found = []
    for name, signature in describe(graph).items():
        for kind in ("input", "output"):
            for key, (_, *sizes) in signature[f"{kind}s"].items():
                if not sizes or sizes[0] is not None:
                    reason = f"has no free batch dimension: shape {tuple(sizes)}"
                    found.append(Problem(name, f"{kind} `{key}`", reason))
    return found


def operations(graph: meta_graph_pb2.MetaGraphDef) -> set[str]:
    """Names of all ops that a request reaches."""
    functions = {one.signature.name: one for one in graph.graph_def.library.function}
    outputs = [i.name for s in graph.signature_def.values() for i in s.outputs.values()]
    return {node.op for _, node in _reached(graph.graph_def.node, outputs, functions, set())}


def _reason(node: Any, functions: dict[str, Any]) -> str | None:
    called = [functions[name] for name in _called(node) if name in functions]
    if any(one.attr[XLA_ATTRIBUTE].b for one in (node, *called) if XLA_ATTRIBUTE in one.attr):
        return REFUSED["Xla.*"] + ": drop jit_compile"
    for pattern, reason in REFUSED.items():
        if re.fullmatch(pattern, node.op):
            return reason
    known = node.op in functions or hasattr(tf.raw_ops, node.op) or node.op.startswith("_")
    return None if known else CUSTOM


def _reached(
    nodes: Any, outputs: list[str], functions: dict[str, Any], seen: set[str]
) -> Iterator[tuple[str, Any]]:
    """(path, node) of every node that `outputs` need, those of called functions included."""
    by_name = {node.name: node for node in nodes}
    waiting = [_node_of(output) for output in outputs]
    visited: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in visited or name not in by_name:
            continue
        visited.add(name)
        node = by_name[name]
        yield name, node
        waiting += [_node_of(given) for given in node.input]
        for function in [*_called(node), *([node.op] if node.op in functions else [])]:
            if function in functions and function not in seen:
                seen.add(function)
                body = functions[function]
                wanted = [*body.ret.values(), *body.control_ret.values()]
                for path, inner in _reached(body.node_def, wanted, functions, seen):
                    yield f"{name}/{path}", inner


def _called(node: Any) -> list[str]:
    """Names of the functions among a node's attributes."""
    attributes = node.attr.values()
    names = [one.func.name for one in attributes if one.HasField("func")]
    return names + [function.name for one in attributes for function in one.list.func]


def _node_of(tensor: str) -> str:
    """The node of an input: that of "^name", "name:0" or "name:output:0" is "name"."""
    return tensor.removeprefix("^").split(":")[0]
