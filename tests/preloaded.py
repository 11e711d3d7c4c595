"""What a run imports on its way, imported once for all processes of `tests.processes`."""

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline  # noqa: F401
from transformers import CLIPVisionModel, UMT5EncoderModel  # noqa: F401

import llmc.run  # noqa: F401

torch.set_num_threads(1)
