"""Run by SAELens' own interpreter: `saelens_load.py RAW.npy FOLDER SCRATCH` loads every SAE in FOLDER, runs it
on RAW, and leaves latents and output as SCRATCH/NAME.npz."""

import sys
from pathlib import Path

import numpy as np
import torch
from sae_lens import SAE

raw, folder, scratch = np.load(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
torch.set_num_threads(1)
for path in sorted(folder.iterdir()):
    sae = SAE.load_from_disk(path)
    with torch.no_grad():
        latents = sae.encode(torch.from_numpy(raw))
        output = sae(torch.from_numpy(raw))
    np.savez(scratch / f"{path.name}.npz", latents=latents.numpy(), output=output.numpy())
