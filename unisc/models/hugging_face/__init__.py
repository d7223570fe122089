"""Models to and from Hugging Face folders: one file an architecture, which states its names; `folder` reads and writes."""

from unisc.models.hugging_face.qwen3 import load_hf, read_config, save_hf
from unisc.models.hugging_face.siglip import load_vision_hf, read_vision_config, save_vision_hf

__all__ = ["load_hf", "load_vision_hf", "read_config", "read_vision_config", "save_hf", "save_vision_hf"]
