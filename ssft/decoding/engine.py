"""The decoding loop: each pass verifies the last draft tree and makes the next (paper §3.2.2, appendix A.1).

Every row of a batch has its own length, streams, tree and adapter. Plain decoding is the same loop with trees of one
node and no streams, so a comparison of the two differs in nothing but the speculation.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssft.decoding.cache import TreeCache
from ssft.decoding.config import TreeConfig
from ssft.decoding.masks import tree_masks
from ssft.decoding.request import Generation, Request
from ssft.decoding.tree import DraftTree, grow_tree, stop_order
from ssft.decoding.verify import accept_greedy
from ssft.errors import GenerationError
from ssft.streams.insertion import StreamHooks
from ssft.streams.mixed import streams_of_rows
from ssft.streams.modules import StreamModules
from ssft.streams.plan import StreamPlan

Route = Callable[[list[Any]], AbstractContextManager[Any]]
"""The adapters of a batch's rows -> a context in which the model applies them, each to its own rows."""


@dataclass
class Row:
    """One sequence on its way: its draft for the next pass and what is left to do."""

    index: int
    request: Request
    budget: int
    result: Generation
    tree: DraftTree

    def reason_to_stop(self, token: int) -> str:
        """Why `token`, just appended to the result, is the last; empty if it is not."""
        request, produced = self.request, self.result.token_ids
        if token in request.eos_token_ids:
            return "eos"
        if token in request.stop_token_ids or (request.stop is not None and request.stop(produced)):
            return "stop"
        return "length" if len(produced) >= self.budget else ""


@dataclass
class States:
    """What a pass leaves: main [B, n, h] as the head reads it, streams [B, m, g, h] raw, sources [B][m] their nodes."""

    main: Tensor
    streams: Tensor | None
    sources: list[list[int]]


