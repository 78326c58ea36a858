"""The decoding loop: each pass verifies the last draft tree and makes the next (paper §3.2.2, appendix A.1).

Plain decoding is the same loop with trees of one node and no streams, so a comparison of the two differs in nothing
but the speculation.
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssft.decoding.cache import TreeCache
from ssft.decoding.config import TreeConfig
from ssft.decoding.masks import tree_masks
from ssft.decoding.tree import DraftTree, grow_tree, stop_order
from ssft.decoding.verify import accept_greedy
from ssft.errors import GenerationError
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import StreamModules
from ssft.streams.plan import StreamPlan


@dataclass
class Generation:
    """What one prompt became.

    token_ids: produced tokens, the EOS included if it came. calls: passes of the model, the prompt's included, so
    plain decoding has calls == len(token_ids). accepted: [depth] passes after the prompt's that accepted that deep
    (index 0: none). finish_reason: "eos" or "length". seconds: wall clock from the call until the row ended.
    """

    token_ids: list[int] = field(default_factory=list)
    calls: int = 0
    accepted: list[int] = field(default_factory=list)
    finish_reason: str = ""
    seconds: float = 0.0


@dataclass
class _Row:
    """One sequence on its way: its draft for the next pass and what is left to do."""

    index: int
    budget: int
    result: Generation
    tree: DraftTree


@dataclass
class _States:
    """What a pass leaves: main [B, n, h] as the head reads it, streams [B, m·g, h] raw, sources [B][m] their nodes."""

    main: Tensor
    streams: Tensor | None
    sources: list[list[int]]


class StreamDecoder:
    """Greedy decoding of one adapted model, with its streams or without."""

    def __init__(self, hooks: StreamHooks, streams: StreamModules | None, tree: TreeConfig | None = None) -> None:
        """`hooks` are on the model; `streams` None decodes plainly."""
        self.hooks = hooks
        self.backbone = hooks.backbone
        self.streams = streams
        self.tree = tree or TreeConfig()
        self.tree.check_tree()
        depth = 0 if streams is None else streams.config.num_streams
        self.depth = min(depth, self.tree.max_depth or depth)

    @torch.inference_mode()
    def generate(
        self, prompts: list[list[int]], max_new_tokens: int, eos_token_ids: set[int] | None = None
    ) -> list[Generation]:
        """Greedy continuation of each prompt (token ids), decoded as one batch.

        Raises:
            GenerationError: an empty prompt, or one that leaves no room in the model's context.
        """
        results = [Generation() for _ in prompts]
        for _ in self._passes(prompts, results, max_new_tokens, eos_token_ids or set()):
            pass
        return results

    def _passes(
        self, prompts: list[list[int]], results: list[Generation], max_new_tokens: int, eos: set[int]
    ) -> Iterator[None]:
        """Run the loop; yields after every pass, when each row's `results` entry is up to date."""
        begin = time.perf_counter()
        rows = [
            _Row(i, self._budget(prompt, max_new_tokens), result, DraftTree([prompt[-1]]))
            for i, (prompt, result) in enumerate(zip(prompts, results, strict=True))
        ]
        longest = max(len(prompt) + row.budget for prompt, row in zip(prompts, rows, strict=True))
        cache = self._new_cache(len(rows), longest + self.tree.max_nodes * (1 + self.depth))
        states = self._prompt_pass(prompts, cache)
        prompt_pass = True
        while True:
            paths, issued = self._verify(rows, states)
            if not prompt_pass:
                cache.keep(paths)
            for row, path, token in zip(rows, paths, issued, strict=True):
                self._extend(row, path, token, prompt_pass, eos, begin)
            prompt_pass = False
            active = [b for b, row in enumerate(rows) if not row.result.finish_reason]
            if active:
                self._draft(rows, active, states, paths, issued)
            yield
            if not active:
                return
            if len(active) < len(rows):
                rows = [rows[b] for b in active]
                cache.select(active)
            states = self._tree_pass(rows, cache)

    # -- passes -------------------------------------------------------------------------------------------------

    def _prompt_pass(self, prompts: list[list[int]], cache: TreeCache) -> _States:
        """All prompts at once, padded on the right, where causal rows do not see it; streams beside the last token."""
        device = cache.store.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        width = int(lengths.max())
        ids = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts], device=device)
        positions = torch.arange(width, device=device).expand(len(prompts), -1)
        last = (lengths - 1).unsqueeze(1)
        plan = StreamPlan(self.streams, last, self.depth) if self.streams is not None and self.depth else None
        hidden = self._forward(ids, positions, None, plan, cache)
        # The streams' slots and the padding lie behind the lengths set here: the next pass overwrites them.
        cache.lengths = lengths.tolist()
        main = hidden.gather(1, last.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        return _States(main, None if plan is None else plan.streams, [[0]] * len(prompts))

    def _tree_pass(self, rows: list[_Row], cache: TreeCache) -> _States:
        """One forward over every row's tree: [B, n] nodes, then g streams beside m of them."""
        trees = [row.tree for row in rows]
        nodes = max(len(tree) for tree in trees)
        device = cache.store.device
        ids = torch.tensor([tree.tokens + [0] * (nodes - len(tree)) for tree in trees], device=device)
        # A draft may point past the context's end; such nodes are never reached, but learned positions stop there.
        limit = self.backbone.context_length - 1
        positions = torch.tensor(
            [
                [min(length + depth, limit) for depth in tree.depths] + [0] * (nodes - len(tree))
                for tree, length in zip(trees, cache.lengths, strict=True)
            ],
            device=device,
        )
        sources = self._sources(trees) if self.depth else [[] for _ in rows]
        lower, upper = tree_masks(trees, cache.lengths, nodes, sources, self.depth, self._like(), self.backbone.window)
        plan = None
        if upper is not None and self.streams is not None:
            plan = StreamPlan(self.streams, torch.tensor(sources, device=device), self.depth, upper)
        hidden = self._forward(ids, positions, lower, plan, cache)
        return _States(hidden, None if plan is None else plan.streams, sources)

    def _forward(
        self, ids: Tensor, positions: Tensor, mask: Tensor | None, plan: StreamPlan | None, cache: TreeCache
    ) -> Tensor:
        """The decoder on ids [B, R] at positions [B, R]; returns what the head reads of the main rows [B, R, h]."""
        cache.begin(plan, ids.shape[1])
        arguments = {"input_ids": ids, "position_ids": positions, "attention_mask": mask, "past_key_values": cache}
        with self.hooks.use(plan) if plan is not None else nullcontext():
            return self.backbone.decoder(**arguments, use_cache=True).last_hidden_state

    def _sources(self, trees: list[DraftTree]) -> list[list[int]]:
        """[B][m] nodes that carry streams; a row with fewer nodes repeats its root, which costs nothing extra."""
        most = self.tree.max_stream_nodes or self.tree.max_nodes
        chosen = [list(range(len(tree))) if len(tree) <= most else sorted(stop_order(tree)[:most]) for tree in trees]
        width = max(len(nodes) for nodes in chosen)
        return [nodes + [0] * (width - len(nodes)) for nodes in chosen]

    # -- between passes -----------------------------------------------------------------------------------------

    def _verify(self, rows: list[_Row], states: _States) -> tuple[list[list[int]], list[int]]:
        """Accepted path of each row and the token that the main stream issues after it."""
        choices = self.backbone.logits(states.main).argmax(dim=-1).tolist()
        paths = [accept_greedy(row.tree, choice) for row, choice in zip(rows, choices, strict=True)]
        return paths, [choice[path[-1]] for choice, path in zip(choices, paths, strict=True)]

    def _extend(self, row: _Row, path: list[int], token: int, prompt_pass: bool, eos: set[int], begin: float) -> None:
        """Append the accepted nodes and the issued token; stop at the first EOS or when the budget is spent."""
        result = row.result
        result.calls += 1
        if not prompt_pass:
            depth = len(path) - 1
            result.accepted += [0] * (depth + 1 - len(result.accepted))
            result.accepted[depth] += 1
        for new in [*(row.tree.tokens[node] for node in path[1:]), token]:
            result.token_ids.append(new)
            if new in eos:
                result.finish_reason = "eos"
            elif len(result.token_ids) >= row.budget:
                result.finish_reason = "length"
            if result.finish_reason:
                result.seconds = time.perf_counter() - begin
                return

    def _draft(
        self, rows: list[_Row], active: list[int], states: _States, paths: list[list[int]], issued: list[int]
    ) -> None:
        """Grow the next tree of every active row from the streams of the node where its verification stopped."""
        for b in active:
            rows[b].tree = DraftTree([issued[b]])
        # Where verification stopped at a node without streams, the next pass has no draft.
        stops = {b: paths[b][-1] for b in active if states.streams is not None and paths[b][-1] in states.sources[b]}
        if not stops or states.streams is None:
            return
        streams = states.streams.unflatten(1, (-1, self.depth))  # [B, m, g, h]
        picked = torch.stack([streams[b, states.sources[b].index(node)] for b, node in stops.items()])
        scores = self.backbone.logits(self.backbone.finish(picked)).float()
        best, tokens = scores.topk(min(self.tree.top_k, scores.shape[-1]), dim=-1)
        best = best - scores.logsumexp(dim=-1, keepdim=True)
        for b, guesses, values in zip(stops, tokens.tolist(), best.tolist(), strict=True):
            left = rows[b].budget - len(rows[b].result.token_ids)
            rows[b].tree = grow_tree(issued[b], guesses, values, self.tree, max_depth=left - 1)

    # -- set-up -------------------------------------------------------------------------------------------------

    def _budget(self, prompt: list[int], max_new_tokens: int) -> int:
        """Tokens that this row may produce."""
        context = self.backbone.context_length
        if not prompt:
            raise GenerationError("a prompt has no tokens; give at least one, for example the BOS token")
        if max_new_tokens < 1:
            raise GenerationError(f"max_new_tokens={max_new_tokens}: at least one token must be asked for")
        if len(prompt) >= context:
            raise GenerationError(
                f"a prompt has {len(prompt)} tokens, but the model's context holds {context} and the answer needs room "
                "in it; shorten the prompt"
            )
        return min(max_new_tokens, context - len(prompt))

    def _new_cache(self, batch: int, size: int) -> TreeCache:
        config = self.backbone.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        return TreeCache(self.backbone.num_layers, batch, heads, size, width, self._like())

    def _like(self) -> Tensor:
        """A tensor of the dtype and device that keys, values and masks have."""
        return self.backbone.model.get_input_embeddings().weight
