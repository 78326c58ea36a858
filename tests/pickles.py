"""A pickle that shows whether anything loads it."""

import io

import torch


class Payload:
    """Unpickled, it writes the file `marker`."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def pickled(marker):
    """Bytes of a pickle as torch.save writes it, which leaves the file `marker` where something loads it."""
    buffer = io.BytesIO()
    torch.save({"weight": Payload(marker)}, buffer)
    return buffer.getvalue()
