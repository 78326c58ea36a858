"""From a model to a faster one: distil, train, verify, tune and card, by the functions behind those commands."""

import shutil
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ssft.accelerate.plan import LEAST_STEPS, SHAPES, SHARES, Shape, enough, steps_in
from ssft.accelerate.stages import Stages
from ssft.base.load import eos_token_ids
from ssft.bench.answers import encode_rows
from ssft.bench.tuning import tune, tuning_sentence
from ssft.bench.verify import verify
from ssft.bundle.format import CARD, RUN
from ssft.bundle.hub import resolve_adapter
from ssft.bundle.read import read_bundle
from ssft.card.results import measured, read_results, write_results
from ssft.card.write import write_card
from ssft.distill.distill import distill, unique_starts
from ssft.distill.talk import Row, Talk
from ssft.errors import DataError, SSFTError
from ssft.files import file_sha256, write_json
from ssft.recipes.data import load_row_pair, load_rows
from ssft.recipes.recipe import Recipe, load_recipe
from ssft.results.schema import VerifyResult
from ssft.runs.prepare import learned_tokens, prepare
from ssft.runs.resume import check_may_begin
from ssft.runs.run import run_folder
from ssft.runs.train import build_trainer, train
from ssft.runtime.model import MultiAdapterModel
from ssft.tables import duration
from ssft.training.estimate import estimate
from ssft.training.progress import no_other_bars

RECIPE = "chat_lossless"
MEASURED_ROWS = 20
"""Held-back rows that are decoded to measure, at most."""
MEASURE_STEPS = 100
"""Steps between two measurements of a training, which is shorter here than the recipe's own."""


