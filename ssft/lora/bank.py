"""`AdapterBank`: the loaded adapters, which of them are on the model's device, and who has to make room.

An adapter is *resident* (on the device), on the *host* (bit-equal copy, accelerators only) or on *disk* (its folder).
With a byte budget the least recently used adapter that no call is using goes; a call that needs it brings it back.
"""

import itertools
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from torch import Tensor

from ssft.bundle.fit import load_stream_modules, read_fitting
from ssft.bundle.format import Bundle
from ssft.bundle.hub import resolve_adapter
from ssft.bundle.read import read_bundle
from ssft.bundle.vocabulary import vocabulary_for
from ssft.decoding.config import TreeConfig
from ssft.decoding.draft.forced import ForcedDrafter
from ssft.decoding.draft.streams import StreamDrafter
from ssft.decoding.draft.vocabulary import DraftVocabulary
from ssft.errors import BundleError, ConfigError, GenerationError, SSFTError
from ssft.lora.vocabulary import draft_vocabulary
from ssft.lora.weights import LoraWeights
from ssft.schema import WHOLE, check
from ssft.streams.modules import StreamModules

EVICTION_TARGETS = ("host", "disk")

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Adapter:
    """One loaded adapter, or the bare base, which is an adapter that has nothing.

    bundle: the folder that it was read from; None for the bare base. `lora` is None while it is evicted, and so is
    `vocabulary`, the head's rows for the token ids that its streams guess from; those ids (`draft_ids`; None: all) and
    its streams, some kilobytes, always stay. unguessed: what drafts for its rows where it has no streams.
    """

    name: str
    bundle: Bundle | None = None
    streams: StreamModules | None = None
    tree: TreeConfig = field(default_factory=TreeConfig)
    lora: LoraWeights | None = None
    draft_ids: Tensor | None = field(default=None, repr=False)
    vocabulary: DraftVocabulary | None = field(default=None, repr=False)
    unguessed: ForcedDrafter = field(default_factory=ForcedDrafter, repr=False)
    nbytes: int = 0
    pinned: bool = False
    host: LoraWeights | None = field(default=None, repr=False)
    holders: list[int] = field(default_factory=list, repr=False)  # threads whose calls run with it
    last_used: int = 0

    @property
    def users(self) -> int:
        """Calls that run with it."""
        return len(self.holders)

    @property
    def drafter(self) -> StreamDrafter | None:
        """What drafts for its rows; None where it has no streams."""
        return None if self.streams is None else StreamDrafter(self.streams, self.vocabulary)

    @property
    def extra_parameters(self) -> int:
        """Parameters beside base and the text's LoRA: P_j, f_η, and a LoRA of the streams' own where they have one."""
        own = 0 if self.bundle is None else sum(part.parameters for part in self.bundle.loras[1:])
        return own + (0 if self.streams is None else self.streams.count())

    @property
    def tier(self) -> str:
        """Where its LoRA is: "device", "host" or "disk"."""
        return "device" if self.lora is not None else "host" if self.host is not None else "disk"


