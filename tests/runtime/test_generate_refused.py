"""What `StreamGenerate` cannot serve is refused before any work, with the knob to turn."""

import functools

import pytest
import torch
from peft_user import PeftUser
from transformers import (
    DynamicCache,
    GenerationConfig,
    MaxLengthCriteria,
    StopStringCriteria,
    SynthIDTextWatermarkingConfig,
    TextStreamer,
)

from ssft.errors import GenerationError


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return PeftUser(tmp_path_factory.mktemp("llama"), "llama")


ONE_BY_ONE, DRAFTS, STATES = (
    "token by token, greedily or by drawing",
    "the streams are what drafts here",
    "keeps neither logits nor",
)


@pytest.mark.parametrize(
    ("knob", "value", "why"),
    [
        ("num_beams", 2, ONE_BY_ONE),
        ("num_return_sequences", 2, "without do_sample=True all answers of a prompt are the same"),
        ("penalty_alpha", 0.5, ONE_BY_ONE),
        ("constraints", [object()], ONE_BY_ONE),
        ("force_words_ids", [[5]], ONE_BY_ONE),
        ("dola_layers", "low", ONE_BY_ONE),
        ("prompt_lookup_num_tokens", 3, DRAFTS),
        ("assistant_early_exit", 2, DRAFTS),
        ("use_mtp", True, DRAFTS),
        ("output_scores", True, STATES),
        ("output_logits", True, STATES),
        ("output_attentions", True, STATES),
        ("output_hidden_states", True, STATES),
        ("cache_implementation", "static", "a cache of its own"),
        ("guidance_scale", 1.5, "guidance runs the model again"),
    ],
)
def test_settings_that_cannot_be_served(llama, knob, value, why):
    config = GenerationConfig(max_length=40)
    setattr(config, knob, value)
    with pytest.raises(GenerationError, match=f"^{knob}=.*{why}.* leave {knob} out, or leave out custom_generate"):
        llama.generate(llama.model, llama.inputs([0])["input_ids"], generation_config=config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 3}, "^num_beams=3: "),
        ({"prompt_lookup_num_tokens": 3}, "^prompt_lookup_num_tokens=3: "),
        (
            {"watermarking_config": SynthIDTextWatermarkingConfig(keys=[1, 2, 3], ngram_len=3)},
            r"SynthIDTextWatermark.* would remember rejected drafts; leave out the setting.*watermarking_config",
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_settings_are_refused_through_generate(llama, settings, message):
    with pytest.raises(GenerationError, match=message):
        llama.model.generate(**llama.inputs([0]), custom_generate=llama.generate, max_new_tokens=4, **settings)


def test_inputs_that_cannot_be_served(llama):
    inputs = llama.inputs([0, 1])
    run = functools.partial(llama.model.generate, custom_generate=llama.generate, max_new_tokens=4)
    embeds = llama.model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(GenerationError, match=r"^inputs_embeds: .* give input_ids instead"):
        run(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])
    cache = DynamicCache()
    llama.plain(llama.inputs([0])["input_ids"][:, :5], past_key_values=cache)
    with pytest.raises(GenerationError, match=r"past_key_values holds 5 tokens.* give the whole prompt"):
        run(**llama.inputs([0]), past_key_values=cache)
    mask = inputs["attention_mask"]
    for wrong in (mask.flip(1), torch.ones_like(mask).index_fill(1, torch.tensor([3]), 0)):
        with pytest.raises(GenerationError, match=r"attention_mask has a zero after a one.*padding_side='left'"):
            run(input_ids=inputs["input_ids"], attention_mask=wrong)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    assert run(**inputs, position_ids=positions).shape[1] == mask.shape[1] + 4
    with pytest.raises(GenerationError, match=r"position_ids do not count .* leave position_ids out"):
        run(**inputs, position_ids=positions + 1)
    with pytest.raises(GenerationError, match=r"^labels: the decoder would not be given it"):
        llama.generate(llama.model, inputs["input_ids"], labels=mask)
    with pytest.raises(GenerationError, match="text_streamer shows one row, but the batch has 2; give one prompt"):
        run(**inputs, text_streamer=TextStreamer(llama.tokenizer))
    with pytest.raises(GenerationError, match="max_new_tokens=0"):
        llama.generate(llama.model, inputs["input_ids"], stopping_criteria=[MaxLengthCriteria(mask.shape[1])])


def test_unequal_rows_need_a_pad_token(llama):
    inputs = llama.inputs([0, 1])
    config = GenerationConfig(max_length=40)
    with pytest.raises(GenerationError, match=r"2 rows may end at different lengths.* set generation_config.pad_token"):
        llama.generate(
            llama.model,
            inputs["input_ids"],
            generation_config=config,
            attention_mask=inputs["attention_mask"],
            stopping_criteria=[StopStringCriteria(llama.tokenizer, ["stop"])],
        )


def test_adapter_names_are_refused(llama):
    with pytest.raises(GenerationError, match="adapter_names: peft splits the batch by it"):
        llama.model.generate(
            **llama.inputs([0, 1]), custom_generate=llama.generate, max_new_tokens=4, adapter_names=["default"] * 2
        )
    # peft leaves its hooks behind where something is raised; the model must still work.
    reference, streamed = llama.both([0, 1, 2])
    assert torch.equal(streamed, reference)


def test_another_model_is_refused(llama):
    with pytest.raises(GenerationError, match="has its hooks on another LlamaForCausalLM; make one for this model"):
        llama.plain.generate(**llama.inputs([0]), custom_generate=llama.generate, max_new_tokens=4)