@dataclass
class Acceleration:
    """One work in one folder.

    base: alias, folder or hub id. adapter: a LoRA over it whose text is to be kept, a folder or owner/name; None: the
    bare base. rows: prompts to answer; None: the model asks itself, `questions` times at most. seconds: the budget.
    open: loads an adapter over the base. facts: what a result says of whose it is, from the loaded adapter and the
    number of rows. overrides: of the recipe, by its user.
    """

    base: str
    folder: Path
    open: Callable[[str | None], MultiAdapterModel]
    facts: Callable[[MultiAdapterModel, int], dict[str, Any]]
    say: Callable[[str], object]
    how: Talk
    seconds: float
    adapter: str | None = None
    rows: list[Row] | None = None
    questions: int = 2000
    batch_size: int = 8
    device: str | None = None
    overrides: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stages = Stages(self.folder, self.say)
        self.distilled, self.trained = self.folder / "distilled.jsonl", self.folder / "adapter"
        self.verified, self.tuned = self.folder / "verify.json", self.folder / "tune.json"

    def run(self) -> VerifyResult | None:
        """All stages; what verifying found, None where it was found by an earlier call."""
        self.found: VerifyResult | None = None
        whose = {"base": self.base, "adapter": self._adapter_sha256}
        talk = {"rows": self.rows, "questions": self.questions, "how": vars(self.how)}
        inputs: dict[str, Any] = {**whose, **talk, "seconds": self._share("distil")}
        purpose = "answers of the model itself" + (", to questions of its own" if self.rows is None else "")
        self.stages.run("distil", purpose, self.distilled, inputs, lambda: _hash(self.distilled), self._distil)
        inputs = {**whose, "rows": _hash(self.distilled), "seconds": self._share("train"), "set": self.overrides}
        purpose = "streams that guess what the model says"
        self.stages.run("train", purpose, self.trained, inputs, self._trained_sha256, self._train)
        inputs = {"adapter": self._trained_sha256()}
        purpose = "is the text that of plain decoding?"
        self.stages.run("verify", purpose, self.verified, inputs, lambda: _hash(self.verified), self._verify)
        purpose = "what do passes cost here, and which trees pay?"
        self.stages.run("tune", purpose, self.tuned, inputs, lambda: _hash(self.tuned), self._tune)
        inputs = {"adapter": self._trained_sha256(), "verify": _hash(self.verified)}
        card = self.trained / CARD
        self.stages.run("card", "what the adapter is, for people", card, inputs, lambda: _hash(card), self._card)
        return self.found

    # -- the stages: each gets what is told of it, and says what it found -----------------------------------------

    def _distil(self, entry: dict[str, Any]) -> str:
        until = time.monotonic() + self._share("distil") - entry["seconds"]
        starts = None if self.rows is None else unique_starts(self.rows, self.how.turns)
        how = {"starts": starts, "questions": self.questions, "batch_size": self.batch_size, "until": until}
        done = distill(self._opened(self.adapter), self.distilled, self.how, **how)
        if done.rows < 2:
            raise DataError(
                f"{self.distilled}: {done.sentence()}; training needs two rows at least: give more --minutes, or fewer "
                "--max-new-tokens so that a batch ends earlier"
            )
        wanted = self.questions if starts is None else len(starts)
        cut = "" if done.whole else f"; cut off by the time, of {wanted:,} wanted"
        return f"{done.sentence()}{cut}"

    def _train(self, entry: dict[str, Any]) -> str:
        until = time.monotonic() + self._share("train") - entry["seconds"]
        with redirect_stdout(sys.stderr), no_other_bars():
            if "set" not in entry:
                shutil.rmtree(run_folder(self.trained), ignore_errors=True)  # of a training that had other inputs
                entry["set"] = self._chosen(until)
                self.stages.save()
            recipe = self._recipe(entry["set"])
            asked = {key: recipe.training[key] for key in ("num_streams", "num_msa_layers", "max_steps")}
            self.say(f"  {', '.join(f'{key}={value}' for key, value in {**asked, 'lora.r': recipe.lora.r}.items())}")
            # An older result was made of other inputs: it goes when the new one is whole.
            check_may_begin(recipe, self.trained, resume=True, force=True)
            run = prepare(recipe, self.trained, self.device)
            done = train(run, self.trained, resume=True, force=True, until=until)
        assert done is not None
        steps, metrics = done.provenance["steps"], done.provenance["metrics"]
        chain = metrics.get("eval_chain_tokens_per_call")
        told = f"{steps:,} steps, {done.size_bytes / 2**20:.1f} MiB"
        if chain is not None:
            told += f"; chains of {chain:.2f} tokens on the rows that were held back"
        wanted = recipe.training["max_steps"]
        return told + (f"; cut off by the time, of {wanted:,} steps" if steps < wanted else "")

    def _verify(self, entry: dict[str, Any]) -> str:
        adapted = self._over_base
        prompts = self._prompts(adapted)
        facts = {**self.facts(adapted, len(prompts)), "kind": "verify"}
        found = verify(adapted, prompts, facts["max_new_tokens"], facts["batch_size"])
        self.found = VerifyResult(**facts, **found)
        write_json(self.verified, self.found)
        return (
            f"{self.found.identical} of {len(prompts)} texts are those of plain decoding, "
            f"{self.found.tokens / self.found.calls:.2f} tokens per call, {adapted.precision} on {adapted.device}"
        )

    def _tune(self, entry: dict[str, Any]) -> str:
        adapted = self._over_base
        prompts = self._prompts(adapted)
        facts = {**self.facts(adapted, len(prompts)), "kind": "tune"}
        result = tune(adapted, prompts, facts["max_new_tokens"], facts["batch_size"])
        write_json(self.tuned, {**facts, **vars(result)})
        return tuning_sentence(result)

    def _card(self, entry: dict[str, Any]) -> str:
        bundle = read_bundle(self.trained)
        kept = read_results(bundle)
        kept.add(measured(self.verified, bundle))
        write_results(bundle, kept)
        write_card(bundle)
        return "the card tells what was found"

    # -- settings -------------------------------------------------------------------------------------------------

    def _chosen(self, until: float) -> list[str]:
        """Overrides of the recipe: the first of `SHAPES` of which enough steps fit in until then, and so many steps."""
        words: list[str] = []
        for shape in SHAPES:
            words = self._words(shape)
            step, rows, batch = self._measure(self._recipe([*words, f"training.max_steps={LEAST_STEPS}"]))
            seconds = max(until - time.monotonic(), 0.0)
            steps = steps_in(seconds, step, rows, batch)
            warmup = min(20, steps // 10)
            words += [f"training.max_steps={steps}", f"training.warmup_steps={warmup}"]
            self.say(
                f"  γ={shape.num_streams}, {shape.layer_share:.0%} of the layers, rank {shape.rank}: {step:.2f} s a "
                f"step, {steps:,} steps in {duration(seconds)}"
            )
            if enough(steps, rows, batch):
                break
        return words

    def _words(self, shape: Shape) -> list[str]:
        count = len(load_rows(self.distilled))
        held = min(max(0.05, 1 / count), 0.5)
        return [
            f"training.num_streams={shape.num_streams}",
            f"training.num_msa_layers={shape.layer_share}",
            f"lora.r={shape.rank}",
            f"lora.lora_alpha={2 * shape.rank}",
            f"training.measure_steps={MEASURE_STEPS}",
            f"data.validation_fraction={held:.4f}",
        ]

    def _recipe(self, words: list[str]) -> Recipe:
        own = [f"base={self.base}", f"adapter={self.adapter or ''}", f"data.train={self.distilled}"]
        return load_recipe(RECIPE, [*own, *words, *self.overrides])

    def _measure(self, recipe: Recipe) -> tuple[float, int, int]:
        """(seconds of a step, training rows, rows of a step); `ConfigError` where the end of a turn is not learned."""
        run = prepare(recipe, self.trained, self.device)
        trainer = build_trainer(run)
        learned_tokens(trainer, eos_token_ids(run.model, run.tokenizer))
        estimate(trainer)  # kernels are chosen and memory is taken here
        cost = estimate(trainer, exact=True)
        batch = run.args.per_device_train_batch_size * run.args.gradient_accumulation_steps
        return cost["seconds"] / cost["steps"], len(run.train), batch

    # -- what the stages share ------------------------------------------------------------------------------------

    def _share(self, stage: str) -> float:
        return self.seconds * SHARES[stage]

    @cached_property
    def _adapter_sha256(self) -> str | None:
        if self.adapter is None:
            return None
        bundle = read_bundle(resolve_adapter(self.adapter))
        bundle.release()
        return bundle.weights_sha256

    def _trained_sha256(self) -> str | None:
        try:
            bundle = read_bundle(self.trained)
        except SSFTError:
            return None
        bundle.release()
        return bundle.weights_sha256

    @cached_property
    def _over_base(self) -> MultiAdapterModel:
        return self._opened(str(self.trained))

    def _opened(self, adapter: str | None) -> MultiAdapterModel:
        with no_other_bars():
            return self.open(adapter)

    def _prompts(self, adapted: MultiAdapterModel) -> list[list[int]]:
        """Those of the rows that the training held back."""
        recipe = load_recipe(self.trained / RUN)
        held = load_row_pair(recipe.data, recipe.training.get("seed", 42))[1].rows
        return encode_rows(adapted, held[:MEASURED_ROWS])


def _hash(path: Path) -> str | None:
    return file_sha256(path) if path.is_file() else None