class AdapterBank:
    """Adapters by name under a byte budget; every method may be called from several threads."""

    def __init__(self, model: Any, fingerprint: dict[str, str], max_bytes: int | None, evict_to: str | None) -> None:
        """`max_bytes` None: no limit. `evict_to` None: "host" for an accelerator, "disk" on the CPU."""
        on_cpu = model.device.type == "cpu"
        check(Annotated[int, WHOLE] | None, max_bytes, "max_adapter_bytes")
        if max_bytes is not None and max_bytes < 1:
            raise ConfigError(f"max_adapter_bytes={max_bytes}: a positive number of bytes, or None for no limit")
        if evict_to is not None and evict_to not in EVICTION_TARGETS:
            raise ConfigError(f"evict_to={evict_to!r}: expected one of {', '.join(EVICTION_TARGETS)}")
        if evict_to == "host" and on_cpu:
            raise ConfigError("evict_to='host': the model is on the host itself, nothing would be gained; use 'disk'")
        self.model = model
        self.fingerprint = fingerprint
        self.max_bytes = max_bytes
        self.evict_to = evict_to or ("disk" if on_cpu else "host")
        self.bare = Adapter("base")
        self._adapters: dict[str, Adapter] = {}
        self._departed: list[Adapter] = []  # deleted while a call was using them: they still take their bytes
        self._changed = threading.Condition()
        self._clock = itertools.count(1)

    # -- the shelf ----------------------------------------------------------------------------------------------

    def __contains__(self, name: str) -> bool:
        return name in self._adapters

    def all(self) -> dict[str, Adapter]:
        """All loaded adapters by name, in the order of loading."""
        with self._changed:
            return dict(self._adapters)

    def get(self, name: str | None) -> Adapter:
        """The adapter of that name, wherever its tensors are; None is the bare base."""
        if name is None:
            return self.bare
        if not isinstance(name, str) or name not in self._adapters:
            known = ", ".join(map(repr, self._adapters)) or "none"
            raise ConfigError(f"adapter {name!r} is not loaded; loaded are: {known}. Call load_adapter first")
        return self._adapters[name]

    def _own(self, name: str) -> Adapter:
        if name is None:
            raise ConfigError("None is the bare base, which stays as it is; give the name of a loaded adapter")
        return self.get(name)

    def add(
        self, name: str, path: Any, *, pinned: bool = False, tree: TreeConfig | None = None, merged: bool = False
    ) -> None:
        """Read, check and keep the adapter at `path` (folder or owner/name); nothing changes if anything is wrong.

        merged: the base's weights hold the text's LoRA already.
        """
        self._check_free(name)
        bundle = read_fitting(resolve_adapter(path), self.model, self.fingerprint)
        streams = None
        if bundle.stream_config is not None:
            streams = load_stream_modules(bundle, self.model.config.hidden_size).to(self.model.device)
        lora = LoraWeights.from_bundle(bundle, self.model, merged=merged)
        ids = vocabulary_for(bundle, self.model.config.vocab_size)
        bundle.release()
        adapter = Adapter(name, bundle, streams, tree or bundle.tree, draft_ids=ids, pinned=pinned)
        adapter.vocabulary = self._vocabulary(adapter, lora)
        adapter.nbytes = lora.nbytes + (0 if streams is None else sum(p.nbytes for p in streams.parameters()))
        adapter.nbytes += 0 if adapter.vocabulary is None else adapter.vocabulary.nbytes
        self.put(adapter, lora)

    def put(self, adapter: Adapter, lora: LoraWeights) -> None:
        """Keep an adapter whose LoRA is `lora`, on the device if the budget has room for it."""
        with self._changed:
            self._check_free(adapter.name)
            self._check_budget([adapter], ConfigError)
            if self._make_room(adapter.nbytes, keep=set()):
                adapter.lora = lora
            else:
                self._evict(adapter, lora)
            adapter.last_used = next(self._clock)
            self._adapters[adapter.name] = adapter

    def remove(self, name: str) -> None:
        """Forget an adapter; calls that are using it finish with it."""
        with self._changed:
            adapter = self._own(name)
            del self._adapters[name]
            if adapter.users:
                self._departed.append(adapter)
            self._changed.notify_all()

    def pin(self, name: str, pinned: bool = True) -> None:
        """Keep an adapter on the device whatever the budget, or let it go again."""
        with self._changed:
            adapter = self._own(name)
            if pinned:
                self._check_budget([adapter], ConfigError)
            adapter.pinned = pinned
            self._changed.notify_all()

    # -- residency ----------------------------------------------------------------------------------------------

    @contextmanager
    def in_use(self, names: Sequence[str | None]) -> Iterator[dict[str | None, Adapter]]:
        """Hold these adapters on the device while a call runs; waits where other calls occupy the budget."""
        # A generator may be closed by another thread than the one that began it.
        holder = threading.get_ident()
        held = self._acquire(sorted({name for name in names if name is not None}))
        try:
            yield {None: self.bare, **{adapter.name: adapter for adapter in held}}
        finally:
            with self._changed:
                for adapter in held:
                    adapter.holders.remove(holder)
                self._departed = [adapter for adapter in self._departed if adapter.users]
                self._changed.notify_all()

    def resident_bytes(self) -> int:
        """Bytes of adapters on the device, those that were deleted during a call and still run included."""
        with self._changed:
            return sum(a.nbytes for a in [*self._adapters.values(), *self._departed] if a.lora is not None)

    def _acquire(self, names: list[str]) -> list[Adapter]:
        """All or none at once, so that two calls never wait for each other's halves."""
        with self._changed:
            while True:
                adapters = [self.get(name) for name in names]
                missing = [adapter for adapter in adapters if adapter.lora is None]
                if self._make_room(sum(a.nbytes for a in missing), keep=set(names)):
                    break
                self._check_budget(adapters, GenerationError)
                self._check_waiting_helps(adapters)
                self._changed.wait()
            for adapter in missing:
                adapter.lora, adapter.host = self._bring_back(adapter), None
                adapter.vocabulary = self._vocabulary(adapter, adapter.lora)
            for adapter in adapters:
                adapter.holders.append(threading.get_ident())
                adapter.last_used = next(self._clock)
            return adapters

    def _check_waiting_helps(self, adapters: list[Adapter]) -> None:
        """Raise `GenerationError` unless the call of another thread is to end, and with it room for `adapters`."""
        others = [a for a in [*self._adapters.values(), *self._departed] if a not in adapters and a.lora is not None]
        used = [a for a in others if a.users]
        if any(holder != threading.get_ident() for a in used for holder in a.holders):
            return
        wanted = " and ".join(repr(a.name) for a in adapters)
        if used:
            names = " and ".join(repr(a.name) for a in used)
            raise GenerationError(
                f"there is no room for {wanted} beside {names}, which this very thread holds by a stream that has not "
                "ended; read it to its end or close it first, or raise max_adapter_bytes"
            )
        kept = " and ".join(repr(a.name) for a in others if not a.pinned)
        raise GenerationError(
            f"there is no room for {wanted}: the folder of {kept} changed since it was loaded, so memory holds the "
            "only copy; delete_adapter it and load it anew, or raise max_adapter_bytes"
        )

    def _make_room(self, nbytes: int, keep: set[str]) -> bool:
        """Evict, least recently used first, until `nbytes` more fit; False, with nothing changed, if they cannot."""
        if self.max_bytes is None or nbytes == 0:
            return True
        excess = self.resident_bytes() + nbytes - self.max_bytes
        leaving: list[Adapter] = []
        for adapter in sorted(self._adapters.values(), key=lambda a: a.last_used):
            if excess <= 0:
                break
            if adapter.lora is None or adapter.pinned or adapter.users or adapter.name in keep:
                continue
            assert adapter.bundle is not None
            if self.evict_to == "disk" and not adapter.bundle.unchanged():
                _log.warning("%s changed since it was loaded; %r stays in memory", adapter.bundle.path, adapter.name)
                continue
            leaving.append(adapter)
            excess -= adapter.nbytes
        if excess > 0:
            return False
        for adapter in leaving:
            self._evict(adapter, adapter.lora)
        return True

    def _evict(self, adapter: Adapter, lora: LoraWeights | None) -> None:
        adapter.host = lora.to_host() if lora is not None and self.evict_to == "host" else None
        adapter.lora = adapter.vocabulary = None

    def _vocabulary(self, adapter: Adapter, lora: LoraWeights) -> DraftVocabulary | None:
        """The head's rows that the streams of an adapter guess from, its LoRA being on the device."""
        return draft_vocabulary(self.model, adapter.draft_ids, lora.layers)

    def _bring_back(self, adapter: Adapter) -> LoraWeights:
        if adapter.host is not None:
            return adapter.host.to_devices(self.model)
        assert adapter.bundle is not None
        bundle = read_bundle(adapter.bundle.path)
        if bundle.weights_sha256 != adapter.bundle.weights_sha256:
            raise BundleError(
                f"{adapter.bundle.path} changed since {adapter.name!r} was loaded from it, and its tensors were "
                "evicted to disk; delete_adapter and load_adapter it anew"
            )
        return LoraWeights.from_bundle(bundle, self.model)

    def _check_budget(self, adapters: list[Adapter], error: type[SSFTError]) -> None:
        """Raise `error` if these adapters cannot be on the device together, be it for the pinned ones."""
        needed = sum(adapter.nbytes for adapter in adapters)
        pinned = sum(a.nbytes for a in self._adapters.values() if a.pinned and a not in adapters)
        if self.max_bytes is not None and needed + pinned > self.max_bytes:
            names = ", ".join(repr(adapter.name) for adapter in adapters)
            raise error(
                f"holding {names} on the device takes {needed:,} bytes beside {pinned:,} of pinned adapters, but "
                f"max_adapter_bytes is {self.max_bytes:,}; raise it, unpin one, or send the rows in several calls"
            )

    def _check_free(self, name: str) -> None:
        if name in self._adapters:
            raise ConfigError(f"an adapter named {name!r} is loaded already; delete_adapter it, or give another name")
