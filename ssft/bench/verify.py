"""Whether decoding with streams gives the tokens of plain greedy decoding, prompt by prompt."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ssft.bench.bits import first_operation
from ssft.bench.identity import add_margins, compare_outputs
from ssft.bench.methods import Setting, build_methods
from ssft.errors import ConfigError
from ssft.runtime.batching import run_in_batches

if TYPE_CHECKING:
    from ssft.bench.methods import DecodingMethod
    from ssft.decoding.request import Generation
    from ssft.runtime.model import MultiAdapterModel


def verify(
    adapted: "MultiAdapterModel",
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    batch_size: int = 1,
    against: str = "plain",
) -> dict[str, Any]:
    """The fields of a `VerifyResult` that say what was found, with the active adapter, whose tokens are compared with
    those of the method `against`. Raises `ConfigError` if the adapter has no streams."""
    if adapted.active.streams is None:
        raise ConfigError(
            f"{adapted.active.name!r} has no streams, so there is nothing to verify; give an adapter that `ssft train` "
            "wrote"
        )
    methods = build_methods([against, "streaming"], Setting(adapted, max_new_tokens, batch_size))

    def decoded(method: "DecodingMethod") -> "list[Generation]":
        lengths = [len(prompt) for prompt in prompts]
        return run_in_batches(lengths, batch_size, lambda batch: method.run([prompts[i] for i in batch]), progress=True)

    reference, streamed = map(decoded, methods.values())
    expected, got = ([result.token_ids for result in results] for results in (reference, streamed))
    differences = compare_outputs(expected, got)
    add_margins(adapted, list(prompts), expected, differences)
    operation = None
    if differences and against == "plain":
        row = differences[0].row
        row_ids, others = prompts[row] + expected[row], [ids for ids in prompts if ids != prompts[row]]
        operation = first_operation(adapted, row_ids, others[0] if others else row_ids[:-1])
    return {
        "identical": len(prompts) - len(differences),
        "differences": differences,
        "operation": operation,
        "against": against,
        "tokens": sum(map(len, got)),
        "calls": sum(result.calls for result in streamed),
    }
