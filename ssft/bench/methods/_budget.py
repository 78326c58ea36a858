"""How many tokens may follow a prompt."""

from ssft.errors import GenerationError


def budget(prompt: list[int], context: int, max_new_tokens: int) -> int:
    """`max_new_tokens`, cut to what the model's context has room for; raises `GenerationError` if that is nothing."""
    if not 0 < len(prompt) < context:
        raise GenerationError(
            f"a prompt has {len(prompt)} tokens; it needs at least one and fewer than the model's context of "
            f"{context}; fill or shorten it, or take a base with a longer context"
        )
    return min(max_new_tokens, context - len(prompt))
