"""The least that each stage can cost: the bare model's passes and the dictionaries' encoders."""

from __future__ import annotations

import torch

import featcircuits as fc
from featcircuits.model.frozen import frozen
from featcircuits.splicing.spliced import SplicedModel, Start


def two_forwards_one_backward(spliced: SplicedModel, task: fc.Task) -> None:
    """Clean and corrupted prompts, the metric's gradient at the embeddings, logits at the last token only."""
    batch = task.batch(range(len(task))).to(spliced.device)
    assert batch.corrupted is not None
    with torch.no_grad():
        spliced.model(batch.corrupted.ids, logits_to_keep=1)
    with torch.enable_grad(), frozen(spliced.model):
        words = spliced.model.get_input_embeddings()(batch.clean.ids).requires_grad_()
        logits = spliced.model(inputs_embeds=words, logits_to_keep=1).logits
        torch.autograd.grad(logits.gather(-1, batch.answers.clean[:, None]).sum(), words)


def encodes(spliced: SplicedModel, task: fc.Task) -> None:
    """One encode for each site, of the clean and the corrupted tokens together."""
    rows = 2 * len(task) * task.longest
    for dictionary in spliced.dictionaries.values():
        dictionary.encode(torch.randn(rows, dictionary.width, device=spliced.device))


def nodes(spliced: SplicedModel, task: fc.Task) -> None:
    """What attribution patching cannot do without."""
    two_forwards_one_backward(spliced, task)
    encodes(spliced, task)


def partial_passes(spliced: SplicedModel, task: fc.Task, steps: int = 10) -> None:
    """For every site and point of integrated gradients, a forward and backward from its layer on."""
    batch = task.batch(range(len(task))).to(spliced.device)
    starts = [site.start for site in spliced.sites]
    for layer in sorted(set(starts)):
        copies = steps * starts.count(layer)
        tokens = batch.clean.select(torch.arange(len(task), device=spliced.device).repeat(copies))
        shape = (*tokens.ids.shape, spliced.architecture.width)
        with torch.enable_grad(), frozen(spliced.model):
            stream = torch.randn(shape, device=spliced.device, dtype=spliced.model.dtype, requires_grad=True)
            if layer == 0:
                logits = spliced.model(inputs_embeds=stream, logits_to_keep=1).logits
            else:
                logits = spliced.run(tokens, start=Start(layer, stream), answers_only=True)
            torch.autograd.grad(logits[..., 0].sum(), stream)
