"""The layers in float64, one row, head and expert at a time: slow, plain, and written from the papers' equations.

Nothing here comes from `mhmoe`: a layer is given as its config's JSON form and a state dict. Every number stays
a torch tensor so that autograd gives the gradients.

    run(config, weights, x, mask, index)      x: (tokens, dim); index: per row the chosen experts, or None
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


@dataclass
class Trace:
    """What the routers decided, and their balance loss."""

    index: list[list[int]] = field(default_factory=list)
    weight: list[list[Tensor]] = field(default_factory=list)
    kept: list[list[bool]] = field(default_factory=list)
    probabilities: list[Tensor] = field(default_factory=list)
    balance_loss: Tensor | None = None


def run(
    config: Mapping[str, Any],
    weights: Weights,
    x: Tensor,
    mask: Sequence[bool] | None = None,
    index: Sequence[Sequence[int]] | None = None,
    training: bool = False,
) -> tuple[Tensor, Trace]:
    """The layer's output for `tokens` rows, and its routing. With `index` the choice is the caller's."""
    trace = Trace()
    rows = [x[i].double() for i in range(len(x))]
    wide = {name: tensor.double() for name, tensor in weights.items()}
    real = [True] * len(rows) if mask is None else list(mask)
    out = _layer(config, wide, rows, real, index, training, trace)
    return torch.stack(out) if out else x.double(), trace


def _layer(
    config: Mapping[str, Any],
    weights: Weights,
    rows: list[Tensor],
    real: list[bool],
    index: Sequence[Sequence[int]] | None,
    training: bool,
    trace: Trace,
    scored: list[Tensor] | None = None,
) -> list[Tensor]:
    """scored: what the routers read, if it is not the rows."""
    kind = config["kind"]
    if kind == "feed_forward":
        return [dense_network(config, weights, row) for row in rows]
    if kind == "residual":  # v1 Eq. 6: o = x + ...
        inner = _layer(config["inner"], below(weights, "inner"), rows, real, index, training, trace, scored)
        return [row + out for row, out in zip(rows, inner, strict=True)]
    if kind == "normed":  # w * f(x) / rms(f(x))
        inner = _layer(config["inner"], below(weights, "inner"), rows, real, index, training, trace, scored)
        return [weights["norm.weight"] * out / torch.sqrt((out * out).mean() + config["eps"]) for out in inner]
    if kind == "multi_head":
        return _multi_head(config, weights, rows, real, index, training, trace)
    assert kind == "sparse_moe", kind
    return _sparse_moe(config, weights, rows, real, index, training, trace, scored)


def _multi_head(
    config: Mapping[str, Any],
    weights: Weights,
    rows: list[Tensor],
    real: list[bool],
    index: Sequence[Sequence[int]] | None,
    training: bool,
    trace: Trace,
) -> list[Tensor]:
    heads, width = config["heads"], config["dim"] // config["heads"]
    subtokens: list[Tensor] = []
    unprojected: list[Tensor] = []
    for row in rows:
        projected = mlp(weights, "head", config["head_layers"], row)  # Eq. 3
        for head in range(heads):  # Eq. 4, token-major
            subtokens.append(projected[head * width : (head + 1) * width])
            unprojected.append(row[head * width : (head + 1) * width])
    repeated = [flag for flag in real for _ in range(heads)]
    scored = unprojected if config.get("route_by") == "input" else None
    outs = _layer(config["inner"], below(weights, "inner"), subtokens, repeated, index, training, trace, scored)
    merged: list[Tensor] = []
    for token in range(len(rows)):  # Eq. 7-9
        joined = torch.cat([outs[token * heads + head] for head in range(heads)])
        merged.append(mlp(weights, "merge", config["merge_layers"], joined))
    return merged


def _sparse_moe(
    config: Mapping[str, Any],
    weights: Weights,
    rows: list[Tensor],
    real: list[bool],
    index: Sequence[Sequence[int]] | None,
    training: bool,
    trace: Trace,
    scored: list[Tensor] | None = None,
) -> list[Tensor]:
    router, experts = config["router"], config["experts"]
    num_experts, top_k = router["num_experts"], router["top_k"]
    for position, row in enumerate(rows if scored is None else scored):
        gate, gates = probabilities_and_gates(router, below(weights, "router"), row, position)
        chosen = list(index[position]) if index is not None else best(gate.tolist(), top_k)
        chosen_gates = [gates[p] for p in chosen]
        if router["renormalize"]:
            total = sum(chosen_gates, torch.zeros((), dtype=torch.float64))
            chosen_gates = [g / total for g in chosen_gates]
        trace.probabilities.append(gate)
        trace.index.append(chosen)
        trace.weight.append(chosen_gates)
    trace.kept = [[flag] * top_k for flag in real]
    if training and config["capacity_factor"] is not None:
        limit = math.floor(config["capacity_factor"] * top_k * math.ceil(len(rows) / num_experts))
        room = [limit] * num_experts
        for choice in range(top_k):  # first choices come first
            for position in range(len(rows)):
                expert = trace.index[position][choice]
                if trace.kept[position][choice]:
                    trace.kept[position][choice] = room[expert] > 0
                    room[expert] -= room[expert] > 0

    outs: list[Tensor] = []
    for position, row in enumerate(rows):  # Eq. 1, 6
        out = torch.zeros(len(row), dtype=torch.float64)
        for choice, expert in enumerate(trace.index[position]):
            if trace.kept[position][choice]:
                one = {name: tensor[expert] for name, tensor in below(weights, "experts").items()}
                out = out + trace.weight[position][choice] * expert_network(experts, one, row)
        if config["shared"] is not None:
            out = out + dense_network(config["shared"], below(weights, "shared"), row)
        outs.append(out)
    trace.balance_loss = balance_loss(trace.probabilities, trace.index, real)
    return outs


def balance_loss(probabilities: list[Tensor], index: list[list[int]], real: list[bool]) -> Tensor:
    """v1 Eq. 10: N sum_p t_p G_p over the rows that are real."""
    total = torch.zeros((), dtype=torch.float64)
    counted = [i for i, flag in enumerate(real) if flag]
    if not counted:
        return total
    num_experts = len(probabilities[0])
    for expert in range(num_experts):
        selections = sum(index[i].count(expert) for i in counted)
        fraction = selections / sum(len(index[i]) for i in counted)
        mean_gate = sum((probabilities[i][expert] for i in counted), torch.zeros((), dtype=torch.float64))
        total = total + num_experts * fraction * mean_gate / len(counted)
    return total


def probabilities_and_gates(
    router: Mapping[str, Any], weights: Weights, row: Tensor, position: int
) -> tuple[Tensor, Tensor]:
    """Over all experts; those of other heads than the row's own have none."""
    if router["kind"] == "per_head_router":
        heads, one = router["heads"], router["router"]
        head, each = position % heads, one["num_experts"]
        own = probabilities_and_gates(one, below(weights, f"routers.{head}"), row, 0)
        before, after = torch.zeros(head * each), torch.zeros((heads - 1 - head) * each)
        return tuple(torch.cat([before.double(), part, after.double()]) for part in own)  # pyright: ignore
    values = scores(router, weights, row)
    if router.get("gate", "sigmoid" if router["kind"] == "balanced_router" else "softmax") == "sigmoid":
        gates = torch.stack([1 / (1 + torch.exp(-value)) for value in values])
        return gates / gates.sum(), gates
    return softmax(values), softmax(values)  # Eq. 5


