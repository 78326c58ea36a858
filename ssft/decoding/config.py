"""`TreeConfig`: how the draft tree of an adapter is grown from its streams."""

from dataclasses import asdict, dataclass, field
from typing import Any

from ssft.errors import ConfigError, GenerationError
from ssft.schema import BELOW_ONE, check_fields, shown

TREE_KINDS = ("best_first", "k_ary", "chain")
FIXED, AUTO = "fixed", "auto"
BUDGETS = (FIXED, AUTO)
MAX_NODES = 512


@dataclass
class TreeConfig:
    """Shape of the draft tree. `max_nodes` counts every row that one pass verifies, the root included.

    - `chain`: one node per depth, the best token of each stream.
    - `k_ary`: the paper's full tree (§3.2.2): every node at depth d has the `top_k` best tokens of stream d+1.
    - `best_first`: nodes in the order of the streams' joint log-probability until `max_nodes` are taken.

    With `lookup` the tokens that a node's own path finds earlier in the row stand beside those of the stream under each
    node, and alone below the streams' depth: in a chain the likelier of the two, else the `top_k` likeliest of both.

    The budget is fixed unless it is said to be `auto`: who writes a tree down then knows its passes, on every machine.
    """

    kind: str = field(default="best_first", metadata={"help": "chain, k_ary (the paper's full tree) or best_first"})
    max_nodes: int = field(
        default=16, metadata={"help": "rows that one pass verifies, the root included; more draft, dearer passes"}
    )
    top_k: int = field(default=4, metadata={"help": "k: most tokens taken from one stream under one node"})
    max_depth: int = field(
        default=0, metadata={"help": "deepest draft node; 0: as deep as the streams reach (γ), and any lookup"}
    )

    max_stream_nodes: int = field(
        default=0,
        metadata={
            "help": "nodes of the tree that carry streams, those first at which verification most likely stops; 0: "
            "all. Fewer rows make a pass cheaper, but a stop elsewhere leaves the next pass without a draft"
        },
    )

    max_batch_nodes: int = field(
        default=0,
        metadata={
            "help": "nodes of all rows of a batch together; 0: no limit. Rows share a pass's cost, so what pays for "
            "one row may not for eight; each row keeps at least two nodes, and gets more as others end"
        },
    )

    budget: str = field(
        default=FIXED,
        metadata={
            "help": "'fixed': every tree has the nodes and stream nodes that are set here; 'auto': these numbers are "
            "the most, and every pass takes what pays by the measured cost of a pass and by what was accepted so far"
        },
    )

    lookup: bool = field(
        default=False,
        metadata={
            "help": "whether tokens that came earlier in the prompt or the answer after the same last tokens are "
            "drafted beside the streams' guesses, deeper than those reach; for answers that copy, such as summaries"
        },
    )

    prune_below: BELOW_ONE = field(
        default=0.0,
        metadata={
            "help": "branches under a token whose probability after its parent, by the adapter's prune head, is below "
            "that are dropped in the middle of a pass; 0: none. The text stays as it is"
        },
    )

    prune_keep: int = field(
        default=0,
        metadata={
            "help": "most nodes of a tree that go on from the middle of a pass, the root included: those whose paths "
            "are likeliest by the adapter's prune head; 0: all"
        },
    )

    def nodes_in_batch(self, rows: int) -> int:
        """Node budget of one row's tree while `rows` rows share a pass."""
        return min(self.max_nodes, max(2, self.max_batch_nodes // rows)) if self.max_batch_nodes else self.max_nodes

    @property
    def prunes(self) -> bool:
        """Whether branches are to be dropped inside a pass (`decoding/prune.py`)."""
        return bool(self.prune_below or self.prune_keep)

    @property
    def width(self) -> int:
        """Most tokens of one stream that stand under one node."""
        return 1 if self.kind == "chain" else self.top_k

    def __post_init__(self) -> None:
        self.check_tree()

    @property
    def size(self) -> str:
        """How many nodes a tree has, in words."""
        return f"up to {self.max_nodes} nodes as they pay" if self.budget == AUTO else f"{self.max_nodes} nodes"

    def check_tree(self) -> None:
        """Raise `ConfigError` if a field is of another type or out of range, as the constructor does."""
        check_fields(self, TreeConfig, "tree")
        if self.kind not in TREE_KINDS:
            raise ConfigError(f"tree.kind={repr(self.kind)[:60]}: expected one of {', '.join(TREE_KINDS)}")
        if self.budget not in BUDGETS:
            raise ConfigError(f"tree.budget={repr(self.budget)[:60]}: expected one of {', '.join(BUDGETS)}")
        if not 1 <= self.max_nodes <= MAX_NODES:
            raise ConfigError(f"tree.max_nodes={shown(self.max_nodes)}: must lie between 1 and {MAX_NODES}")
        if self.top_k < 1:
            raise ConfigError(f"tree.top_k={shown(self.top_k)}: at least one token per stream is needed")
        if self.max_depth < 0:
            raise ConfigError(f"tree.max_depth={shown(self.max_depth)}: 0 (as deep as the streams) or a positive depth")
        if self.max_stream_nodes < 0:
            raise ConfigError(
                f"tree.max_stream_nodes={shown(self.max_stream_nodes)}: 0 (all nodes) or a positive number"
            )
        if self.max_batch_nodes < 0:
            raise ConfigError(f"tree.max_batch_nodes={shown(self.max_batch_nodes)}: 0 (no limit) or a positive number")
        if self.prune_keep < 0:
            raise ConfigError(f"tree.prune_keep={shown(self.prune_keep)}: 0 (all nodes) or a positive number")

    def check_prune_head(self, rank: int) -> None:
        """Raise `GenerationError` if branches are to be dropped and the adapter has no prune head: `rank` is its θ."""
        if self.prunes and not rank:
            raise GenerationError(
                f"tree.prune_below={self.prune_below:g}, tree.prune_keep={self.prune_keep}: the adapter has no prune "
                "head that could say which branches are likely; leave both out, or give it one with `ssft train RECIPE "
                "method=prune_head adapter=FOLDER training.prune_head_rank=8`"
            )

    def tree_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return asdict(self)
