"""Tokenizer and language model: a small GPT-NeoX trained from nothing on the grammar."""

import math
from pathlib import Path
from random import Random

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from tqdm import tqdm
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

PAD, UNKNOWN = "<pad>", "<unk>"
IGNORED = -100
"""The label transformers leaves out of the loss."""
BUCKET = 50
"""Batches whose sentences are sorted by length together, so that little padding is computed."""


def build_tokenizer(sentences: list[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that knows every word and mark of the sentences."""
    splitter = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    found = {word for text in sentences for word, _ in splitter.pre_tokenize_str(text)}
    vocabulary = {word: index for index, word in enumerate([PAD, UNKNOWN, *sorted(found)])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )


def build_model(vocabulary_size: int, layers: int, width: int, heads: int) -> GPTNeoXForCausalLM:
    """An untrained model with parallel residual and rotary positions."""
    config = GPTNeoXConfig(
        vocab_size=vocabulary_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=64,
        use_parallel_residual=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        use_cache=False,
    )
    config._attn_implementation = "eager"
    return GPTNeoXForCausalLM(config)


def batches(rows: list[list[int]], size: int, rng: Random) -> list[list[list[int]]]:
    """All rows in random batches of like length."""
    rows = rng.sample(rows, len(rows))
    shuffled = []
    for start in range(0, len(rows), size * BUCKET):
        bucket = sorted(rows[start : start + size * BUCKET], key=len)
        groups = [bucket[i : i + size] for i in range(0, len(bucket), size)]
        shuffled += rng.sample(groups, len(groups))
    return shuffled


def pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids padded on the right, and the labels, where padding counts for nothing."""
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
    return ids, ids.masked_fill(~mask, IGNORED)


def train(
    model: GPTNeoXForCausalLM,
    rows: list[list[int]],
    *,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
) -> list[float]:
    """One pass over the rows with AdamW and a cosine schedule; returns the loss of every step.

    Weight decay also acts on the embeddings: what a word's identity does not help to predict is
    forgotten, and words that are used alike end up represented alike.
    """
    steps = batches(rows, batch_size, Random(seed))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay)
    warmup = max(1, len(steps) // 25)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, warmup, len(steps)))
    losses = []
    model.train()
    progress = tqdm(steps, desc="model", mininterval=5)
    for batch in progress:
        ids, labels = pad(batch)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    model.eval()
    return losses


def learning_rate_share(step: int, warmup: int, total: int) -> float:
    """Linear warm-up to 1, then half a cosine down to a fiftieth."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def save(model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes model and tokenizer as plain files that transformers loads without further words."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