def scores(router: Mapping[str, Any], weights: Weights, row: Tensor) -> list[Tensor]:
    """s_p for every expert p."""
    embeddings = [weights["expert_embeddings"][p] for p in range(router["num_experts"])]
    if router["kind"] in ("dot_product_router", "switch_router", "gshard_router", "balanced_router"):
        return [dot(row, e) for e in embeddings]
    if router["kind"] == "biased_router":
        return [dot(row, e) + weights["bias"][p] for p, e in enumerate(embeddings)]
    low = weights["projection"] @ row
    if router["kind"] == "unit_embeddings_router":  # scaled to norm 1.5, and normalised again for the score
        return [dot(low, (1.5 * e / norm(e)) / norm(1.5 * e / norm(e))) for e in embeddings]
    length = norm(low) if dot(low, low) > 1e-8 else 1e-4  # the released code's least norm
    cosines = [dot(low, e) / (length * norm(e)) for e in embeddings]
    if router["kind"] == "fixed_temperature_router":
        return [c / router["temperature"] for c in cosines]
    assert router["kind"] == "xmoe_router", router["kind"]
    temperature = torch.exp(-weights["log_inverse_temperature"].reshape(()))
    return [c / temperature for c in cosines]


def dense_network(config: Mapping[str, Any], weights: Weights, row: Tensor) -> Tensor:
    renamed = {name.replace("_proj.weight", "_proj").replace("_proj.bias", "_bias"): w for name, w in weights.items()}
    return expert_network(config, renamed, row)


