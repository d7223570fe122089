"""Made `tests/models/siglip_tiny/` with transformers 5.23 and PyTorch 2.13: `python tests/models/siglip_tiny.py`.

A folder as `save_pretrained` writes it, of a random vision model, and what it makes of two images, so that the vision tower's
parity is tested where neither is installed.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

FOLDER = Path(__file__).parent / "siglip_tiny"


def main() -> None:
    """Write the folder anew."""
    config = transformers.SiglipVisionConfig(
        image_size=14, patch_size=4, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12
    )
    torch.manual_seed(0)
    model = transformers.SiglipVisionModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms start at 1 and biases at 0, which would hide their use
            parameter.add_(torch.randn_like(parameter) * 0.4)
    model.save_pretrained(FOLDER)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 14, 14, 3)).astype(np.float32)
    with torch.no_grad():
        found = model(pixel_values=torch.tensor(images).permute(0, 3, 1, 2))
    np.savez(FOLDER / "outputs.npz", images=images, hidden=found.last_hidden_state.numpy(), pooled=found.pooler_output.numpy())


if __name__ == "__main__":
    main()
