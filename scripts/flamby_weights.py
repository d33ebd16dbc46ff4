"""Write FLamby's initial weights of a logistic regression, one file for each seed.

FLamby calls `torch.manual_seed(seed)` and makes `nn.Linear(13, 1)`. A run reads a file by `model.init_from`:

    python scripts/flamby_weights.py FOLDER
    python -m fedlit.train -m experiment=heart_disease 'seed=range(42,62)' 'model.init_from=FOLDER/${seed}.safetensors'
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

FEATURES = 13


def main() -> None:
    """Write the weights of the seeds `--first` to `--last`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first", type=int, default=42)
    parser.add_argument("--last", type=int, default=61)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.first, arguments.last + 1):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(FEATURES, 1)
        tensors = {f"network.linear.{name}": tensor.detach() for name, tensor in layer.named_parameters()}
        save_file(tensors, arguments.folder / f"{seed}.safetensors")


if __name__ == "__main__":
    main()
