"""What a CUDA graph does, on a CPU: operators are recorded with the very tensors that they read, and run again on them.

Nothing of Python runs in a replay. So whatever the code reads on the host, be it a length or a mask that it makes
anew, is in the replay what it was while recording, as on a GPU.
"""

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssft.decoding.graphs import NoHostReads


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
        given = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
        writes = func._schema.is_mutable
        # What shares memory with an argument is a view of it, and follows it by itself.
        fresh = [not any(same_memory(t, other) for other in given) for t in made]
        if writes or any(fresh):
            self.calls.append((func, args, kwargs or {}, made, fresh))
        return output

    def replay(self):
        for func, args, kwargs, made, fresh in self.calls:
            again = [t for t in tree_leaves(func(*args, **kwargs)) if isinstance(t, Tensor)]
            for old, new, is_fresh in zip(made, again, fresh, strict=True):
                if is_fresh:
                    old.copy_(new)


def same_memory(a, b):
    if a is b:
        return True
    if a.is_mkldnn or b.is_mkldnn:
        return False
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


class Recording:
    """A capture for `StaticStep`; counts captures and replays."""

    def __init__(self):
        self.captures = self.replays = 0

    def __call__(self, forward):
        self.captures += 1
        with NoHostReads():
            forward()
        with Recorder() as recorder:
            output = forward()
        # What a capture computes is worth nothing, as on a GPU.
        for tensor in output:
            if tensor is not None:
                tensor.fill_(float("nan"))

        def replay():
            self.replays += 1
            recorder.replay()
            return output

        return replay
