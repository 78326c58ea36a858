"""Decoding with streams for those who stay in transformers: a callable for `generate(custom_generate=...)`."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import InstanceOf
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessorList, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput, logits_process
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from ssft.bundle.fit import check_fit, load_stream_modules
from ssft.bundle.read import read_bundle
from ssft.decoding.budget.cost import PassCosts
from ssft.decoding.budget.tuned import TunedBudget
from ssft.decoding.config import TreeConfig
from ssft.decoding.draft.drafter import Drafter
from ssft.decoding.draft.streams import StreamDrafter
from ssft.decoding.processors import WARPERS
from ssft.decoding.request import Generation, Request
from ssft.decoding.request import LogitsProcessor as Processor
from ssft.decoding.scheduler import Scheduler
from ssft.decoding.step import Step
from ssft.decoding.turn import Turn
from ssft.errors import GenerationError
from ssft.runtime.fast_turn import FastTurn
from ssft.runtime.foreign_model import check_lora, drafts_from, fingerprint_of, hooks_on, own_lora
from ssft.schema import check
from ssft.streams.insertion import StreamHooks

_SEARCHED = ("num_beams", "penalty_alpha", "dola_layers")
_FORCED = ("constraints", "force_words_ids")
_DRAFTED = ("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
_KEPT = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
_REFUSED = {
    **dict.fromkeys(_SEARCHED + _FORCED, "streams draft for decoding token by token, greedily or by drawing"),
    "num_return_sequences": "without do_sample=True all answers of a prompt are the same",
    **dict.fromkeys(_DRAFTED, "the streams are what drafts here"),
    **dict.fromkeys(_KEPT, "a pass verifies a whole draft and keeps neither logits nor states of its tokens"),
    "cache_implementation": "decoding with streams has a cache of its own",
    "guidance_scale": "guidance runs the model again for every token, and cannot follow a draft",
}
"""Settings of generate that cannot be served, and why."""

_HARMLESS = {
    **dict.fromkeys(("num_beams", "num_return_sequences", "guidance_scale"), (1,)),
    "cache_implementation": ("dynamic", "dynamic_full"),
}
"""Values of such settings that change nothing here, beside none, false and 0."""

_KNOWN = {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep", "cache_position"}
"""What generate itself hands to the model; other tensors would be ignored."""


@dataclass
class StreamGenerate:
    """Decoding with streams, called by transformers' own `generate`: fewer passes, in float32 the same greedy tokens.

    >>> model = PeftModel.from_pretrained(base, "adapters/sql")
    >>> generate = StreamGenerate.from_adapter(model, "adapters/sql")
    >>> ids = model.generate(**inputs, custom_generate=generate, max_new_tokens=64)

    Whatever the model has active decides the text; the streams only guess it. Logits processors and stopping criteria
    are called for one row at a time, with ids [1, t] that begin with the row's own padding, and after every token.
    Processors must depend on their arguments alone, since tokens of a draft that are not accepted are processed too.

    With do_sample=True tokens are drawn from the distribution that `generate` draws them from, by other random numbers:
    torch's generator (`transformers.set_seed`) gives one seed per call, and row i of the batch takes seed + i. So one
    seed gives one text, with drafts or without. With num_return_sequences `generate` repeats the rows; a prompt is
    computed once.

    transformers drops two arguments of `generate` on the way to a callable: give `text_streamer=` in place of
    `streamer=` (fed token by token, with the prompt first; one row only), and
    `stopping_criteria=[StopStringCriteria(tokenizer, strings)]` in place of `stop_strings=` and `tokenizer=`. It does
    not pass on `assistant_model=` either, which is thus without effect.

    A row ends where the model's context does. A row that has ended is padded, whatever ended it (`generate` itself goes
    on with it where that was no EOS, until the last row ends).

    hooks: those on the model. drafter: None decodes plainly. adapter: what every row runs with (`Pass.adapters`). turn:
    held during every pass; threads that share this object take turns by it. budget: plans the passes, and remembers
    what was accepted. fast: passes compute with copies of the linear layers' weights that are laid out for decoding
    (`FastTurn`): faster, for as much memory again; the model's own weights stay as they are. last: what became of each
    row of the latest call: passes, accepted drafts, seconds.
    """

    hooks: StreamHooks
    drafter: Drafter | None
    tree: TreeConfig = field(default_factory=TreeConfig)
    adapter: Any = None
    turn: AbstractContextManager[Any] = field(default_factory=Turn)
    budget: TunedBudget | None = None
    fast: bool = False
    last: list[Generation] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        check(Annotated[InstanceOf[TreeConfig], "a TreeConfig"], self.tree, "tree")
        self.tree.check_tree()
        check(bool, self.fast, "fast")
        self.budget = self.budget or TunedBudget(PassCosts(Step(self.hooks)))
        if self.fast:
            self.turn = FastTurn(self.turn, self.hooks.backbone.model)

    @classmethod
    def from_adapter(
        cls,
        peft_model: Any,
        adapter: str | Path,
        tree: TreeConfig | None = None,
        tokenizer: Any = None,
        fast: bool = False,
    ) -> "StreamGenerate":
        """Streams of the bundle `adapter` for a model that has the bundle's LoRA loaded and active.

        `tree` defaults to the bundle's own; `tokenizer`, if given, is checked to be the one of the training; for `fast`
        see the class. The model gets hooks (`StreamGenerate.hooks.remove()` takes them off); two adapters of one model
        share them. A LoRA of the streams' own has hooks beside them that stay, and return at once outside of such a
        call. Raises `BundleError` for a folder that is damaged or made for another base, `GenerationError` where it has
        no streams or the model runs without the LoRA that they were trained with.
        """
        bundle = read_bundle(adapter)
        if bundle.stream_config is None:
            raise GenerationError(
                f"{bundle.path} is a LoRA without streams, which cannot draft; leave out custom_generate"
            )
        if bundle.text_lora is None:
            raise GenerationError(
                f"{bundle.path}: mode is lossless, so the LoRA is for the streams alone, but peft applies it to the "
                "text too; decode it with ssft.load_adapted or `ssft generate`"
            )
        base = peft_model.get_base_model() if hasattr(peft_model, "get_base_model") else peft_model
        check_fit(bundle, base, fingerprint_of(base, bundle, tokenizer))
        check_lora(base, bundle)
        streams = load_stream_modules(bundle, base.config.hidden_size).to(base.device)
        drafter = StreamDrafter(streams, drafts_from(base, bundle))
        tree = bundle.tree if tree is None else tree
        return cls(hooks_on(base), drafter, tree, own_lora(base, bundle), fast=fast)

    # generate() takes the arguments that it finds in this signature from the user's. attention_mask is therefore among
    # `model_kwargs`: generate() would not see a mask that it took, and make another.
    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: list[Any] | None = None,
        stopping_criteria: list[Any] | None = None,
        generation_config: Any = None,
        text_streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """Continue input_ids [B, P], as `generate` calls it: [B, P + new], shorter rows padded on the right.

        With generation_config.return_dict_in_generate the ids come as `GenerateDecoderOnlyOutput(sequences=ids)`.
        Raises `GenerationError` for a setting that cannot be served; see `_REFUSED`.
        """
        config, processors = generation_config or model.generation_config, logits_processor or []
        self._check(model, input_ids, processors, config, text_streamer, model_kwargs)
        mask = model_kwargs.get("attention_mask")
        mask = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
        _check_padding(mask, model_kwargs.get("position_ids"))
        requests = self._requests(input_ids, mask, processors, stopping_criteria or [], config)
        if text_streamer is not None:
            text_streamer.put(input_ids.cpu())
        # `last` is everybody's: another thread's call may change it while this one runs.
        shown, results, self.last = 0, [], []
        if isinstance(self.turn, FastTurn):
            self.turn.renew()
        for results in Scheduler(Step(self.hooks), self.turn, self.budget).decode(requests):
            self.last = results
            if text_streamer is not None:
                for token in results[0].token_ids[shown:]:
                    text_streamer.put(torch.tensor([token]))
                shown = len(results[0].token_ids)
        if text_streamer is not None:
            text_streamer.end()
        answers = [input_ids.new_tensor(result.token_ids) for result in results]
        padded = pad_sequence(answers, batch_first=True, padding_value=_pad_token(config) or 0)
        sequences: Any = torch.cat((input_ids, padded), dim=1)
        return GenerateDecoderOnlyOutput(sequences=sequences) if config.return_dict_in_generate else sequences

    # -- requests -----------------------------------------------------------------------------------------------

    def _requests(
        self, ids: Tensor, mask: Tensor, processors: list[Any], criteria: list[Any], config: Any
    ) -> list[Request]:
        """One request per row of ids [B, P]; the engine itself knows the ends that greedy decoding usually has."""
        limits = [criterion.max_length for criterion in criteria if type(criterion) is MaxLengthCriteria]
        context = self.hooks.backbone.context_length
        limit = min(limits) if limits else config.max_length or context
        eos = set(_tokens(getattr(config, "_eos_token_tensor", config.eos_token_id)))
        eos.update(*(_tokens(c.eos_token_id) for c in criteria if type(c) is EosTokenCriteria))
        others = [c for c in criteria if type(c) not in (MaxLengthCriteria, EosTokenCriteria)]
        if len(ids) > 1 and (others or eos or limit > context) and _pad_token(config) is None:
            raise GenerationError(f"{len(ids)} rows may end at different lengths; set generation_config.pad_token_id")
        own, ending = _split(processors)
        seed = int(torch.randint(2**62, ())) if config.do_sample else None
        return [
            Request(
                prompt=ids[row][mask[row]].tolist(),
                max_new_tokens=limit - ids.shape[1],
                drafter=self.drafter,
                tree=self.tree,
                adapter=self.adapter,
                eos_token_ids=frozenset(eos),
                stop=_stop_check(others, ids[row]) if others else None,
                processors=(_processor(own, ids, mask, row),) if own else (),
                warpers=ending,
                seed=None if seed is None else seed + row,
            )
            for row in range(len(ids))
        ]

    # -- what cannot be served ----------------------------------------------------------------------------------

    def _check(
        self, model: Any, ids: Tensor, processors: list[Any], config: Any, streamer: Any, kwargs: dict[str, Any]
    ) -> None:
        backbone = self.hooks.backbone
        if getattr(model, "get_base_model", lambda: model)() is not backbone.model:
            what = f"this StreamGenerate has its hooks on another {type(backbone.model).__name__}"
            raise GenerationError(f"{what}; make one for this model with StreamGenerate.from_adapter")
        for knob, reason in _REFUSED.items():
            value = getattr(config, knob, None)
            if knob == "num_return_sequences" and config.do_sample:
                continue  # generate() has repeated the rows already
            if value not in (None, False, *_HARMLESS.get(knob, ())):
                raise GenerationError(f"{knob}={value!r}: {reason}; leave {knob} out, or leave out custom_generate")
        if kwargs.get("inputs_embeds") is not None:
            raise GenerationError("inputs_embeds: drafts are verified as tokens; give input_ids instead")
        past = kwargs.get("past_key_values")
        if past is not None and past.get_seq_length():
            what = f"past_key_values holds {past.get_seq_length()} tokens, but decoding with streams has its own cache"
            raise GenerationError(f"{what}; leave past_key_values out and give the whole prompt")
        ignored = [name for name, value in kwargs.items() if isinstance(value, Tensor) and name not in _KNOWN]
        if ignored:
            raise GenerationError(f"{', '.join(ignored)}: the decoder would not be given it; leave it out")
        if streamer is not None and len(ids) > 1:
            raise GenerationError(f"text_streamer shows one row, but the batch has {len(ids)}; give one prompt")
        for processor in processors:
            if isinstance(processor, _STATEFUL):
                raise GenerationError(
                    f"{type(processor).__name__} remembers the tokens it was called for, and would remember rejected "
                    "drafts; leave out the setting that asks for it (guidance_scale, watermarking_config)"
                )
        if _take_adapter_names_off(backbone.model):
            raise GenerationError(
                "adapter_names: peft splits the batch by it, but rows leave the batch when they end; activate one "
                "adapter with set_adapter and leave adapter_names out"
            )


def _take_adapter_names_off(model: Any) -> bool:
    """Whether `peft_model.generate(adapter_names=...)` is running; its hooks are taken off, as an error is to follow.

    peft itself takes them off only if nothing is raised, and the model could no longer be used.
    """
    pairs = [(module, key, hook) for module in model.modules() for key, hook in module._forward_pre_hooks.items()]
    found = [(module, key) for module, key, hook in pairs if "adapter_names" in getattr(hook, "keywords", ())]
    for module, key in found:
        del module._forward_pre_hooks[key]
        module._forward_pre_hooks_with_kwargs.pop(key, None)
    return bool(found)


def _check_padding(mask: Tensor, position_ids: Tensor | None) -> None:
    """mask bool [B, P] must begin with all of its padding, and positions count the tokens after it."""
    if (mask[:, :-1] & ~mask[:, 1:]).any():
        raise GenerationError("attention_mask has a zero after a one; pad on the left: tokenizer.padding_side='left'")
    expected = mask.long().cumsum(-1) - 1
    if position_ids is not None and ((position_ids != expected) & mask).any():
        raise GenerationError(
            "position_ids do not count each row's tokens from 0, as decoding with streams does; leave position_ids out"
        )


# -- one row of a batch ---------------------------------------------------------------------------------------------

_STATEFUL = (
    logits_process.UnbatchedClassifierFreeGuidanceLogitsProcessor,
    logits_process.SynthIDTextWatermarkLogitsProcessor,
)


def _stop_check(criteria: list[Any], prompt: Tensor) -> Callable[[list[int]], bool]:
    """transformers' criteria as a question about the produced tokens; prompt [P] is the row with its padding."""
    criteria = StoppingCriteriaList(criteria)

    def stop(produced: list[int]) -> bool:
        ids = torch.cat((prompt, prompt.new_tensor(produced))).unsqueeze(0)
        return bool(criteria(ids, None).all())

    return stop


