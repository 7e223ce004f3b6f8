"""Secants: each module becomes the linear map that takes the change of its input exactly to the change of its output.

This is DeepLIFT's rescale rule (Shrikumar et al. 2017; a modified gradient, Ancona et al. 2018) for every nonlinear
module of a transformer. The changes are those between two runs: the first forward pass inside `secants`, and each later
one. Products are `mean(a) db + mean(b) da`; a softmax p has the logarithmic means L = (p' - p) / (log p' - log p), as
in the decomposition of indices (LMDI, Ang 2005):
`dp = L (dl - sum(L dl) / sum(L))`. Since all other modules are linear, a backward pass gives coefficients
c with `sum(c . dx) = m' - m` on every full cut of the model.

In the code `x2` is x', the first run's value, and `dx` any tensor whose gradient to x is that of the difference:
the secants below are linear in what carries a gradient, so x itself does for its difference from x'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from featcircuits.dictionaries.decomposition import wide
from featcircuits.model.architecture import Architecture
from featcircuits.model.placement import in_memory
from featcircuits.propagation.attention_kernels import Pattern, around_attention
from featcircuits.propagation.carry import carry, propagates
from featcircuits.propagation.norms import Form, form_of
from featcircuits.propagation.rules import Handle, Undo, applied, entered


@contextmanager
def secants(model: Any, architecture: Architecture) -> Iterator[None]:
    """A context in which backward passes follow the secants between the first run inside and their own run.

    Both must be whole runs with the same number of rows and the same logits. Forward values never change, and
    nothing stays on the model afterwards. Raises `InputError` for compiled modules, unknown norms and
    attention that cannot be opened.
    """
    with applied(model, architecture, (_norms, _activations, _products, _attention, _final_cap)):
        yield


def slope(function: Callable[[Tensor], Tensor], start: Tensor, end: Tensor) -> Tensor:
    """(f(end) - f(start)) / (end - start), elementwise; the slope at their middle where the two are almost equal."""
    middle, gap = (start + end) / 2, end - start
    least = torch.finfo(gap.dtype).eps ** (1 / 3) * (1 + middle.abs())
    gap = torch.where(gap.abs() < least, least, gap)
    return (function(middle + gap / 2) - function(middle - gap / 2)) / gap


def _between(module: nn.Module, linear: Callable[[Tensor, Tensor], Tensor]) -> Handle:
    """A hook that keeps the first run's input, and makes later runs pass back the gradient of `linear(input, kept)`."""
    kept: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not kept:
            kept.append(wide(args[0].detach()))
        elif propagates(args[0]):
            with in_memory(module):
                return carry(output, linear(wide(args[0]), kept[0]))
        return None

    return module.register_forward_hook(hook)


def _norms(model: Any, architecture: Architecture) -> Iterator[Handle]:
    for norm in (*architecture.norms(model), *architecture.qk_norms(model)):
        if not isinstance(norm, nn.Identity):
            yield _between(norm, partial(norm_secant, form_of(norm), norm))


def norm_secant(form: Form, norm: nn.Module, x: Tensor, x2: Tensor) -> Tensor:
    """The product rule for centred x and r = 1 / sqrt(mean(x^2) + eps), of which mean(r) dx + mean(x) dr.

    1 / r^2 - 1 / r'^2 = mean((x + x') . (x - x')), hence dr = -r r' / (1 / r + 1 / r') mean((x + x') . dx).
    """
    x, x2 = form.centre(x), form.centre(x2)
    r, r2 = form.scale(norm, x.detach()), form.scale(norm, x2)
    x_mean = (x.detach() + x2) / 2
    dr = -r * r2 / (1 / r + 1 / r2) * (2 * x_mean * x).mean(-1, keepdim=True)
    return form.finish(norm, x * (r + r2) / 2 + x_mean * dr)


def _activations(model: Any, architecture: Architecture) -> Iterator[Handle]:
    for activation in architecture.activations(model):
        # the module's forward instead of a call, since the hook is on the call
        yield _between(activation, partial(elementwise_secant, activation.forward))


def elementwise_secant(function: Callable[[Tensor], Tensor], z: Tensor, z2: Tensor) -> Tensor:
    """(f(z') - f(z)) / (z' - z) dz."""
    return z * slope(function, z.detach(), z2)


def _products(model: Any, architecture: Architecture) -> Iterator[Handle]:
    if architecture.family.product is None:
        return
    modules = (architecture.activations(model), architecture.branches(model), architecture.products(model))
    for gate, branch, product in zip(*modules, strict=True):
        yield from _product(gate, branch, product)


