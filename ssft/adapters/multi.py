"""`MultiAdapterModel`: many tasks over one base; every request runs with its own LoRA and its own speculation."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ssft.adapters.bank import Adapter, AdapterBank
from ssft.adapters.custom_generate import StreamGenerate
from ssft.adapters.inputs import split_prompts
from ssft.adapters.jobs import ACTIVE, Active, Job, make_jobs
from ssft.adapters.memory import memory_account
from ssft.adapters.routing import LoraRouter
from ssft.bases import base_fingerprint, eos_token_ids, load_base
from ssft.decoding.config import TreeConfig
from ssft.decoding.engine import Engine
from ssft.decoding.request import Generation
from ssft.decoding.text import TextPieces
from ssft.decoding.turn import Turn
from ssft.errors import ConfigError, GenerationError
from ssft.streams.insertion import StreamHooks


class MultiAdapterModel:
    """One base in memory and a shelf of adapters over it.

    >>> model = MultiAdapterModel.from_pretrained("smollm2-135m", quantization="4bit")
    >>> model.load_adapter("adapters/sql")
    >>> model.load_adapter("adapters/e2e_nlg", "mr")
    >>> model.generate([question, record, chat], adapter=["sql", "mr", None])   # one mixed batch; None: the bare base
    >>> for piece in model.stream(record, adapter="mr"): ...

    Adapters may differ in rank, target modules, γ, N_s, tree and mode. Decoding is greedy. In float32 the text of a row
    is its text alone, whatever stands beside it; in lower precision rounding depends on the shape of the batch, and a
    near-tie may fall the other way. Every method may be called from several threads; they take turns pass by pass.
    `set_adapter` is the model's, not the thread's: a server says `adapter=` with each call.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str = "base",
        *,
        max_adapter_bytes: int | None = None,
        evict_to: str | None = None,
    ) -> None:
        """`model`: a causal LM without peft. `name`: its id, for messages. See `from_pretrained` for the rest."""
        if hasattr(model, "peft_config"):
            raise ConfigError(
                "the model carries a peft adapter already; give the base itself (peft: model.unload()) and "
                "load_adapter the adapter's folder"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.bank = AdapterBank(model, base_fingerprint(model, tokenizer, name), max_adapter_bytes, evict_to)
        self.hooks = StreamHooks(model)
        self.router = LoraRouter(model)
        self.engine = Engine(self.hooks, self.router.use, Turn())
        self.eos_token_ids = eos_token_ids(model, tokenizer)
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
        """Take all hooks off and return the base as it was; this object is of no use afterwards."""
        self.router.remove()
        self.hooks.remove()
        return self.model

    def memory(self) -> dict[str, Any]:
        """Bytes of the base, of every adapter and of the process; see `memory_account`."""
        return memory_account(self.model, self.bank)

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
        streamer: Any = None,
        cancel: threading.Event | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Greedy text for one prompt (a string comes back) or for a list of them (a list does).

        Args:
            prompts: text, token ids, chat (list of messages) or data row; or a list of those.
            adapter: name, or None for the bare base; a list has one per prompt. Default: the active one.
            max_new_tokens: one number, or one per prompt.
            stop: a string or strings at which the text ends, before the string; or a list of those, one per prompt.
            stop_token_ids: the same for token ids; the last produced id is then the stop token.
            ignore_eos: go on after the end-of-sequence token.
            logits_processor: transformers' processors for every row, or a list of lists; each token sees its own path.
            speculate: False decodes one token per pass.
            batch_size: prompts per batch; None: all at once.
            streamer: transformers' `TextStreamer` or the like, for one prompt.
            cancel: when set, the call returns after the pass that runs; unfinished rows end as "cancelled".
            return_dict: dicts with text, token_ids, tokens, calls, accepted (per depth), seconds, finish_reason and
                adapter instead of strings.

        Raises:
            ConfigError: an adapter is not loaded. GenerationError: a prompt or setting cannot be served.
        """
        values, single = split_prompts(prompts)
        jobs = self._jobs(
            values,
            adapter,
            max_new_tokens=max_new_tokens,
            stop=stop,
            stop_token_ids=stop_token_ids,
            ignore_eos=ignore_eos,
            logits_processor=logits_processor,
        )
        if streamer is not None and len(jobs) != 1:
            raise GenerationError(f"streamer: one prompt can be streamed, {len(jobs)} were given; call once per prompt")
        if batch_size is not None and batch_size < 1:
            raise GenerationError(f"batch_size={batch_size}: at least one prompt per batch, or None for all at once")
        size = batch_size or max(len(jobs), 1)
        outputs: list[Any] = []
        for begin in range(0, len(jobs), size):
            batch = jobs[begin : begin + size]
            for job, result in zip(batch, self._run(batch, speculate, streamer, cancel), strict=True):
                output = job.output(result, self._decode)
                outputs.append(output if return_dict else output["text"])
        return outputs[0] if single else outputs

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
    ) -> Iterator[str]:
        """The text of one prompt in pieces, as passes produce it; joined they are what `generate` returns.

        Closing the iterator cancels the rest. Wrong input raises here, not at the first piece.
        """
        values, single = split_prompts(prompt)
        if not single:
            raise GenerationError(f"stream takes one prompt, {len(values)} were given; call it once per prompt")
        (job,) = self._jobs(
            values,
            adapter,
            max_new_tokens=max_new_tokens,
            stop=stop,
            stop_token_ids=stop_token_ids,
            ignore_eos=ignore_eos,
            logits_processor=logits_processor,
        )
        return self._pieces(job, speculate)

    def _pieces(self, job: Job, speculate: bool) -> Iterator[str]:
        pieces = TextPieces(self._decode, job.stops)
        for (result,) in self._passes([job], speculate):
            piece = pieces.push(job.text_ids(result), last=bool(result.finish_reason))
            if piece:
                yield piece

    def custom_generate(self, adapter: Any = ACTIVE) -> Callable[..., Any]:
        """For transformers' own call: `model.model.generate(**inputs, custom_generate=model.custom_generate())`.

        Decodes every row with `adapter` and its streams; see `StreamGenerate` for what such a call may ask for.
        """
        name = self._active if isinstance(adapter, Active) else adapter
        if name is not None:
            self.bank.get(name)

        # generate() reads the signature: it hands over what is named here.
        def generate(
            model: Any,
            input_ids: torch.Tensor,
            logits_processor: Any = None,
            stopping_criteria: Any = None,
            generation_config: Any = None,
            text_streamer: Any = None,
            **rest: Any,
        ) -> Any:
            with self.bank.in_use([] if name is None else [name]) as held:
                call = StreamGenerate(self.hooks, None, turn=self.engine.turn)
                if name is not None:
                    own = held[name]
                    call = StreamGenerate(
                        self.hooks, own.streams, own.tree, self.router.use, own.lora, self.engine.turn
                    )
                return call(
                    model, input_ids, logits_processor, stopping_criteria, generation_config, text_streamer, **rest
                )

        return generate

    # -- a call, step by step -----------------------------------------------------------------------------------

    def _jobs(self, prompts: list[Any], adapter: Any, **settings: Any) -> list[Job]:
        """Every row with its own settings, checked."""
        adapter = self._active if isinstance(adapter, Active) else adapter
        jobs = make_jobs(prompts, adapter, self.tokenizer, self._decode, self.eos_token_ids, **settings)
        for job in jobs:
            if job.adapter is not None:
                self.bank.get(job.adapter)
        return jobs

    def _run(self, jobs: list[Job], speculate: bool, streamer: Any, cancel: threading.Event | None) -> list[Generation]:
        """One batch to its end, or to its cancellation."""
        begin = time.perf_counter()
        shown = 0
        results: list[Generation] = []
        passes = self._passes(jobs, speculate)
        try:
            if streamer is not None:
                streamer.put(torch.tensor(jobs[0].prompt))
            for results in passes:
                if streamer is not None and results[0].token_ids[shown:]:
                    streamer.put(torch.tensor(results[0].token_ids[shown:]))
                    shown = len(results[0].token_ids)
                if cancel is not None and cancel.is_set():
                    break
        finally:
            passes.close()
            if streamer is not None:
                streamer.end()
        for result in results:
            if not result.finish_reason:
                result.finish_reason, result.seconds = "cancelled", time.perf_counter() - begin
        return results

    def _passes(self, jobs: list[Job], speculate: bool) -> Any:
        """A generator over the passes of one batch: every job's `Generation`, in the jobs' order."""
        names = [job.adapter for job in jobs if job.adapter is not None]
        with self.bank.in_use(names) as held:
            # Rows with one adapter stand side by side, so that its low-rank product is one.
            order = sorted(range(len(jobs)), key=lambda i: jobs[i].adapter or "")
            requests = [jobs[i].request(held.get(jobs[i].adapter or ""), speculate) for i in order]
            place = {job: b for b, job in enumerate(order)}
            for results in self.engine.decode(requests):
                yield [results[place[i]] for i in range(len(jobs))]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)
