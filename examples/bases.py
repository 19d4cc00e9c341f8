"""Small bases that examples build by themselves: a tokenizer learnt from public sentences, and a model of a few layers.

Guarantees: what is written is what ``save_pretrained`` writes, and loads with ``from_pretrained`` alone; the same
arguments give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL: Final = ("<pad>", "<unk>", "<s>", "</s>", "<mask>", "<|user|>", "<|assistant|>")
TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LENGTH: Final = 128  # positions

transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def write_tokenizer(folder: Path, sentences: Sequence[str], *, words: int = 512) -> PreTrainedTokenizerFast:
    """Learn byte pairs from sentences, and write the tokenizer with a chat template."""
    learnt = Tokenizer(models.BPE(unk_token="<unk>"))
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    learnt.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=words, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    learnt.train_from_iterator(sentences, trainer)
    learnt.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, learnt.token_to_id(token)) for token in ("<s>", "</s>")]
    )
    made = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=learnt, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        mask_token="<mask>", cls_token="<s>", sep_token="</s>", model_max_length=LENGTH,
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )  # fmt: skip
    made.chat_template = TEMPLATE
    made.save_pretrained(folder)
    return made


def reader(kind: str, tokenizer: PreTrainedTokenizerFast, labels: Sequence[str] = (), *, seed: int = 0) -> Any:
    """Return a fresh RoBERTa of two layers with the head of a kind of task.

    Args:
        kind: the end of its class: ``SequenceClassification``, ``TokenClassification``, ``MaskedLM`` or ``Model``.
        tokenizer: gives the vocabulary.
        labels: of the head; one number where there are none.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=LENGTH + 2, pad_token_id=0, bos_token_id=2, eos_token_id=3, type_vocab_size=1,
        **({"id2label": dict(enumerate(labels))} if labels else {"num_labels": 1}),
    )  # fmt: skip
    name = "RobertaModel" if kind == "Model" else f"RobertaFor{kind}"
    return getattr(transformers, name)(config)


def writer(tokenizer: PreTrainedTokenizerFast, *, width: int = 64, layers: int = 2, seed: int = 0) -> Any:
    """Return a fresh Llama with grouped heads.

    Args:
        tokenizer: gives the vocabulary.
        width: of a token's vector.
        layers: how many.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=3 * width, max_position_embeddings=LENGTH, pad_token_id=0,
        bos_token_id=2, eos_token_id=3, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def seer(labels: Sequence[str], *, side: int, seed: int = 0) -> Any:
    """Return a fresh vision transformer of two layers for grey images."""
    torch.manual_seed(seed)
    config = transformers.ViTConfig(
        image_size=side, patch_size=4, num_channels=1, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, id2label=dict(enumerate(labels)),
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)
