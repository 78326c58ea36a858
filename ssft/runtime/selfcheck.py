"""A quick proof, on the loaded model itself, that streams can enter it and change nothing that it says.

A few passes over random token ids. What is compared with is the model without hooks and with its own attention: its
logits, its hidden rows, its greedy text. A model of a tested architecture (`ssft/base/families.py`) needs none of this.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssft.base.backbone import Backbone
from ssft.base.families import TESTED
from ssft.base.linear import is_linear, linear_sizes
from ssft.decoding.config import TreeConfig
from ssft.decoding.draft.drafter import Guesses, Stop
from ssft.decoding.draft.streams import StreamDrafter
from ssft.decoding.request import Request
from ssft.decoding.scheduler import Scheduler
from ssft.decoding.step import States, Step
from ssft.errors import UnsupportedArchitectureError
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import StreamModules
from ssft.streams.passes import Pass, announced
from ssft.streams.plan import StreamPlan

GAMMA = 2
LENGTH = 7
SOURCES = (2, 5)
TOKENS = 8
TRAINING, PACKS = "training", "support_avx512bf16_for_cpu"
"""Attributes of modules: every one's, and bitsandbytes' on a CPU."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: its name, whether it is as it must be, and what was found."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Report:
    """What `self_check` found; `reason` is None for a supported model."""

    checks: list[Check]

    @property
    def supported(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    @property
    def reason(self) -> str | None:
        """The first check that failed, and why."""
        failed = [check for check in self.checks if not check.ok]
        return f"{failed[0].name}: {failed[0].detail}" if failed else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: supported, checks (name, ok, detail) and reason."""
        return {"supported": self.supported, "checks": [*map(asdict, self.checks)], "reason": self.reason}


_PASSED: set[str] = set()
"""Model types with their settings that have passed in this process."""


def require_support(model: Any) -> None:
    """Look for a model's parts; if its architecture is none of the tested ones check it, once per process and config.

    Raises:
        UnsupportedArchitectureError: streams cannot enter, or a check failed; says which, and what it found.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    Backbone(base)
    name = base.config.model_type
    settings = {key: value for key, value in base.config.to_dict().items() if key != "_name_or_path"}
    key = f"{name} {hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()}"
    if name in TESTED or key in _PASSED:
        return
    report = self_check(base)
    if not report.supported:
        raise UnsupportedArchitectureError(
            f"architecture {name!r} failed its self-check, {report.reason}. `ssft bases check` shows all checks, "
            "`ssft bases families` the tested architectures"
        )
    _PASSED.add(key)


def self_check(model: Any) -> Report:
    """Run the checks on a causal LM of transformers, in their order up to the first that fails; the model is kept."""
    checks: list[Check] = []
    try:
        subject = _Subject(model)
    except UnsupportedArchitectureError as error:
        return Report([Check("parts", False, str(error))])
    with subject.quiet(), torch.no_grad():
        run: dict[str, Callable[[], str | None]] = {
            "parts": subject.parts,
            "logits": subject.logits,
            "positions": subject.positions,
            "main stream": subject.main_stream,
            "streams": subject.streams_as_rows,
            "visibility": subject.visibility,
            "text": subject.text,
            "lora": subject.lora,
        }
        for name, check in run.items():
            try:
                checks.append(Check(name, True, check() or ""))
            except _DifferenceError as error:
                checks.append(Check(name, False, str(error)))
            except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
                text = " ".join(str(error).split())[:200]
                checks.append(Check(name, False, f"a pass failed: {type(error).__name__}: {text}"))
            if not checks[-1].ok:
                break
    return Report(checks)


class _DifferenceError(Exception):
    """A check found something else than it must."""


class _Subject:
    """One model under its checks, each of which returns what it found or raises `_DifferenceError`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.backbone = Backbone(model)
        self.msa_layers = max(1, min(2, self.backbone.num_layers - 1))
        weight = model.get_input_embeddings().weight
        self.tolerance = 2e-4 if weight.dtype == torch.float32 else 0.06
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, self.backbone.vocab_size, (2, LENGTH + GAMMA), generator=generator)
        self.ids = ids.to(model.device)
        self.modules = StreamModules(StreamConfig(GAMMA, self.msa_layers), self._hidden_size())
        self.modules.stream_embeddings.data = torch.randn(GAMMA, self._hidden_size(), generator=generator)
        self.modules.to(model.device)

    def _hidden_size(self) -> int:
        return int(self.model.config.hidden_size)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Evaluation mode, without bitsandbytes' packing of weights for good: the model may be about to train."""
        modes = [(vars(module), vars(module).copy()) for module in self.model.modules()]
        try:
            for now, _ in modes:
                now |= {name: False for name in (TRAINING, PACKS) if name in now}
            yield
        finally:
            for now, before in modes:
                now |= {name: before[name] for name in (TRAINING, PACKS) if name in before}

    @contextmanager
    def hooked(self) -> Iterator[StreamHooks]:
        """The model with stream hooks on, which come off again."""
        hooks = StreamHooks(self.model)
        try:
            yield hooks
        finally:
            hooks.remove()

    # -- the checks ---------------------------------------------------------------------------------------------

    def parts(self) -> str:
        """What was found where."""
        anatomy = self.backbone.anatomy
        if self.backbone.num_layers < 2:
            raise _DifferenceError("the model has one layer, and streams start above at least one")
        kinds = sorted({"all" if window is None else str(window) for window in anatomy.windows})
        places = "learned" if self.backbone.learned_positions else "rotary"
        return (
            f"{self.backbone.num_layers} layers in {anatomy.layers!r}, then {', '.join(anatomy.finish) or 'nothing'}; "
            f"{places} positions; tokens seen: {', '.join(kinds)}; {anatomy.heads} key heads of {anatomy.width}"
        )

    def logits(self) -> str:
        """Decoder and head called apart give the logits that the model gives."""
        own = self.model(input_ids=self.ids, use_cache=False).logits
        apart = self.backbone.logits(self.backbone.decoder(input_ids=self.ids, use_cache=False).last_hidden_state)
        return self._equal(apart, own, "logits of decoder and head called apart, and the model's own")

    def positions(self) -> str:
        """A row stands where it is told to, as nodes of a tree are: one place on, it is as behind a token unseen."""
        length = min([LENGTH, *(window - 1 for window in self.backbone.windows if window is not None)])
        if length < 2:
            return "windows are too short to tell"
        ids, places = self.ids[:, :length], torch.arange(length + 1, device=self.ids.device).expand(len(self.ids), -1)
        apart = torch.cat((ids[:, :-1], ids[:, :1], ids[:, -1:]), dim=1)
        seen = torch.ones_like(apart)
        seen[:, -2] = 0
        last = torch.tensor([*range(length - 1), length], device=ids.device)
        run, given = self.backbone.decoder, {"use_cache": False}
        expected = run(input_ids=apart, attention_mask=seen, position_ids=places, **given).last_hidden_state[:, -1]
        moved = run(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=places[:, last], **given)
        return self._equal(moved.last_hidden_state[:, -1], expected, "a row moved one place on, and behind a gap")

    def main_stream(self) -> str:
        """Streams leave the logits of the main rows as they are without them."""
        own = self.model(input_ids=self.ids, use_cache=False).logits
        with self.hooked():
            _, streamed = self._pass(self.ids)
        return self._equal(streamed, own, "logits beside streams, and the model's own without them")

    def streams_as_rows(self) -> str:
        """Stream j of the last row is what a row of the model would be that stood j places behind it."""
        length = min([LENGTH, *(window - GAMMA for window in self.backbone.windows if window is not None)])
        if length < 2:
            return (
                f"windows of {min(window for window in self.backbone.windows if window)} tokens are too short to tell"
            )
        first = self.backbone.num_layers - self.msa_layers
        found: list[Tensor] = []

        def insert(_layer: nn.Module, args: Any) -> Any:
            streams = self.modules.insert(args[0][:, length - 1 : length], GAMMA)
            return (torch.cat((args[0][:, :length], streams), dim=1), *args[1:])

        def note(_layer: nn.Module, _args: Any, output: Any) -> None:
            found.append((output[0] if isinstance(output, tuple) else output)[:, length:])

        layers = self.backbone.layers
        handles = [layers[first].register_forward_pre_hook(insert), layers[-1].register_forward_hook(note)]
        try:
            self.backbone.decoder(input_ids=self.ids[:, : length + GAMMA], use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        with self.hooked():
            streams, _ = self._pass(self.ids[:, :length], (length - 1,))
        return self._equal(streams, found[0], "streams, and the model's own rows in their places")

    def visibility(self) -> str:
        """A token changes the streams of sources from it on, and none of the sources before it."""
        with self.hooked():
            streams, _ = self._pass(self.ids)
            changed = self.ids.clone()
            changed[:, SOURCES[1]] = (changed[:, SOURCES[1]] + 1) % self.backbone.vocab_size
            others, _ = self._pass(changed)
        self._equal(others[:, :GAMMA], streams[:, :GAMMA], "streams before and after a later token is changed")
        moved = _error(others[:, GAMMA:], streams[:, GAMMA:])
        if moved <= self.tolerance:
            raise _DifferenceError("streams do not see the token that they stand beside")
        return f"a changed token moves the streams beside it by {moved:.1e} and none before it"

    def text(self) -> str:
        """Greedy text with trees whose drafts are right, wrong and neither is the model's own."""
        prompts = [self.ids[0, :LENGTH].tolist(), self.ids[1, : LENGTH - 3].tolist()]
        own = [self._greedy(prompt) for prompt in prompts]
        texts = {tuple(prompt): tokens for prompt, (tokens, _) in zip(prompts, own, strict=True)}
        drafter = _KnownText(self.modules, texts, self.backbone.vocab_size)
        with self.hooked() as hooks:
            tree = TreeConfig("best_first", 8, 2)
            requests = [Request(prompt, TOKENS, drafter, tree, None, eos_token_ids=frozenset()) for prompt in prompts]
            *_, results = Scheduler(Step(hooks)).decode(requests)
        for (tokens, gaps), result in zip(own, results, strict=True):
            if len(result.token_ids) != TOKENS:
                raise _DifferenceError(f"{len(result.token_ids)} tokens come with streams, {TOKENS} were asked for")
            pairs = zip(tokens[:TOKENS], result.token_ids, strict=True)
            at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
            if at is not None and gaps[at] > self.tolerance:
                raise _DifferenceError(f"token {at} is {result.token_ids[at]} with streams and {tokens[at]} without")
        calls = sum(result.calls for result in results)
        return f"{TOKENS} tokens of {len(prompts)} prompts in {calls} passes, as the model says them by itself"

    def lora(self) -> str:
        """Low-rank products on the linear modules of its layers change what it says, and on stream rows those alone."""
        fit, unfit = self._lora_places()
        if not fit:
            raise _DifferenceError("its layers have no linear modules, which are what a LoRA is for")
        own = self.model(input_ids=self.ids, use_cache=False).logits
        with self._products(fit):
            moved = _error(self.model(input_ids=self.ids, use_cache=False).logits, own)
        if not moved > self.tolerance:
            raise _DifferenceError("a LoRA on all of its linear modules changes nothing that it says")
        with self.hooked():
            streams, _ = self._pass(self.ids)
            with self._products(fit, first=self.ids.shape[1]):
                others, logits = self._pass(self.ids)
        self._equal(logits, own, "logits beside streams with a LoRA of their own, and the model's own")
        if not _error(others, streams) > self.tolerance:
            raise _DifferenceError("a LoRA on stream rows alone changes no stream")
        names = ", ".join(sorted({name.rpartition(".")[2] for name in fit}))
        but = f"; none fits {', '.join(unfit)}: set lora.target_modules to the names of the others" if unfit else ""
        return f"products of low rank on {names} move logits by {moved:.1e}{but}"

    # -- what they use ------------------------------------------------------------------------------------------

    def _pass(self, ids: Tensor, sources: tuple[int, ...] = SOURCES) -> tuple[Tensor, Tensor]:
        """Streams [B, S·g, h] and logits of one pass with streams."""
        where = torch.tensor([sources] * len(ids), device=ids.device)
        plan = StreamPlan(self.modules, where, GAMMA)
        with announced(Pass(plan)):
            logits = self.model(input_ids=ids, use_cache=False).logits
        assert plan.streams is not None
        return plan.streams, logits

    def _lora_places(self) -> tuple[dict[str, nn.Module], list[str]]:
        """The linear modules of the layers by name; and what those are called that are linear by their class alone."""
        inside = {id(module) for layer in self.backbone.layers for module in layer.modules()}
        modules = {name: module for name, module in self.model.named_modules() if id(module) in inside}
        fit = {name: module for name, module in modules.items() if is_linear(module)}
        unfit = {name.rpartition(".")[2] for name, module in modules.items() if isinstance(module, nn.Linear)}
        return fit, sorted(unfit - {name.rpartition(".")[2] for name in fit})

    @contextmanager
    def _products(self, modules: dict[str, nn.Module], first: int = 0) -> Iterator[None]:
        """A random low-rank product on every row of each module, those before `first` of a sequence left out."""
        generator = torch.Generator().manual_seed(1)

        def hook_of(module: nn.Module) -> Any:
            width, out = linear_sizes(module)
            down = torch.randn(width, 2, generator=generator) / width**0.5
            up = torch.randn(2, out, generator=generator) / 4
            both = (down @ up).to(self.model.device)

            def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
                added = (args[0].float() @ both).to(output.dtype)
                rows = added.reshape(len(self.ids), -1, added.shape[-1])  # OPT's feed-forward gets [B·R, in]
                rows[:, :first] = 0
                return output + rows.view_as(output)

            return hook

        handles = [module.register_forward_hook(hook_of(module)) for module in modules.values()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _greedy(self, prompt: list[int]) -> tuple[list[int], list[float]]:
        """The model's own text, longer by what drafts look ahead, and by how much each token won (as `_error` does)."""
        tokens: list[int] = []
        gaps = []
        for _ in range(TOKENS + GAMMA):
            ids = torch.tensor([prompt + tokens], device=self.model.device)
            logits = self.model(input_ids=ids, use_cache=False).logits[0, -1].float()
            best = logits.topk(2).values
            gaps.append(((best[0] - best[1]) / logits.abs().max()).item())
            tokens.append(int(logits.argmax()))
        return tokens, gaps

    def _equal(self, found: Tensor, expected: Tensor, what: str) -> str:
        error = _error(found, expected)
        if not error <= self.tolerance:
            raise _DifferenceError(f"{what} differ by {error:.1e} of the largest")
        return f"they differ by {error:.1e} of the largest"


class _KnownText(StreamDrafter):
    """Streams whose guesses are replaced: right ones among wrong ones, and now and then a wrong one alone."""

    def __init__(self, modules: StreamModules, texts: dict[tuple[int, ...], list[int]], vocab_size: int) -> None:
        super().__init__(modules)
        self.texts, self.size = texts, vocab_size

    def propose(self, stops: Sequence[Stop], states: States, step: Step) -> list[Guesses | None]:
        real = super().propose(stops, states, step)
        return [None if guesses is None else self._draw(stop) for stop, guesses in zip(stops, real, strict=True)]

    def _draw(self, stop: Stop) -> Guesses:
        at, text = len(stop.row.result.token_ids), self.texts[tuple(stop.row.request.prompt)]
        tokens = []
        for place in range(at, at + stop.row.request.depth):
            wrong = (text[place] + 1) % self.size
            tokens.append([wrong, (wrong + 1) % self.size if place % 4 == 3 else text[place]])
        return Guesses(tokens, [[math.log(0.6), math.log(0.3)]] * len(tokens))


def _error(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest expected value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()
