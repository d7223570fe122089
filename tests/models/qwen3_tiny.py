"""Made `tests/models/qwen3_tiny/` with transformers 5.23 and PyTorch 2.13: `python tests/models/qwen3_tiny.py`.

A folder as `save_pretrained` writes it, of a random model, and its logits on a padded batch, so that the decoder's parity is
tested where neither is installed.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

FOLDER = Path(__file__).parent / "qwen3_tiny"


def main() -> None:
    """Write the folder anew."""
    config = transformers.Qwen3Config(
        vocab_size=23, hidden_size=8, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
        intermediate_size=12, tie_word_embeddings=True, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if "norm" in name else 0.4))
    model.save_pretrained(FOLDER)
    (FOLDER / "generation_config.json").unlink(missing_ok=True)
    tokens = np.random.default_rng(0).integers(0, 23, (3, 9))
    valid = np.arange(9) >= np.array([[0], [5], [2]])
    place = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
    given = {"input_ids": tokens, "attention_mask": valid.astype(int), "position_ids": place}
    with torch.no_grad():
        logits = model(**{name: torch.tensor(x) for name, x in given.items()}).logits.numpy()
    np.savez(FOLDER / "logits.npz", tokens=tokens, valid=valid, logits=logits)


if __name__ == "__main__":
    main()
