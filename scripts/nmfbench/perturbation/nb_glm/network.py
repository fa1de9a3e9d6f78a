"""The general model: stacks of layers on both sides, a tanh or identity link."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nmfbench.errors import InputError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}
NORMS: dict[str, type[nn.Module] | None] = {
    "none": None,
    "batchnorm": nn.BatchNorm1d,
    "layernorm": nn.LayerNorm,
}


def stack(
    width: int, hidden: Sequence[int], out: int | None, activation: str, norm: str, dropout: float
) -> tuple[nn.Module, int]:
    """Hidden layers and an output layer, and the width of what comes out.

    Each hidden layer is ``Linear (no bias) -> norm -> activation -> dropout``; one more ``Linear`` follows
    where `out` is given and differs from the last width. No hidden layer and no other width: the identity.
    """
    layers: list[nn.Module] = []
    last = width
    for size in hidden:
        layers.append(_linear(last, size))
        if NORMS[norm] is not None:
            layers.append(NORMS[norm](size))
        layers += [ACTIVATIONS[activation](), nn.Dropout(dropout)]
        last = size
    if out is not None and out != last:
        layers.append(_linear(last, out))
        last = out
    return nn.Sequential(*layers), last


def _linear(width: int, out: int) -> nn.Linear:
    layer = nn.Linear(width, out, bias=False)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    return layer


class Side(nn.Module):
    """``stack(x)``, with `residual` plus a learned share of ``x`` (through a linear map of other widths)."""

    def __init__(self, width: int, residual: float | None, **options) -> None:
        super().__init__()
        self.stack, self.out = stack(width, **options)
        self.share = None if residual is None else nn.Parameter(torch.tensor(float(residual)))
        self.skip = _linear(width, self.out) if residual is not None and width != self.out else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.stack(x)
        return y if self.share is None else y + self.share * (x if self.skip is None else self.skip(x))


class LowRankNB(nn.Module):
    """Log means of targets.

    Parameters
    ----------
    genes : Tensor of shape (genes, width)
    log_control : Tensor of shape (genes,)
    target_width : int
    options : mapping
        ``g_mlp_hidden``, ``g_out_dim``, ``p_mlp_hidden``, ``p_out_dim``, ``gp_activation``, ``gp_norm``,
        ``gp_dropout``, ``residual``, ``link``, ``alpha``, ``on_target``, ``use_cycle``.
    """

    def __init__(self, genes: Tensor, log_control: Tensor, target_width: int, options: dict) -> None:
        super().__init__()
        self.options = options
        self.register_buffer("G", genes)
        self.register_buffer("log_control", log_control)
        shared = {
            "activation": options["gp_activation"],
            "norm": options["gp_norm"],
            "dropout": options["gp_dropout"],
            "residual": options["residual"],
        }
        self.f_G = Side(genes.shape[1], hidden=options["g_mlp_hidden"], out=options["g_out_dim"], **shared)
        self.f_P = Side(target_width, hidden=options["p_mlp_hidden"], out=options["p_out_dim"], **shared)
        self.K = nn.Parameter(torch.empty(self.f_G.out, self.f_P.out))
        bound = math.sqrt(6 / (self.f_G.out + self.f_P.out))  # Xavier
        nn.init.uniform_(self.K, -bound, bound)
        self.bias = nn.Parameter(torch.zeros(genes.shape[0]))
        self.alpha = (
            nn.Parameter(torch.tensor(float(options["alpha"]))) if options["link"] == "tanh" else None
        )
        self.on_target = nn.Parameter(torch.zeros(())) if options["on_target"] else None
        self.cycle = nn.Parameter(torch.zeros(2, genes.shape[0])) if options["use_cycle"] else None

    def raw(self, P: Tensor, missing: Tensor) -> Tensor:
        """bias + f_G(G) K f_P(P)', shape (rows, genes); a row that is missing has the bias alone."""
        specific = (self.f_P(P) @ self.K.T) @ self.f_G(self.G).T
        return self.bias + torch.where(missing[:, None], 0.0, specific)

    def change(self, raw: Tensor, own: Tensor | None, phase: Tensor | None) -> Tensor:
        """Log fold change from :meth:`raw`.

        Parameters
        ----------
        raw : Tensor of shape (rows, genes)
        own : Tensor of shape (2, pairs)
            Rows and genes of the on-target term.
        phase : Tensor of shape (rows,) or None
        """
        delta = raw if self.alpha is None else self.alpha * torch.tanh(raw)
        if self.on_target is not None and own is not None and own.shape[1]:
            delta = delta.index_put((own[0], own[1]), self.on_target.expand(own.shape[1]), accumulate=True)
        if self.cycle is not None and phase is not None:
            delta = delta + self.cycle_effect(phase)
        return delta

    def cycle_effect(self, phase: Tensor) -> Tensor:
        """Effect of the phases, shape (rows, genes): zero in G1."""
        table = torch.cat([torch.zeros_like(self.cycle[:1]), self.cycle])
        return table[phase]


def check_shapes(genes: int, targets: int) -> None:
    """Refuse embeddings of width zero, which no layer can take."""
    if min(genes, targets) < 1:
        raise InputError(
            "predictors: nb_glm: embedding",
            "vectors of at least one column",
            f"{genes} and {targets}",
            "mend it",
        )