def expert_network(config: Mapping[str, Any], weights: Weights, row: Tensor) -> Tensor:
    """W_down norm(act(W_up x + b_up)) + b_down."""
    hidden = weights["up_proj"] @ row
    if config["bias"]:
        hidden = hidden + weights["up_bias"]
    hidden = activated(config["activation"], hidden)
    if config["inner_norm"]:
        centred = hidden - hidden.mean()
        hidden = centred / torch.sqrt((centred * centred).mean() + 1e-5)
        hidden = hidden * weights["inner_norm.weight"] + weights["inner_norm.bias"]
    out = weights["down_proj"] @ hidden
    return out + weights["down_bias"] if config["bias"] else out


def activated(name: str, x: Tensor) -> Tensor:
    """The inner numbers; of gated ones the first half is the gate."""
    half = len(x) // 2
    gate, up = x[:half], x[half:]
    if name == "gelu":
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    if name == "gelu_tanh":
        return x * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if name == "relu":
        return torch.stack([max(v, 0 * v) for v in x])
    if name == "relu2":
        return torch.stack([max(v, 0 * v) ** 2 for v in x])
    if name == "swiglu":
        return gate / (1 + torch.exp(-gate)) * up
    if name == "geglu":
        return gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2))) * up
    assert name == "clamped_swiglu", name
    gate = torch.stack([v if v < 7 else 0 * v + 7 for v in gate])
    up = torch.stack([v if -7 < v < 7 else 0 * v + (7 if v > 0 else -7) for v in up])
    return (up + 1) * gate / (1 + torch.exp(-1.702 * gate))


def mlp(weights: Weights, name: str, layers: int, row: Tensor) -> Tensor:
    """`layers` linear layers with ReLU between them. In a state dict a single one has no number."""
    for layer in range(layers):
        at = name if layers == 1 else f"{name}.{2 * layer}"
        if layer:
            row = torch.where(row > 0, row, 0)
        row = weights[f"{at}.weight"] @ row
        if f"{at}.bias" in weights:
            row = row + weights[f"{at}.bias"]
    return row


def softmax(values: list[Tensor]) -> Tensor:
    exponentials = torch.exp(torch.stack(values) - max(v.item() for v in values))
    return exponentials / exponentials.sum()


def best(values: list[float], count: int) -> list[int]:
    return sorted(range(len(values)), key=lambda i: -values[i])[:count]


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


def norm(a: Tensor) -> Tensor:
    return torch.sqrt((a * a).sum())


def below(weights: Weights, name: str) -> dict[str, Tensor]:
    """The part of a state dict under `name.`."""
    return {key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(f"{name}.")}


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Values for every parameter, also for those that start as 0 or 1 and would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            if name.endswith("log_inverse_temperature"):
                parameter.copy_(math.log(1 / 0.3) + 0.2 * draw)
            elif name.endswith("norm.weight"):
                parameter.copy_(1 + 0.3 * draw)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * draw)
            else:
                parameter.copy_(draw * parameter.shape[-1] ** -0.5)


def error(ours: Tensor, theirs: Tensor) -> float:
    """Distance relative to the norm of `theirs`; absolute where that is 0."""
    ours, theirs = ours.detach().double(), theirs.detach().double()
    distance, size = float((ours - theirs).norm()), float(theirs.norm())
    return distance / size if size else distance