def _processor(processors: list[Any], ids: Tensor, mask: Tensor, row: int) -> Processor:
    """All processors as one for a row of ids [B, P], whose history begins with the row's padding."""
    ours: Any = LogitsProcessorList([_of_row(processor, row) for processor in processors])
    padding = ids[row][~mask[row]].unsqueeze(0)

    def process(history: Tensor, scores: Tensor) -> Tensor:
        return ours(torch.cat((padding.to(history.device), history), dim=1), scores)

    return process


def _split(processors: list[Any]) -> tuple[list[Any], list[Any]]:
    """(Those that need the tokens so far, the warpers after them)."""
    first = len(processors)
    while first and type(processors[first - 1]) in WARPERS:
        first -= 1
    return processors[:first], processors[first:]


def _of_row(processor: Any, row: int) -> Any:
    """A processor that holds something for every row of a batch, for one of them."""
    ours = copy.copy(processor)
    for name in ("prompt_ignore_length", "encoder_input_ids", "generated_ngrams"):
        if isinstance(value := getattr(processor, name, None), Tensor | list):
            setattr(ours, name, value[row : row + 1])
    if isinstance(processor, logits_process.EncoderNoRepeatNGramLogitsProcessor):
        ours.batch_size = 1
    if isinstance(processor, logits_process.PrefixConstrainedLogitsProcessor):
        allowed = processor._prefix_allowed_tokens_fn
        ours._prefix_allowed_tokens_fn = lambda _batch, sent: allowed(row, sent)
    return ours


def _pad_token(config: Any) -> int | None:
    pad = _tokens(getattr(config, "_pad_token_tensor", config.pad_token_id))
    return pad[0] if pad else None


def _tokens(value: Any) -> list[int]:
    """None, a token, several, or a tensor of them -> a list."""
    value = value.tolist() if isinstance(value, Tensor) else value
    return [] if value is None else list(value) if isinstance(value, list | tuple | set) else [value]


def call_of(held: Callable[[], AbstractContextManager[StreamGenerate]]) -> Callable[..., Any]:
    """What `generate(custom_generate=...)` takes, over a `StreamGenerate` that is held for the length of a call."""

    # generate() reads the signature: it hands over what is named here.
    def generate(
        model: Any,
        input_ids: Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: Any = None,
        text_streamer: Any = None,
        **rest: Any,
    ) -> Any:
        given = (logits_processor, stopping_criteria, generation_config, text_streamer)
        with held() as call:
            return call(model, input_ids, *given, **rest)

    return generate
