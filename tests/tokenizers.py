"""Small tokenizers of the kinds that models come with, made here: what they put around a text differs."""

from __future__ import annotations

import re
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "When Mary and John went to the store, John gave a drink to Mary.",
    "The author that the guide calls is here. The authors that the guides call are there.",
    "She said that her mother was 1 of 2. He said that his father was there too: yes!",
] * 4
CHAT = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_level(**special: Any) -> PreTrainedTokenizerFast:
    """Like GPT-2's: bytes in pairs; "<|endoftext|>" begins and ends texts and is the unknown word; none is added."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special_tokens = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special_tokens, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXT, trainer)
    end = "<|endoftext|>"
    names = {"bos_token": end, "eos_token": end, "unk_token": end, **special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def sentence_pieces(around: str = "<s> $A", **special: Any) -> PreTrainedTokenizerFast:
    """Like Llama 2's: "▁" for spaces and before the first word, and `around` a text its special tokens."""
    words = sorted({f"▁{word}" for text in TEXT for word in re.findall(r"\w+|[^\w\s]", text)})
    letters = sorted({letter for word in words for letter in word})
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    pieces += [(word, -1.0) for word in words if len(word) > 1] + [(letter, -9.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=[("<s>", 1), ("</s>", 2)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
