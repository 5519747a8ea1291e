"""The shapes of kernels.py: layers of real nets, as data.

A line is: the net and the place in it, input shape, weight shape, options as PyTorch's. Sizes and
batches are those that the nets are trained or run with, the batch cut where a single call would
take long. Signals of one dimension are pictures of height 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Size = tuple[int, int, int, int]


@dataclass(frozen=True)
class Shape:
    """One layer.

    Attributes
    ----------
    name : where it comes from
    x : (N, in, H, W)
    weight : (out, in / groups, kh, kw); of a transposed convolution (in, out / groups, kh, kw)
    options : stride, padding and so on
    """

    name: str
    x: Size
    weight: Size
    options: dict[str, Any] = field(default_factory=dict)


def _options(
    stride: Any = 1, padding: Any = 0, extra: Any = 0, groups: int = 1, dilation: Any = 1
) -> dict[str, Any]:
    """Return the options that are not the default."""
    given = {
        "stride": (stride, 1),
        "padding": (padding, 0),
        "output_padding": (extra, 0),
        "groups": (groups, 1),
        "dilation": (dilation, 1),
    }
    return {name: value for name, (value, default) in given.items() if value != default}


_o = _options

TRANSPOSED = (
    Shape("DDNet deconv1", (16, 128, 32, 32), (128, 64, 3, 3), _o(2, 1)),
    Shape("DDNet deconv2", (16, 64, 63, 63), (64, 32, 3, 3), _o(2, 1)),
    Shape("DDNet deconv3", (16, 32, 125, 125), (32, 3, 3, 3), _o(2, 1)),
    Shape("DCGAN from noise 4x4", (64, 100, 1, 1), (100, 512, 4, 4)),
    Shape("DCGAN 4x4 s2, 4 to 8", (64, 512, 4, 4), (512, 256, 4, 4), _o(2, 1)),
    Shape("DCGAN 4x4 s2, 16 to 32", (64, 128, 16, 16), (128, 64, 4, 4), _o(2, 1)),
    Shape("DCGAN 4x4 s2, to image", (64, 64, 32, 32), (64, 3, 4, 4), _o(2, 1)),
    Shape("DCGAN in TF 5x5 s2, 8 to 16", (32, 256, 8, 8), (256, 128, 5, 5), _o(2, 2, 1)),
    Shape("pix2pix 4x4 s2, 2 to 4", (1, 1024, 2, 2), (1024, 512, 4, 4), _o(2, 1)),
    Shape("pix2pix 4x4 s2, 16 to 32", (1, 1024, 16, 16), (1024, 256, 4, 4), _o(2, 1)),
    Shape("pix2pix 4x4 s2, 64 to 128", (1, 256, 64, 64), (256, 64, 4, 4), _o(2, 1)),
    Shape("pix2pix 4x4 s2, to image", (1, 128, 128, 128), (128, 3, 4, 4), _o(2, 1)),
    Shape("U-Net 2x2 s2, 28 to 56", (1, 1024, 28, 28), (1024, 512, 2, 2), _o(2)),
    Shape("U-Net 2x2 s2, 52 to 104", (1, 512, 52, 52), (512, 256, 2, 2), _o(2)),
    Shape("U-Net 2x2 s2, 196 to 392", (1, 128, 196, 196), (128, 64, 2, 2), _o(2)),
    Shape("Mask R-CNN head 2x2 s2", (32, 256, 14, 14), (256, 256, 2, 2), _o(2)),
    Shape("FSRCNN 9x9 s2", (1, 56, 128, 128), (56, 1, 9, 9), _o(2, 4, 1)),
    Shape("FSRCNN 9x9 s3", (1, 56, 85, 85), (56, 1, 9, 9), _o(3, 4, 2)),
    Shape("FSRCNN 9x9 s4", (1, 56, 64, 64), (56, 1, 9, 9), _o(4, 4, 3)),
    Shape("FSRCNN 9x9 s2, patches", (64, 56, 10, 10), (56, 1, 9, 9), _o(2, 4, 1)),
    Shape("FCN-8s 16x16 s8", (1, 21, 70, 70), (21, 21, 16, 16), _o(8)),
    Shape("FCN-32s 64x64 s32", (1, 21, 16, 16), (21, 21, 64, 64), _o(32)),
    Shape("CycleGAN 3x3 s2, 64 to 128", (1, 256, 64, 64), (256, 128, 3, 3), _o(2, 1, 1)),
    Shape("CycleGAN 3x3 s2, 128 to 256", (1, 128, 128, 128), (128, 64, 3, 3), _o(2, 1, 1)),
    Shape("ERFNet 3x3 s2, 64x128", (1, 128, 64, 128), (128, 64, 3, 3), _o(2, 1, 1)),
    Shape("convolutional VAE 3x3 s2", (64, 64, 7, 7), (64, 32, 3, 3), _o(2, 1, 1)),
    Shape("DeconvNet 3x3 s1, 14", (1, 512, 14, 14), (512, 512, 3, 3), _o(1, 1)),
    Shape("pose baseline 4x4 s2, 16x12", (8, 256, 16, 12), (256, 256, 4, 4), _o(2, 1)),
    Shape("DLA depthwise 4x4 s2", (1, 256, 64, 64), (256, 1, 4, 4), _o(2, 1, 0, 256)),
    Shape("DLA depthwise 4x4 s2, batch 16", (16, 64, 64, 64), (64, 1, 4, 4), _o(2, 1, 0, 64)),
    Shape("StyleGAN2 3x3 s2, grouped", (1, 1024, 32, 32), (1024, 256, 3, 3), _o(2, 0, 0, 4)),
    Shape("dilated decoder 3x3 d2", (1, 128, 64, 64), (128, 128, 3, 3), _o(1, 2, 0, 1, 2)),
    Shape("dilated decoder 3x3 s2 d2", (4, 64, 48, 48), (64, 64, 3, 3), _o(2, 2, 1, 1, 2)),
    Shape("image codec 5x5 s2, 32x48", (1, 192, 32, 48), (192, 192, 5, 5), _o(2, 2, 1)),
    Shape("image codec 5x5 s2, to image", (1, 192, 64, 96), (192, 3, 5, 5), _o(2, 2, 1)),
    Shape("ZFNet reversed 7x7 s2", (1, 96, 110, 110), (96, 3, 7, 7), _o(2, 1, 1)),
    Shape(
        "HiFi-GAN 1x16 s8, training",
        (16, 512, 1, 32),
        (512, 256, 1, 16),
        _o((1, 8), (0, 4)),
    ),
    Shape(
        "HiFi-GAN 1x4 s2, training",
        (16, 128, 1, 2048),
        (128, 64, 1, 4),
        _o((1, 2), (0, 1)),
    ),
    Shape("HiFi-GAN 1x16 s8, speaking", (1, 512, 1, 200), (512, 256, 1, 16), _o((1, 8), (0, 4))),
    Shape("WaveGAN 1x25 s4", (4, 512, 1, 64), (512, 256, 1, 25), _o((1, 4), (0, 11), (0, 1))),
)

ORDINARY = (
    Shape("DDNet conv1", (16, 3, 32, 32), (32, 3, 3, 3), _o(1, 1)),
    Shape("DDNet conv3", (16, 64, 32, 32), (128, 64, 3, 3), _o(1, 1)),
    Shape("ResNet stem 7x7 s2", (1, 3, 224, 224), (64, 3, 7, 7), _o(2, 3)),
    Shape("ResNet stem 7x7 s2, batch 16", (16, 3, 224, 224), (64, 3, 7, 7), _o(2, 3)),
    Shape("ResNet 3x3, 56", (1, 64, 56, 56), (64, 64, 3, 3), _o(1, 1)),
    Shape("ResNet 3x3, 56, batch 16", (16, 64, 56, 56), (64, 64, 3, 3), _o(1, 1)),
    Shape("ResNet 3x3, 28, batch 16", (16, 128, 28, 28), (128, 128, 3, 3), _o(1, 1)),
    Shape("ResNet 3x3, 14", (1, 256, 14, 14), (256, 256, 3, 3), _o(1, 1)),
    Shape("ResNet 3x3, 14, batch 16", (16, 256, 14, 14), (256, 256, 3, 3), _o(1, 1)),
    Shape("ResNet 3x3, 7, batch 32", (32, 512, 7, 7), (512, 512, 3, 3), _o(1, 1)),
    Shape("ResNet 3x3 s2, 56 to 28, batch 16", (16, 128, 56, 56), (128, 128, 3, 3), _o(2, 1)),
    Shape("ResNet 1x1 expand, 56, batch 16", (16, 64, 56, 56), (256, 64, 1, 1)),
    Shape("ResNet 1x1 reduce, 56, batch 16", (16, 256, 56, 56), (64, 256, 1, 1)),
    Shape("ResNet 1x1 expand, 14", (1, 256, 14, 14), (1024, 256, 1, 1)),
    Shape("ResNet 1x1 reduce, 14, batch 16", (16, 1024, 14, 14), (256, 1024, 1, 1)),
    Shape("ResNet 1x1 s2, 56 to 28, batch 16", (16, 256, 56, 56), (512, 256, 1, 1), _o(2)),
    Shape("ResNeXt 3x3 grouped, 56, batch 16", (16, 128, 56, 56), (128, 4, 3, 3), _o(1, 1, 0, 32)),
    Shape("MobileNet depthwise 3x3, 56", (1, 144, 56, 56), (144, 1, 3, 3), _o(1, 1, 0, 144)),
    Shape(
        "MobileNet depthwise 3x3, 112, batch 16",
        (16, 32, 112, 112),
        (32, 1, 3, 3),
        _o(1, 1, 0, 32),
    ),
    Shape(
        "MobileNet depthwise 3x3 s2, 112, batch 16",
        (16, 96, 112, 112),
        (96, 1, 3, 3),
        _o(2, 1, 0, 96),
    ),
    Shape(
        "MobileNet depthwise 3x3, 14, batch 32",
        (32, 576, 14, 14),
        (576, 1, 3, 3),
        _o(1, 1, 0, 576),
    ),
    Shape("MobileNet 1x1 expand, 14, batch 32", (32, 96, 14, 14), (576, 96, 1, 1)),
    Shape(
        "EfficientNet depthwise 5x5, 28, batch 16",
        (16, 240, 28, 28),
        (240, 1, 5, 5),
        _o(1, 2, 0, 240),
    ),
    Shape("VGG 3x3, 224", (1, 64, 224, 224), (64, 64, 3, 3), _o(1, 1)),
    Shape("VGG 3x3, 56", (1, 256, 56, 56), (256, 256, 3, 3), _o(1, 1)),
    Shape("VGG 3x3, 14, batch 4", (4, 512, 14, 14), (512, 512, 3, 3), _o(1, 1)),
    Shape("Inception 5x5, 35, batch 16", (16, 48, 35, 35), (64, 48, 5, 5), _o(1, 2)),
    Shape("AlexNet 5x5, 27, batch 8", (8, 64, 27, 27), (192, 64, 5, 5), _o(1, 2)),
    Shape("DeepLab 3x3 d2, 33", (1, 512, 33, 33), (512, 512, 3, 3), _o(1, 2, 0, 1, 2)),
)

SMALL = Shape("8 channels, 8x8", (1, 8, 8, 8), (8, 8, 3, 3), _o(1, 1))