def _product(gate: nn.Module, branch: nn.Module, product: nn.Module) -> Iterator[Handle]:
    """Hooks that see both factors where they are computed, and their product where it is read."""
    factors: dict[nn.Module, Tensor] = {}
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        factors[module] = output

    def share(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Any, ...] | None:
        a, b = wide(factors.pop(gate)), wide(factors.pop(branch))[..., -args[0].shape[-1] :]
        if not kept:
            kept.append((a.detach(), b.detach()))
        elif propagates(args[0]):
            return carry(args[0], product_secant(a, b, *kept[0])), *args[1:]
        return None

    yield gate.register_forward_hook(keep)
    yield branch.register_forward_hook(keep)
    yield product.register_forward_pre_hook(share)


def product_secant(a: Tensor, b: Tensor, a2: Tensor, b2: Tensor) -> Tensor:
    """mean(b) da + mean(a) db."""
    return a * (b.detach() + b2) / 2 + b * (a.detach() + a2) / 2


def _attention(model: Any, architecture: Architecture) -> Iterator[Handle]:
    kept: dict[nn.Module, Pattern] = {}

    def through(kernel: Any, module: nn.Module, *args: Any, **settings: Any) -> tuple[Tensor, Any]:
        with torch.no_grad():
            output, weights = kernel(module, *args, **settings)
        pattern = Pattern.of(module, *args, **settings).widened()
        if module not in kept:
            kept[module] = pattern.detached()
        elif propagates(pattern.value):
            return carry(output, attention_secant(pattern, kept[module])), weights
        return output, weights

    yield entered(around_attention(model, architecture, through))


def attention_secant(pattern: Pattern, pattern2: Pattern) -> Tensor:
    """[example, slot, head, width]: the secants of its operations one after the other.

    Logits l = cap(q . k), weights p = softmax(l), output p v.
    """
    held = pattern.detached()

    # dl: the product of queries and keys, then the cap
    q_mean, k_mean = (held.query + pattern2.query) / 2, (held.key + pattern2.key) / 2
    dl = (pattern.query @ k_mean.mT + q_mean @ pattern.key.mT) * pattern.scale
    if pattern.cap is not None:
        product, product2 = (each.query @ each.key.mT * each.scale for each in (held, pattern2))
        dl = dl * slope(partial(soft_cap, pattern.cap), product, product2)

    # p and p'; rows without a visible key are padding, and hold NaN
    log_p, log_p2 = (each.logits().log_softmax(-1).masked_fill(~each.visible, 0.0) for each in (held, pattern2))
    p, p2 = (log.exp().masked_fill(~pattern.visible, 0.0).nan_to_num(0.0) for log in (log_p, log_p2))

    # dp = L (dl - sum(L dl) / sum(L)), so that the weights of a row still add up to 1
    L = logarithmic_mean(p, p2, (log_p - log_p2).abs().nan_to_num(0.0))
    sum_L = L.sum(-1, keepdim=True).clamp(min=torch.finfo(L.dtype).tiny)
    dp = L * (dl - (L * dl).sum(-1, keepdim=True) / sum_L)

    # the product of weights and values
    output = (p + p2) / 2 @ pattern.value + dp @ ((held.value + pattern2.value) / 2)
    return output.transpose(1, 2)


def soft_cap(cap: float, score: Tensor) -> Tensor:
    """Logits limited to (-cap, cap) by a tanh."""
    return torch.tanh(score / cap) * cap


def logarithmic_mean(p: Tensor, p2: Tensor, apart: Tensor) -> Tensor:
    """(p' - p) / (log p' - log p), given |log p' - log p|; p where p' and p are equal."""
    ratio = -torch.expm1(-apart) / apart.where(apart > 0, torch.ones_like(apart))
    return torch.maximum(p, p2) * ratio.where(apart > 0, torch.ones_like(apart))


def _final_cap(model: Any, architecture: Architecture) -> Iterator[Handle]:
    """Compute the soft cap of the logits in place of the model, since no module computes it that could be hooked."""
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is None:
        return
    config.final_logit_softcapping = None
    undo = Undo()
    undo.callback(setattr, config, "final_logit_softcapping", cap)
    yield undo

    kept: list[Tensor] = []

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        logits = output.logits
        output.logits = soft_cap(cap, logits)
        if not kept:
            kept.append(wide(logits.detach()))
        elif propagates(logits):
            output.logits = carry(output.logits, elementwise_secant(partial(soft_cap, cap), wide(logits), kept[0]))
        return output

    yield model.register_forward_hook(hook)
