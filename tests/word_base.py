"""A tiny base on disk whose tokenizer knows whole words, and whose layers bitsandbytes can pack."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def save_word_base(folder, seed=0, shard_size="5GB", extra_token=None, **changes):
    """A random Llama with a word-level tokenizer; without changes, sizes that bitsandbytes can pack."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(**{**sizes, "vocab_size": 64, **changes})
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=shard_size)
    vocabulary = {"<unk>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, 60)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    if extra_token:
        fast.add_tokens([extra_token])
    fast.save_pretrained(folder)
    return folder
