"""`StreamSFTTrainer`: TRL's `SFTTrainer` whose loss also teaches the streams (paper §3.2.4)."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ssft.decoding.config import TreeConfig
from ssft.errors import ConfigError
from ssft.runtime.selfcheck import require_support
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import CONTAINER, attach_streams, streams_of
from ssft.streams.passes import Pass, announced
from ssft.streams.plan import StreamPlan
from ssft.training.config import StreamSFTConfig
from ssft.training.gradients import joined
from ssft.training.loss import NgramLoss, ngram_loss
from ssft.training.lossless import gate_lora
from ssft.training.measure import MeasureStreams
from ssft.training.metrics import SpeculationMetrics, needed_mask
from ssft.training.prune_head import LOSS, prune_losses
from ssft.training.start import Start, divergence
from ssft.training.vocabulary import candidates_of, vocabulary_of_run


class StreamSFTTrainer(SpeculationMetrics):
    """Trains a LoRA adapter and its speculative streams together.

    Used like `SFTTrainer`: model (or its name), `StreamSFTConfig`, datasets, `peft_config`. The LoRA is shared by
    main stream and streams, or, with `mode="lossless"`, acts on the streams alone; stream parameters are part of what
    PEFT saves, so checkpoints and resume need nothing else.

    Logged beside TRL's metrics: `loss_main`, `loss_stream_1..γ` (per token, against what `stream_supervision` names),
    `loss_prune` where the streams have a prune head, `divergence` (per token, of the main stream from the start, where
    `main_supervision` names that), and at evaluation `acceptance_1..γ` (share of sources where a chain of the streams'
    best tokens would be accepted that deep, teacher-forced) and `chain_tokens_per_call` (1 + their sum). Every
    `measure_steps` steps some rows of `eval_dataset` are decoded with `tree`, the draft tree that the adapter is for:
    see `MeasureStreams`.
    """

    args: StreamSFTConfig
    model: Any

    def __init__(
        self, model: Any, args: StreamSFTConfig, *positional: Any, tree: TreeConfig | None = None, **keywords: Any
    ) -> None:
        super().__init__(model, args, *positional, **keywords)
        if not hasattr(self.model, "base_model") or not hasattr(self.model, "peft_config"):
            raise ConfigError(
                "StreamSFTTrainer got a model without an adapter; streams are trained with a LoRA: pass peft_config="
                "LoraConfig(...) or a PeftModel"
            )
        adapter: Any = self.model.active_adapter
        if stacked := self.model.peft_config[adapter].target_parameters:
            raise ConfigError(
                f"the LoRA is also for {', '.join(map(repr, stacked))}, weights of experts that lie in no linear "
                "layer, where it could not be decoded; set target_modules to the names of linear layers, such as "
                "q_proj, k_proj, v_proj and o_proj, instead of 'all-linear'"
            )
        keep_gradients_on_cpu(self.model)
        require_support(self.model)
        self.hooks = StreamHooks(self.model)
        args.settle_layers(self.hooks.backbone.num_layers)
        self.streams: Any = streams_of(self.model, adapter) or attach_streams(self.model, args, adapter)
        # TRL casts every trainable parameter of a quantised model to bfloat16, in which the small updates of P_j
        # would be rounded away.
        self.streams.float()
        layers = self.streams.config.num_msa_layers
        self.gate = gate_lora(self.model, adapter, layers) if args.mode == "lossless" else None
        self.cut = self.gate is not None
        """Whether no gradient is taken below the insertion layer, where in lossless mode nothing trains."""
        self.num_guesses = args.num_streams
        self.loss_names = ["loss_main", *(f"loss_stream_{j}" for j in range(1, args.num_streams + 1))]
        self.loss_names += [LOSS] if self.streams.config.prune_head_rank else []
        self.add_callback(MeasureStreams(self, tree or TreeConfig()))

    def score(self, model: nn.Module, inputs: dict[str, Any], sources: Tensor, real: Any, targets: Tensor) -> NgramLoss:
        """The n-gram loss of a batch, with head and loss on the real sources only."""
        plan = StreamPlan(self.streams, sources, self.num_guesses, self.cut)
        if self.gate is not None:
            self.gate.plan = plan
        mask = needed_mask(inputs["attention_mask"])
        with announced(Pass(plan)):
            # The head's rows are chosen below, not by the model: it keeps none.
            none = sources.new_empty(0)
            model(input_ids=inputs["input_ids"], attention_mask=mask, use_cache=False, logits_to_keep=none)
        assert plan.main is not None
        assert plan.streams is not None
        backbone = self.hooks.backbone
        with self.accelerator.autocast():
            main = backbone.finish(plan.main[real[0], sources[real]])
            main = main.detach() if self.cut else main
            streams = backbone.finish(plan.streams.unflatten(1, (-1, self.num_guesses))[real])
            depths = torch.arange(-1, self.num_guesses, device=main.device)
            weights = self.stream_weight * self.args.stream_loss_decay**depths
            learns = self.args.main_supervision if self.model.training else "reference"
            # In lossless mode nothing that trains reaches the main stream.
            weights[0] = 0.0 if self.gate is not None or learns == "start" else self.args.main_loss_weight
            candidates = candidates_of(self.vocabulary, inputs["input_ids"], backbone)
            loss = ngram_loss(
                main, streams, targets, backbone.logits, weights, self.args.stream_supervision, candidates
            )
            if learns != "reference":
                drift = divergence(main, self.start.states(inputs)[real[0], sources[real]], backbone.logits)
                loss.main = loss.main + self.args.main_loss_weight * drift
                self._log_divergence(drift, len(targets))
            if self.streams.config.prune_head_rank:
                assert plan.entered is not None
                losses, _ = prune_losses(backbone, self.streams, plan.entered[real], targets[:, 0])
                loss.streams = loss.streams + self.args.prune_loss_weight * losses.sum()
                loss.sums = torch.cat((loss.sums, losses.detach().sum().unsqueeze(0)))
                loss.counts = torch.cat((loss.counts, loss.counts[:1]))
        return loss

    @cached_property
    def vocabulary(self) -> Tensor | None:
        """The draft vocabulary [v] of the training rows, from which streams guess here and later; None: the base's."""
        return vocabulary_of_run(self)

    @cached_property
    def start(self) -> Start:
        """The LoRA as the run began, or as it is when it is asked for before."""
        return Start(self.hooks.backbone)

    def train(self, *arguments: Any, **keywords: Any) -> Any:
        """TRL's training; before a checkpoint is loaded, the LoRA is kept where the text is to stay with it."""
        if self.args.main_supervision != "reference":
            self.start = Start(self.hooks.backbone)
        return super().train(*arguments, **keywords)

    def joined_loss(self, loss: NgramLoss) -> Tensor:
        """Both losses together, with the gradients that `stream_gradient` says where a step is taken."""
        if self.args.stream_gradient == "summed" or not self.model.training:
            return loss.total
        own = {id(p) for p in self.streams.parameters()}
        shared = [p for p in self.model.parameters() if p.requires_grad and id(p) not in own]
        return joined(loss.main, loss.streams, shared, list(self.streams.parameters()), self.args.stream_gradient)

    def _log_divergence(self, drift: Tensor, tokens: int) -> None:
        """Mean over the tokens of all processes."""
        total, count = self.accelerator.reduce(torch.stack((drift.detach(), drift.new_tensor(tokens))), reduction="sum")
        self._metrics["train"]["divergence"].append((total / count.clamp(min=1)).item())

    @property
    def stream_weight(self) -> float:
        """α_1 now: while training it grows linearly from 0 over the first `stream_loss_warmup_ratio` of all steps, and
        falls linearly to `stream_loss_weight_end` from there to the last."""
        weight, warmup = self.args.stream_loss_weight, self.args.stream_loss_warmup_ratio
        if not self.model.training:
            return weight
        done = (self.state.global_step + 1) / max(self.state.max_steps, 1)
        if done < warmup:
            return weight * done / warmup
        if self.args.stream_loss_weight_end is None:
            return weight
        fallen = (done - warmup) / (1 - warmup)
        return weight + (self.args.stream_loss_weight_end - weight) * fallen

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """TRL's optimiser, with the stream parameters in a group of their own if they have their own rate."""
        optimizer = super().create_optimizer(model)
        rate = self.args.stream_learning_rate
        if rate is not None and not any(group.get("streams") for group in optimizer.param_groups):
            own = {id(p) for n, p in self.model.named_parameters() if CONTAINER in n}
            group = {**optimizer.param_groups[-1], "params": [], "lr": rate, "weight_decay": 0.0, "streams": True}
            for other in optimizer.param_groups:
                group["params"] += [p for p in other["params"] if id(p) in own]
                other["params"] = [p for p in other["params"] if id(p) not in own]
            optimizer.add_param_group(group)
        return optimizer


def keep_gradients_on_cpu(model: nn.Module) -> None:
    """Stop bitsandbytes from packing 4-bit weights for inference in a model that is to be trained.

    On CPUs with AVX512-BF16 the first evaluation pass packs them in place, and the packed kernel has no backward:
    every step after a mid-training evaluation would silently train nothing.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 (an attribute of bitsandbytes' Linear4bit)
