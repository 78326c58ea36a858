"""Architectures that ssft's tests decode, train and mix: names of model types in transformers, and what they stand for.

Nothing hangs on this list but whether a model is checked before its first use (`ssft/runtime/selfcheck.py`): what a
model's parts are is read from the model itself (`anatomy.py`).
"""

TESTED = {
    "cohere2": "Command R7B",
    "falcon": "Falcon with rotary positions",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3, text",
    "gpt2": "GPT-2",
    "gpt_neox": "GPT-NeoX, Pythia",
    "granite": "Granite",
    "llama": "Llama, SmolLM2, OpenLlama, Vicuna",
    "mistral": "Mistral",
    "mixtral": "Mixtral",
    "olmo2": "OLMo 2",
    "opt": "OPT",
    "phi": "Phi-1, Phi-1.5, Phi-2",
    "phi3": "Phi-3, Phi-4",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3 mixture of experts",
    "smollm3": "SmolLM3",
    "stablelm": "StableLM",
    "starcoder2": "StarCoder2",
}
