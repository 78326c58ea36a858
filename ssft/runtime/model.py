"""`MultiAdapterModel`: many tasks over one base; every request runs with its own LoRA and its own speculation."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import InstanceOf

from ssft.base.fingerprint import base_fingerprint
from ssft.base.kernels.linears import FastLinears
from ssft.base.load import eos_token_ids, load_base
from ssft.decoding.budget.cost import CostTable, PassCosts
from ssft.decoding.budget.tuned import TunedBudget
from ssft.decoding.config import TreeConfig
from ssft.decoding.draft.drafter import Drafter
from ssft.decoding.request import Generation, Request
from ssft.decoding.scheduler import Scheduler
from ssft.decoding.static import step_for
from ssft.decoding.turn import Turn
from ssft.environment import describe_device
from ssft.errors import ConfigError, GenerationError
from ssft.lora.bank import Adapter, AdapterBank
from ssft.lora.memory import memory_account
from ssft.lora.router import LoraRouter
from ssft.runtime.batching import run_in_batches
from ssft.runtime.generate import StreamGenerate, call_of
from ssft.runtime.inputs import check_call, encode_prompt, split_prompts
from ssft.runtime.jobs import ACTIVE, Active, Job, make_jobs
from ssft.runtime.selfcheck import require_support
from ssft.runtime.stream import TextStream, followed
from ssft.schema import PATH, check
from ssft.streams.insertion import StreamHooks
from ssft.streams.passes import Pass, announced


class MultiAdapterModel:
    """One base in memory and a shelf of adapters over it.

    >>> model = MultiAdapterModel.from_pretrained("smollm2-135m", quantization="4bit")
    >>> model.load_adapter("adapters/sql")
    >>> model.load_adapter("adapters/e2e_nlg", "mr")
    >>> model.generate([question, record, chat], adapter=["sql", "mr", None])   # one mixed batch; None: the bare base
    >>> for piece in model.stream(record, adapter="mr"): ...

    Adapters may differ in rank, target modules, γ, N_s, tree and mode. Decoding is greedy or drawn (see `Sampling`). In
    float32 the text of a row is its text alone, whatever stands beside it; in lower precision rounding may depend on
    the pass, and a near-tie fall the other way (docs/serving.md). Every method may be called from several threads; they
    take turns pass by pass. `set_adapter` is the model's, not the thread's: a server says `adapter=` with each call.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str = "base",
        *,
        max_adapter_bytes: int | None = None,
        evict_to: str | None = None,
        fast: bool = True,
        graphs: bool = True,
    ) -> None:
        """`model`: a causal LM without peft. `name`: its id, for messages. `fast`: its linear layers are packed for
        decoding (`FastLinears`), until `unload`; whoever trains, moves or saves it wants False. `graphs`: passes are
        captured as CUDA graphs where the model is on a GPU (`StaticStep`). See `from_pretrained` for the rest."""
        check(Annotated[InstanceOf[torch.nn.Module], "a causal LM of transformers"], model, "model")
        check(Annotated[Callable[..., Any], "the base's tokenizer"], tokenizer, "tokenizer")
        if hasattr(model, "peft_config"):
            raise ConfigError(
                "the model carries a peft adapter already; give the base itself (peft: model.unload()) and "
                "load_adapter the adapter's folder"
            )
        require_support(model)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.bank = AdapterBank(model, base_fingerprint(model, tokenizer, name), max_adapter_bytes, evict_to)
        self.linears = FastLinears(model, on=fast)
        self.hooks = StreamHooks(model)
        self.router = LoraRouter(model, self.linears.groups)
        self.step = step_for(self.hooks, graphs)
        self.turn = Turn()
        self.costs = PassCosts(self.step)
        self.budget = TunedBudget(self.costs)
        self.eos_token_ids = eos_token_ids(model, tokenizer)
        # What the base computes in and on, as results tell it.
        quantized = getattr(model.config, "quantization_config", None) is not None
        self.precision = "4bit" if quantized else str(model.dtype).removeprefix("torch.")
        self.device = describe_device(model.device)
        self._active: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path,
        *,
        quantization: str = "none",
        dtype: str = "auto",
        device_map: Any = None,
        max_adapter_bytes: int | None = None,
        evict_to: str | None = None,
    ) -> "MultiAdapterModel":
        """Load the base.

        Args:
            base: alias (see `ssft bases`), folder or hub id.
            quantization: "none", or "4bit" for bitsandbytes NF4.
            dtype: "auto" (bfloat16 where the device computes it natively), "float32", "bfloat16" or "float16".
            device_map: "cpu", "cuda", "cuda:N", "mps", "auto" or a map of modules; None takes CUDA if there is one.
            max_adapter_bytes: most bytes of adapters on the device; beyond it the least recently used one goes.
            evict_to: "host" (default on an accelerator) or "disk" (default on the CPU).
        """
        model, tokenizer = load_base(base, dtype=dtype, quantization=quantization, device=device_map)
        return cls(model, tokenizer, str(base), max_adapter_bytes=max_adapter_bytes, evict_to=evict_to)

    # -- adapters: peft's verbs ---------------------------------------------------------------------------------

    def load_adapter(
        self, path: str | Path, name: str | None = None, *, pinned: bool = False, tree: TreeConfig | None = None
    ) -> str:
        """Load an adapter under `name` (default: the folder's, or the part after the owner) and return the name.

        `path` is a folder, or else a repository of the hub as owner/name, fetched into the hub's cache. The adapter is
        checked whole first; if anything is wrong with it, nothing has changed. A plain peft LoRA loads too and decodes
        without streams. `pinned` keeps it on the device; `tree` replaces its own draft tree.
        """
        check(PATH, path, "path")
        check(Annotated[str | None, "a name or None"], name, "name")
        check(Annotated[InstanceOf[TreeConfig] | None, "a TreeConfig or None"], tree, "tree")
        name = name or Path(path).resolve().name
        if tree is not None:
            tree.check_tree()
        self.bank.add(name, path, pinned=pinned, tree=tree)
        return name

    def delete_adapter(self, name: str) -> None:
        """Forget an adapter; a call that is using it still finishes with it."""
        self.bank.remove(name)
        if self._active == name:
            self._active = None

    def set_adapter(self, name: str | None) -> None:
        """Make `name` the adapter of calls that name none; None is the bare base. No tensor moves."""
        if name is not None:
            self.bank.get(name)
        self._active = name

    @property
    def active_adapter(self) -> str | None:
        """The adapter of calls that name none."""
        return self._active

    @property
    def active(self) -> Adapter:
        """The same as an object: its bundle, streams, tree; of the bare base one that has nothing."""
        return self.bank.get(self._active)

    def adapters(self) -> dict[str, Adapter]:
        """Loaded adapters by name, in the order of loading, with where each one is (`tier`) and what it takes."""
        return self.bank.all()

    def pin_adapter(self, name: str, pinned: bool = True) -> None:
        """Keep an adapter on the device whatever the byte budget, or let it go again."""
        self.bank.pin(name, pinned)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Calls inside that name no adapter run the bare base."""
        before, self._active = self._active, None
        try:
            yield
        finally:
            # It may have been deleted meanwhile.
            self._active = before if before is not None and before in self.bank else None

    def merge_and_unload(self) -> None:
        """Refused: see the message."""
        raise ConfigError(
            "merge_and_unload: every adapter here shares one base, and merging one LoRA into it would change the "
            "text of all others and of the bare base; a 4-bit base could not hold it without being quantised anew. To "
            "serve one adapter merged, use load_adapted(folder, merge=True) on an unquantised base, where its streams "
            "stay right"
        )

    def unload(self) -> Any:
        """Take all hooks off and return the base as it was; this object decodes nothing afterwards."""
        self.router.remove()
        self.hooks.remove()
        self.linears.remove()
        return self.model

    def memory(self) -> dict[str, Any]:
        """Bytes of the base, of every adapter and of the process; see `memory_account`."""
        return memory_account(self.model, self.bank)

    def measure_costs(self, rows: int = 1, adapter: Any = ACTIVE, *, again: bool = False) -> dict[int, CostTable]:
        """What passes with the adapter cost over 1, 2, 4, … rows, as many as `rows` need; measured where not yet known.

        A tree with `budget="auto"` needs that; without this call its first passes measure it. `again`: measure what is
        known, too, because the machine was busy then.
        """
        name = self._named(adapter)
        with self.bank.in_use([name]) as held, self.turn:
            own = held[name]
            request = Request([0], 1, own.drafter or own.unguessed, own.tree, own.lora)
            sizes = [1 << power for power in range((rows - 1).bit_length() + 1)]
            return {size: self.costs.for_request(request, size, again=again) for size in sizes}

    # -- text ---------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Any,
        adapter: Any = ACTIVE,
        *,
        max_new_tokens: int | list[int] = 128,
        stop: Any = None,
        stop_token_ids: Any = None,
        ignore_eos: bool = False,
        logits_processor: Any = (),
        speculate: bool = True,
        batch_size: int | None = None,
        progress: bool = False,
        streamer: Any = None,
        cancel: threading.Event | None = None,
        return_dict: bool = False,
        num_return_sequences: int = 1,
        logprobs: bool = False,
        top_logprobs: int = 0,
        **sampling: Any,
    ) -> Any:
        """Text for one prompt (a string comes back) or for a list of them (a list does).

        Args:
            prompts: text, token ids, chat (list of messages) or data row; or a list of those.
            adapter: name, or None for the bare base; a list has one per prompt. Default: the active one.
            max_new_tokens: one number, or one per prompt.
            stop: a string or strings at which the text ends, before the string; or a list of those, one per prompt.
            stop_token_ids: the same for token ids; the last produced id is then the stop token.
            ignore_eos: go on after the end-of-sequence token.
            logits_processor: transformers' processors for every row, or a list of lists; each token sees its own path.
            speculate: False decodes one token per pass.
            batch_size: prompts per batch, those of like length together; None: all at once.
            progress: a bar on stderr once the call takes more than two seconds.
            streamer: transformers' `TextStreamer` or the like, for one prompt.
            cancel: when set, the call returns after the pass that runs; unfinished rows end as "cancelled".
            return_dict: dicts with text, token_ids, tokens, calls, accepted (per depth), seconds, finish_reason,
                adapter and, if sampled, seed instead of strings.
            num_return_sequences: answers per prompt, a list for each; their seeds are seed, seed + 1, ….
            logprobs, top_logprobs: with return_dict, also the log-probability of each token by the model itself, and
                those of so many of the likeliest in its place.
            sampling: how tokens are chosen, for all prompts or as a list of one per prompt; see `Sampling`.

        Raises:
            ConfigError: an adapter is not loaded. GenerationError: a prompt or setting cannot be served.
        """
        check_call(speculate=speculate, progress=progress, return_dict=return_dict, batch_size=batch_size)
        check_call(streamer=streamer, cancel=cancel, num_return_sequences=num_return_sequences)
        check_call(logprobs=logprobs, top_logprobs=top_logprobs)
        values, single = split_prompts(prompts)
        noted = top_logprobs if logprobs or top_logprobs else None
        settings = (max_new_tokens, stop, stop_token_ids, ignore_eos, logits_processor, sampling, noted)
        jobs = [a for job in self._jobs(values, adapter, *settings) for a in job.answers(num_return_sequences)]
        if streamer is not None and len(jobs) != 1:
            raise GenerationError(f"streamer: one prompt can be streamed, {len(jobs)} were given; call once per prompt")
        run = {"speculate": speculate, "streamer": streamer, "cancel": cancel}
        results = zip(jobs, self._in_batches(jobs, batch_size, progress, **run), strict=True)
        outputs = [job.output(result, self.decode) for job, result in results]
        shown: list[Any] = outputs if return_dict else [output["text"] for output in outputs]
        if num_return_sequences > 1:
            shown = [shown[i : i + num_return_sequences] for i in range(0, len(shown), num_return_sequences)]
        return shown[0] if single else shown

    def stream(
        self,
        prompt: Any,
        adapter: Any = ACTIVE,
        *,
        max_new_tokens: int = 128,
        stop: Any = None,
        stop_token_ids: Any = None,
        ignore_eos: bool = False,
        logits_processor: Any = (),
        speculate: bool = True,
        **sampling: Any,
    ) -> TextStream:
        """The text of one prompt in pieces, as passes produce it; joined they are what `generate` returns.

        Closing the stream cancels the rest. Wrong input raises here, not at the first piece.
        """
        check_call(speculate=speculate)
        values, single = split_prompts(prompt)
        if not single:
            raise GenerationError(f"stream takes one prompt, {len(values)} were given; call it once per prompt")
        settings = (max_new_tokens, stop, stop_token_ids, ignore_eos, logits_processor, sampling)
        (job,) = self._jobs(values, adapter, *settings)
        return TextStream(job, self._passes([job], speculate), self.decode)

    def complete(
        self,
        prompts: Sequence[list[int]],
        adapter: Any = ACTIVE,
        *,
        max_new_tokens: int,
        ignore_eos: bool = False,
        speculate: bool = True,
        drafter: Drafter | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        **sampling: Any,
    ) -> list[Generation]:
        """`generate` with token ids on either side, and what was noted on the way of each prompt.

        `drafter` proposes in place of the adapters' own streams; the rest is as for `generate`.
        """
        check_call(speculate=speculate, progress=progress, batch_size=batch_size, drafter=drafter)
        values, single = split_prompts(prompts)
        if single:
            raise GenerationError("complete takes a list of prompts, and one prompt was given; put it into a list")
        jobs = self._jobs(values, adapter, max_new_tokens, ignore_eos=ignore_eos, sampling=sampling)
        return self._in_batches(jobs, batch_size, progress, speculate=speculate, drafter=drafter)

    @contextmanager
    def applied(self, rows: int = 1, adapter: Any = ACTIVE) -> Iterator[None]:
        """Inside, a forward or `generate` of `self.model` over `rows` rows runs with the adapter's LoRA."""
        name = self._named(adapter)
        with self.bank.in_use([name]) as held, announced(Pass(adapters=[held[name].lora] * rows)):
            yield

    def encode(self, prompt: Any) -> list[int]:
        """Token ids of a prompt in any form that `generate` takes."""
        return encode_prompt(prompt, self.tokenizer)

    def decode(self, ids: list[int]) -> str:
        """Token ids -> text, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def custom_generate(self, adapter: Any = ACTIVE) -> Callable[..., Any]:
        """For transformers' own call: `model.model.generate(**inputs, custom_generate=model.custom_generate())`.

        Decodes every row with `adapter` and its streams; see `StreamGenerate` for what such a call may ask for.
        """
        name = self._named(adapter)

        @contextmanager
        def held() -> Iterator[StreamGenerate]:
            with self.bank.in_use([name]) as adapters:
                own = adapters[name]
                yield StreamGenerate(self.hooks, own.drafter, own.tree, own.lora, self.turn, self.budget, self.step)

        return call_of(held)

    # -- a call, step by step -----------------------------------------------------------------------------------

    def _jobs(self, prompts: list[Any], adapter: Any, *settings: Any, **more: Any) -> list[Job]:
        """Every row with its own settings, checked; `settings` and `more` are those of `make_jobs`, in its order."""
        adapter = self._active if isinstance(adapter, Active) else adapter
        jobs = make_jobs(prompts, adapter, self.tokenizer, self.decode, self.eos_token_ids, *settings, **more)
        self.hooks.check()
        backbone = self.hooks.backbone
        for job in jobs:
            self.bank.get(job.adapter)
            job.most_tokens(backbone.context_length, backbone.vocab_size)
        return jobs

    def _named(self, adapter: Any) -> str | None:
        """The name of a loaded adapter, the active one where none is given; None is the bare base."""
        name: str | None = self._active if isinstance(adapter, Active) else adapter
        self.bank.get(name)
        return name

    def _in_batches(self, jobs: list[Job], size: int | None, progress: bool, **run: Any) -> list[Generation]:
        """The jobs' results in their order, decoded in batches of like length; `run`: what `_run` takes."""
        lengths = [len(job.prompt) for job in jobs]
        batches = size or max(len(jobs), 1)
        return run_in_batches(lengths, batches, lambda batch: self._run([jobs[i] for i in batch], **run), progress)

    def _run(
        self,
        jobs: list[Job],
        *,
        speculate: bool = True,
        streamer: Any = None,
        cancel: threading.Event | None = None,
        drafter: Drafter | None = None,
    ) -> list[Generation]:
        """One batch to its end, or to its cancellation."""
        return followed(self._passes(jobs, speculate, drafter), jobs[0].prompt if jobs else [], streamer, cancel)

    def _passes(self, jobs: list[Job], speculate: bool, drafter: Drafter | None = None) -> Any:
        """A generator over the passes of one batch: every job's `Generation`, in the jobs' order."""
        with self.bank.in_use([job.adapter for job in jobs]) as held:
            adapters = [held[job.adapter] for job in jobs]
            drafters = [drafter or adapter.drafter or adapter.unguessed if speculate else None for adapter in adapters]
            rows = zip(jobs, adapters, drafters, strict=True)
            requests = [job.request(adapter, own_drafter, self.model.device) for job, adapter, own_drafter in rows]
            yield from Scheduler(self.step, self.turn, self.budget).decode(requests)
