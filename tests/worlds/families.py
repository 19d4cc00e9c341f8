"""Families of base models in miniature: each built from a small configuration, with random weights and a tokenizer.

Guarantees: the same arguments give the same folder; a folder is what ``save_pretrained`` writes, nothing else.
Leaves to others: recipes and the engine (``model_table``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.worlds.torch_world import LABELS, WORDS

PAD, EOS = "<pad>", "</s>"
VOCABULARY: Final = (PAD, EOS, "<unk>", "<mask>", *WORDS)
NAMES: Final = dict(enumerate(LABELS))

# What a small text model has, by the names that most configurations use.
_TEXT: Final[dict[str, Any]] = {
    "vocab_size": len(VOCABULARY), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 32, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1,
    "initializer_range": 0.3,
}  # fmt: skip
_GROUPED: Final[dict[str, Any]] = {**_TEXT, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
_IMAGE: Final[dict[str, Any]] = {
    "image_size": 16, "patch_size": 4, "num_channels": 3, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 24, "initializer_range": 0.3,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture in miniature.

    Attributes:
        title: as people call it.
        kind: ``text`` or ``image``.
        model: the class of transformers, without ``transformers.``.
        config: the class of its configuration, likewise.
        options: of the configuration.
        targets: modules beside which most adapters lie.
        dense: feed-forward modules, for IA3.
        norms: normalisations, for LN-tuning.
        whole: a module that is trained whole.
        head: modules of the task head.
        notes: what the table says about it.
    """

    title: str
    kind: str
    model: str
    config: str
    options: Mapping[str, Any]
    targets: Sequence[str]
    dense: Sequence[str]
    norms: Sequence[str]
    whole: str
    head: Sequence[str] = ("classifier",)
    notes: str = ""

    def write(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
        """Write the base into a folder, and return it."""
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.options, id2label=NAMES)
        model = getattr(transformers, self.model)(config)
        with torch.no_grad():  # fresh scales are ones and fresh shifts zeros, where a wrong gradient could hide
            for parameter in model.parameters():
                if parameter.dim() < 2:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        model.to(dtype).save_pretrained(folder)
        if self.kind == "text":
            tokenizer().save_pretrained(folder)
        return folder


def tokenizer() -> Any:
    """Return a tokenizer of whole words."""
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, pad_token=PAD, eos_token=EOS, unk_token="<unk>", mask_token="<mask>"
    )


def _bert_like(title: str, name: str, **changes: Any) -> Family:
    given: dict[str, Any] = {
        "options": _TEXT, "targets": ("query", "value"), "dense": ("output.dense",), "norms": ("output.LayerNorm",),
        "whole": "layer.1.intermediate", **changes,
    }  # fmt: skip
    return Family(title, "text", f"{name}ForSequenceClassification", f"{name}Config", **given)


def _llama_like(title: str, name: str, **changes: Any) -> Family:
    given: dict[str, Any] = {
        "options": _GROUPED, "targets": ("q_proj", "v_proj"), "dense": ("down_proj",),
        "norms": ("post_attention_layernorm",), "whole": "layers.1.mlp", "head": ("score",), **changes,
    }  # fmt: skip
    return Family(title, "text", f"{name}ForSequenceClassification", f"{name}Config", **given)


def _vit_like(title: str, name: str, **changes: Any) -> Family:
    given: dict[str, Any] = {
        "options": _IMAGE, "targets": ("q_proj", "v_proj"), "dense": ("fc2",), "norms": ("layernorm_before",),
        "whole": "layers.1.mlp", **changes,
    }  # fmt: skip
    return Family(title, "image", f"{name}ForImageClassification", f"{name}Config", **given)


FAMILIES: Final[dict[str, Family]] = {
    "bert": _bert_like("BERT", "Bert"),
    "roberta": _bert_like("RoBERTa", "Roberta", options={**_TEXT, "max_position_embeddings": 34}),
    "distilbert": _bert_like(
        "DistilBERT", "DistilBert",
        options={
            "vocab_size": len(VOCABULARY), "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "pad_token_id": 0,
            "max_position_embeddings": 32, "initializer_range": 0.3,
        },
        targets=("q_lin", "v_lin"), dense=("ffn.lin2",), norms=("sa_layer_norm",), whole="layer.1.ffn",
        head=("pre_classifier", "classifier"),
    ),
    "deberta": _bert_like(
        "DeBERTa-v3", "DebertaV2",
        options={
            **_TEXT, "relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm",
            "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
            "max_relative_positions": -1,
        },
        targets=("query_proj", "value_proj"), head=("pooler", "classifier"),
    ),
    "albert": _bert_like(
        "ALBERT", "Albert", options={**_TEXT, "embedding_size": 8},
        dense=("ffn_output",), norms=("full_layer_layer_norm",), whole="albert_layers.0.ffn",
        notes="its layers share one set of tensors",
    ),
    "modernbert": _bert_like(
        "ModernBERT", "ModernBert",
        options={**_TEXT, "global_attn_every_n_layers": 2, "local_attention": 4, "cls_token_id": 1, "sep_token_id": 1},
        targets=("Wqkv",), dense=("mlp.Wo",), norms=("mlp_norm",), whole="layers.1.mlp",
        head=("head", "classifier"), notes="sliding windows in all but every second layer",
    ),
    "gpt2": _bert_like(
        "GPT-2", "GPT2",
        options={
            "vocab_size": len(VOCABULARY), "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "n_inner": 24,
            "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
        },
        targets=("c_attn",), dense=("mlp.c_proj",), norms=("ln_2",), whole="h.1.mlp", head=("score",),
        notes="`Conv1D` layers, whose weights are transposed",
    ),
    "llama": _llama_like("Llama", "Llama", notes="grouped heads"),
    "qwen2": _llama_like("Qwen2", "Qwen2", notes="grouped heads"),
    "qwen3": _llama_like("Qwen3", "Qwen3", notes="grouped heads, normalised queries and keys"),
    "gemma": _llama_like("Gemma", "Gemma", notes="scaled embeddings"),
    "gemma2": _llama_like(
        "Gemma 2", "Gemma2", options={**_GROUPED, "sliding_window": 4, "query_pre_attn_scalar": 4},
        notes="sliding windows, capped answers",
    ),
    "mistral": _llama_like("Mistral", "Mistral", options={**_GROUPED, "sliding_window": 4}, notes="sliding windows"),
    "t5": _bert_like(
        "T5", "T5",
        options={
            "vocab_size": len(VOCABULARY), "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2,
            "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
        },
        targets=("q", "v"), dense=("wo",), norms=("layer_norm",), whole="block.1.layer.1",
        head=("classification_head",),
    ),
    "vit": _vit_like("ViT", "ViT"),
    "dinov2": _vit_like("DINOv2", "Dinov2", options={**_IMAGE, "mlp_ratio": 2}, norms=("norm1",), whole="layer.1.mlp"),
    "beit": _vit_like("BEiT", "Beit", options={**_IMAGE, "use_relative_position_bias": True}),
    "swin": _vit_like(
        "Swin", "Swin",
        options={
            "image_size": 16, "patch_size": 2, "num_channels": 3, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2],
            "window_size": 2, "initializer_range": 0.3, "mlp_ratio": 2.0,
        },
        whole="blocks.1.mlp", notes="shifted windows",
    ),
    "clip": _vit_like(
        "CLIP's image tower", "CLIP",
        options={"vision_config": {**_IMAGE, "initializer_factor": 5.0}, "projection_dim": 16},
        norms=("layer_norm1",),
    ),
}  # fmt: skip
