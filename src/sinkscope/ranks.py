"""Several processes at one model, as torchrun starts them."""

import torch


def rank() -> int:
    """Rank of this process; 0 without torch.distributed."""
    distributed = torch.distributed
    return (
        distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
    )