class Engine:
    """Greedy decoding of requests on one model, as one batch per call."""

    def __init__(
        self, hooks: StreamHooks, route: Route | None = None, turn: AbstractContextManager[Any] | None = None
    ) -> None:
        """`hooks` are on the model; `route` applies the requests' adapters; `turn` is held during every pass."""
        self.hooks = hooks
        self.backbone = hooks.backbone
        self.route = route or (lambda _adapters: nullcontext())
        self.turn = turn or nullcontext()

    def decode(self, requests: list[Request]) -> Iterator[list[Generation]]:
        """Run all requests as one batch; yields after every pass, when each request's `Generation` is up to date.

        Closing the iterator ends the work between two passes. Rows with one adapter should stand side by side.

        Raises:
            GenerationError: an empty prompt, or one that leaves no room in the model's context.
        """
        begin = time.perf_counter()
        rows = [
            Row(i, request, self._budget(request), Generation(), DraftTree([request.prompt[-1]]))
            for i, request in enumerate(requests)
        ]
        results = [row.result for row in rows]
        cache: TreeCache | None = None
        while rows:
            # The adapters are in force for the head too, which may carry one.
            with self.turn, torch.inference_mode(), self._routed(rows):
                prompt_pass = cache is None
                if cache is None:
                    cache = self._new_cache(rows)
                    states = self._prompt_pass(rows, cache)
                else:
                    states = self._tree_pass(rows, cache)
                paths, issued = self._verify(rows, states)
                if not prompt_pass:
                    cache.keep(paths)
                for row, path, token in zip(rows, paths, issued, strict=True):
                    self._extend(row, path, token, prompt_pass, begin)
                active = [b for b, row in enumerate(rows) if not row.result.finish_reason]
                if active:
                    self._draft(rows, active, states, paths, issued)
                if 0 < len(active) < len(rows):
                    cache.select(active)
            rows = [rows[b] for b in active]
            yield results

    # -- passes -------------------------------------------------------------------------------------------------

    def _prompt_pass(self, rows: list[Row], cache: TreeCache) -> States:
        """All prompts at once, padded on the right, where causal rows do not see it; streams beside the last token."""
        prompts = [row.request.prompt for row in rows]
        device = cache.store.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        width = int(lengths.max())
        ids = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts], device=device)
        positions = torch.arange(width, device=device).expand(len(prompts), -1)
        last = (lengths - 1).unsqueeze(1)
        hidden, streams = self._forward(rows, ids, positions, None, self._plan(rows, last, None), cache)
        # The streams' slots and the padding lie behind the lengths set here: the next pass overwrites them.
        cache.lengths = lengths.tolist()
        main = hidden.gather(1, last.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        return States(main, streams, [[0]] * len(prompts))

    def _tree_pass(self, rows: list[Row], cache: TreeCache) -> States:
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
        sources = self._sources(rows)
        depth = max(row.request.depth for row in rows)
        lower, upper = tree_masks(trees, cache.lengths, nodes, sources, depth, self._like(), self.backbone.window)
        plan = None if upper is None else self._plan(rows, torch.tensor(sources, device=device), upper)
        hidden, streams = self._forward(rows, ids, positions, lower, plan, cache)
        return States(hidden, streams, sources)

    def _plan(self, rows: list[Row], sources: Tensor, mask: Tensor | None) -> StreamPlan | None:
        """As many streams beside each of sources [B, m] as the row with most of them uses; None if no row has any."""
        # A tree of depth 0 uses no stream of its adapter.
        modules = streams_of_rows([row.request.streams if row.request.depth else None for row in rows])
        depth = max(row.request.depth for row in rows)
        return None if modules is None else StreamPlan(modules, sources, depth, mask)

    def _forward(
        self,
        rows: list[Row],
        ids: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        plan: StreamPlan | None,
        cache: TreeCache,
    ) -> tuple[Tensor, Tensor | None]:
        """The decoder on ids [B, R]: what the head reads of the main rows [B, R, h], and streams [B, m, g, h] raw."""
        cache.begin(plan, ids.shape[1])
        arguments = {"input_ids": ids, "position_ids": positions, "attention_mask": mask, "past_key_values": cache}
        with self.hooks.use(plan) if plan is not None else nullcontext():
            hidden = self.backbone.decoder(**arguments, use_cache=True).last_hidden_state
        if plan is None or plan.streams is None:
            return hidden, None
        return hidden, plan.streams.unflatten(1, (-1, plan.num_streams))

    def _sources(self, rows: list[Row]) -> list[list[int]]:
        """[B][m] nodes that carry streams; a row with fewer nodes repeats its root, which costs nothing extra."""
        chosen = []
        for row in rows:
            most = row.request.tree.max_stream_nodes or row.request.tree.max_nodes
            nodes = list(range(len(row.tree))) if len(row.tree) <= most else sorted(stop_order(row.tree)[:most])
            chosen.append(nodes if row.request.depth else [])
        width = max(len(nodes) for nodes in chosen)
        return [nodes + [0] * (width - len(nodes)) for nodes in chosen]

    # -- between passes -----------------------------------------------------------------------------------------

    def _verify(self, rows: list[Row], states: States) -> tuple[list[list[int]], list[int]]:
        """Accepted path of each row and the token that the main stream issues after it."""
        logits = self.backbone.logits(states.main)
        choices = logits.argmax(dim=-1).tolist()
        paths, issued = [], []
        for b, row in enumerate(rows):
            choose = self._processed(row, logits[b]) if row.request.processors else _chosen(choices[b])
            path, token = accept_greedy(row.tree, choose)
            paths.append(path)
            issued.append(token)
        return paths, issued

    def _processed(self, row: Row, logits: Tensor) -> Callable[[list[int]], int]:
        """Choices after the row's logits processors: each node of logits [n, V] with its own path as history."""
        # The last of these is the root of the tree.
        history = row.request.prompt + row.result.token_ids

        def choose(path: list[int]) -> int:
            ids = torch.tensor([history + [row.tree.tokens[node] for node in path[1:]]], device=logits.device)
            scores = logits[path[-1]].unsqueeze(0).to(torch.float32, copy=True)
            for processor in row.request.processors:
                scores = processor(ids, scores)
            return int(scores.argmax(dim=-1))

        return choose

    def _extend(self, row: Row, path: list[int], token: int, prompt_pass: bool, begin: float) -> None:
        """Append the accepted nodes and the issued token up to the first at which the row ends."""
        result = row.result
        result.calls += 1
        if prompt_pass:
            result.prompt_seconds = time.perf_counter() - begin
        else:
            depth = len(path) - 1
            result.accepted += [0] * (depth + 1 - len(result.accepted))
            result.accepted[depth] += 1
        for new in [*(row.tree.tokens[node] for node in path[1:]), token]:
            result.token_ids.append(new)
            result.finish_reason = row.reason_to_stop(new)
            if result.finish_reason:
                result.seconds = time.perf_counter() - begin
                return

    def _draft(
        self, rows: list[Row], active: list[int], states: States, paths: list[list[int]], issued: list[int]
    ) -> None:
        """Grow the next tree of every active row from the guesses for the tokens after the one just issued."""
        for b in active:
            rows[b].tree = DraftTree([issued[b]])
        depths, scores = self._guesses(rows, active, states, paths)
        if scores is None:
            return
        width = max(rows[b].request.tree.top_k for b in depths)
        best, tokens = scores.topk(min(width, scores.shape[-1]), dim=-1)
        best = best - scores.logsumexp(dim=-1, keepdim=True)
        for (b, depth), guesses, values in zip(depths.items(), tokens.tolist(), best.tolist(), strict=True):
            request = rows[b].request
            left = rows[b].budget - len(rows[b].result.token_ids)
            nodes = request.tree.nodes_in_batch(len(active))
            rows[b].tree = grow_tree(issued[b], guesses[:depth], values[:depth], request.tree, left - 1, nodes)

    def _guesses(
        self, rows: list[Row], active: list[int], states: States, paths: list[list[int]]
    ) -> tuple[dict[int, int], Tensor | None]:
        """Logits for the tokens after the issued one, from the streams of the node where verification stopped.

        Returns:
            The d rows that get a draft, each with how many of its guesses it uses, and logits [d, g, V] in float32.
        """
        if states.streams is None:
            return {}, None
        # Where verification stopped at a node without streams, the next pass has no draft.
        stops = {b: paths[b][-1] for b in active if rows[b].request.depth and paths[b][-1] in states.sources[b]}
        if not stops:
            return {}, None
        picked = torch.stack([states.streams[b, states.sources[b].index(node)] for b, node in stops.items()])
        with self._routed([rows[b] for b in stops]):
            scores = self.backbone.logits(self.backbone.finish(picked)).float()
        return {b: rows[b].request.depth for b in stops}, scores

    # -- set-up -------------------------------------------------------------------------------------------------

    def _routed(self, rows: list[Row]) -> AbstractContextManager[Any]:
        return self.route([row.request.adapter for row in rows])

    def _budget(self, request: Request) -> int:
        """Tokens that this request may produce."""
        context = self.backbone.context_length
        if not request.prompt:
            raise GenerationError("a prompt has no tokens; give at least one, for example the BOS token")
        if request.max_new_tokens < 1:
            raise GenerationError(
                f"max_new_tokens={request.max_new_tokens}: at least one token must be asked for; raise max_new_tokens"
            )
        if len(request.prompt) >= context:
            raise GenerationError(
                f"a prompt has {len(request.prompt)} tokens, but the model's context holds {context} and the answer "
                "needs room in it; shorten the prompt"
            )
        return min(request.max_new_tokens, context - len(request.prompt))

    def _new_cache(self, rows: list[Row]) -> TreeCache:
        """Room for the longest row and, behind it, one pass of tree nodes and their streams."""
        config = self.backbone.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        longest = max(len(row.request.prompt) + row.budget for row in rows)
        nodes = max(row.request.tree.max_nodes for row in rows)
        size = longest + nodes * (1 + max(row.request.depth for row in rows))
        return TreeCache(self.backbone.num_layers, len(rows), heads, size, width, self._like())

    def _like(self) -> Tensor:
        """A tensor of the dtype and device that keys, values and masks have."""
        return self.backbone.model.get_input_embeddings().weight


class StreamDecoder(Engine):
    """Greedy decoding of one adapted model, with its streams or without."""

    def __init__(
        self,
        hooks: StreamHooks,
        streams: StreamModules | None,
        tree: TreeConfig | None = None,
        route: Route | None = None,
        adapter: Any = None,
    ) -> None:
        """`hooks` are on the model; `streams` None decodes plainly; `adapter` is what `route` applies to every row."""
        super().__init__(hooks, route)
        self.streams = streams
        self.tree = tree or TreeConfig()
        self.tree.check_tree()
        self.adapter = adapter

    def generate(
        self, prompts: list[list[int]], max_new_tokens: int, eos_token_ids: set[int] | None = None
    ) -> list[Generation]:
        """Greedy continuation of each prompt (token ids), decoded as one batch.

        Raises:
            GenerationError: an empty prompt, or one that leaves no room in the model's context.
        """
        eos = frozenset(eos_token_ids or ())
        requests = [
            Request(prompt, max_new_tokens, self.streams, self.tree, self.adapter, eos_token_ids=eos)
            for prompt in prompts
        ]
        results: list[Generation] = []
        for results in self.decode(requests):  # noqa: B007 (the last one is whole)
            pass
        return results


def _chosen(choices: list[int]) -> Callable[[list[int]], int]:
    """The main stream's own choices [n] as a function of the path."""
    return lambda path: choices[path[-1]]
