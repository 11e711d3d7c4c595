"""The kinds of networks that a pipeline has, as `quant` calls its sections."""

from enum import StrEnum


class Section(StrEnum):
    """What says how a network is quantized."""

    VIDEO_GEN = "video_gen"  # the denoising networks, of images too
    TEXT_ENCODER = "text_encoder"
    IMAGE_ENCODER = "image_encoder"
