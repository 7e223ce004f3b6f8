"""The card `saes/grammar-4l/README.md`, written from the figures in suite.toml."""

from collections.abc import Mapping
from typing import Any

from featcircuits.training.card import LEGEND, site_table, table

CARD = """# {name}

{description}

The folder is complete: `model/` (weights as safetensors, a word-level tokenizer; it loads with
`AutoModelForCausalLM` and `AutoTokenizer`), `sites/` (one dictionary a site), `tasks/` (pairs of
prompts), `text.txt` (12,000 new sentences), `dossiers/` (what every feature is, on this text) and
`suite.toml`, which says the same as this card for programs, with a hash of each file.
Licence: MIT. Corpus, model and dictionaries are made by the code in `experiments/`; nothing was
taken from elsewhere.

## Model

GPT-NeoX with parallel residual and rotary positions: {layers} layers, width {width}, {heads} heads,
{vocabulary} words. It reads sentences from a grammar, each beginning at position 0 without BOS.
Loss on new sentences: {loss:.3f} nats a token.

## Behaviours

{n_pairs} pairs a file; no key noun, name or event stands in both the train and the test file of a
behaviour. A prompt is answered rightly where the logit difference has the right sign; accuracy is
the share of pairs answered rightly on both sides. All figures: test file.

{tasks}

`agreement_*`: all prompts of a file have one length, so circuits can keep positions apart. The
answers take turns between is/are, was/were, has/have and does/do; `agreement_within_rc` asks for
the verb itself. `greater_than`: the corrupted prompt starts in 01, and the answers are sets of
years, later than the clean first year or not; its metric is a difference of mean logits. Events of
this grammar seldom last long (20 years on average), so both prompts of a pair have a clear answer.

## Dictionaries

JumpReLU, `f = z where z > threshold else 0`, `z = x @ W_enc + b_enc`, `x_hat = f @ W_dec + b_dec`,
decoder rows of unit norm; trained as BatchTopK by sae_lens. Figures on {held_out} held-out tokens.

{sites}

{legend}

## How it was made

{recipe}

The command, run in the repository's root with the `train` extra installed:

    {command}

Seeds fix corpus, pairs, initial weights and order of batches. On the same machine with the same
library versions and number of threads the weights come out the same; elsewhere sums are rounded in
another order, and training carries that on, so figures differ a little and features are numbered
otherwise. The task files and the vocabulary do not change.

## Limits

* The language is a few hundred words of a grammar: what is found here is a fact about this
  model, and a place to try methods, not a claim about English or about larger models.
* Dictionaries were trained on sentences that begin at position 0; other text is out of
  distribution, and so is anything longer than {longest} tokens.
* The model has learnt the grammar's stereotypes: each name has one gender, things do not act.
"""


def card(suite: Mapping[str, Any], longest: int) -> str:
    """The whole card."""
    recipe, model = suite["recipe"], suite["model"]
    return CARD.format(
        name=suite["name"],
        description=suite["description"],
        layers=model["num_hidden_layers"],
        width=model["hidden_size"],
        heads=recipe["model_heads"],
        vocabulary=recipe["model_vocabulary"],
        loss=recipe["model_loss_held_out"],
        n_pairs=recipe["pairs"],
        tasks=task_table(suite["tasks"]),
        held_out=f"{recipe['tokens_held_out']:,}",
        sites=site_table(suite["sites"]),
        legend=LEGEND,
        recipe=table(("setting", "value"), ((f"`{k}`", f"{v}") for k, v in recipe.items())),
        command=recipe["command"],
        longest=longest,
    )


def task_table(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a behaviour."""
    head = ("behaviour", "what", "accuracy", "clean", "corrupted", "metric clean / corrupted")
    rows = (
        (
            f"`{name}`",
            row["description"],
            f"{row['accuracy_test']:.1%}",
            f"{row['accuracy_test_clean']:.1%}",
            f"{row['accuracy_test_corrupted']:.1%}",
            f"{row['metric_test_clean']:.2f} / {row['metric_test_corrupted']:.2f}",
        )
        for name, row in tasks.items()
    )
    return table(head, rows)
