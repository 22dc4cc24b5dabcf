"""The networks as PyTorch modules, written from the papers; channels first, as PyTorch has them.

Beside each, what makes it another network: a test that compares must see that it is another.
"""

import functools
import math

import torch
from torch import nn

CLASSES, WIDTH = 3, 1 / 16


class Mlp(nn.Sequential):
    def __init__(self, classes=CLASSES, width=WIDTH, pixels=3072):
        hidden = round(64 * width)
        layers = [nn.Linear(pixels, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, classes)]
        gelu = lambda: nn.GELU(approximate="tanh")
        super().__init__(nn.Flatten(), layers[0], gelu(), layers[1], gelu(), layers[2])


class Cnn(nn.Module):
    """`average` is not the paper's: its pooling is the maximum."""

    def __init__(self, classes=CLASSES, width=WIDTH, pixels=2, average=False):
        super().__init__()
        pool = nn.AvgPool2d(2) if average else nn.MaxPool2d(2)
        blocks, inputs = [], 3
        for outputs in (round(channels * width) for channels in (32, 64, 128)):
            blocks += [
                nn.Conv2d(inputs, outputs, 3, padding="same"),
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, padding="same"),
                nn.ReLU(),
                pool,
            ]
            inputs = outputs
        self.features = nn.Sequential(*blocks)
        hidden = round(512 * width)
        self.dense, self.logits = nn.Linear(pixels * inputs, hidden), nn.Linear(hidden, classes)

    def forward(self, images):
        values = self.features(images).permute(0, 2, 3, 1).flatten(1)
        return self.logits(torch.relu(self.dense(values)))

    def params(self, read):
        convs = [part for part in self.features if isinstance(part, nn.Conv2d)]
        names = [f"block{block}_conv{conv}" for block in (1, 2, 3) for conv in (1, 2)]
        named = dict(zip(names, convs, strict=True))
        named |= {"dense": self.dense, "logits": self.logits}
        return {name: of_layer(module, read) for name, module in named.items()}


class Bottleneck(nn.Module):
    def __init__(self, inputs, channels, stride, stride_first):
        super().__init__()
        outputs = 4 * channels
        first, second = (stride, 1) if stride_first else (1, stride)
        self.reduce = conv_norm(inputs, channels, 1, first)
        self.spatial = conv_norm(channels, channels, 3, second)
        self.expand = conv_norm(channels, outputs, 1, 1)
        if inputs != outputs or stride != 1:
            self.shortcut = conv_norm(inputs, outputs, 1, stride)

    def forward(self, values):
        inner = torch.relu(self.spatial(torch.relu(self.reduce(values))))
        around = self.shortcut(values) if hasattr(self, "shortcut") else values
        return torch.relu(self.expand(inner) + around)


class ResNet50(nn.Module):
    """`stride_first` is version 1: the stride in the first 1×1 convolution of a block."""

    def __init__(self, classes=CLASSES, width=WIDTH, stride_first=False):
        super().__init__()
        first = round(64 * width)
        self.stem, self.blocks, inputs = conv_norm(3, first, 3, 1), nn.ModuleDict(), first
        for stage, count in enumerate((3, 4, 6, 3)):
            channels = round(64 * 2**stage * width)
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage + 1}_block{block + 1}"
                self.blocks[name] = Bottleneck(inputs, channels, stride, stride_first)
                inputs = 4 * channels
        self.logits = nn.Linear(inputs, classes)

    def forward(self, images):
        values = torch.relu(self.stem(images))
        for block in self.blocks.values():
            values = block(values)
        return self.logits(values.mean((2, 3)))

    def _tree(self, of):
        blocks = {
            name: {part: of(module) for part, module in block.named_children()}
            for name, block in self.blocks.items()
        }
        return {"stem": of(self.stem)} | blocks

    def params(self, read):
        pair = lambda m: {"conv": of_layer(m[0], read), "norm": of_layer(m[1], read)}
        return self._tree(pair) | {"logits": of_layer(self.logits, read)}

    def state(self):
        return self._tree(lambda m: {"mean": m[1].running_mean, "variance": m[1].running_var})


class Block(nn.Module):
    def __init__(self, width, heads, size, hidden):
        super().__init__()
        self.heads, self.size = heads, size
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * size, bias=False)
        self.out = nn.Linear(heads * size, width, bias=False)
        self.dense1, self.dense2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, values):
        split = [
            part.unflatten(-1, (self.heads, self.size)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(values)).chunk(3, dim=-1)
        ]
        scores = split[0] @ split[1].transpose(-1, -2) * self.size**-0.5
        mixed = torch.softmax(scores, dim=-1) @ split[2]
        values = values + self.out(mixed.transpose(1, 2).flatten(2))
        hidden = nn.functional.gelu(self.dense1(self.mlp_norm(values)))
        return values + self.dense2(hidden)

    def params(self, read):
        norms_and_dense = ("attention_norm", "mlp_norm", "dense1", "dense2")
        qkv, out = (read(part.weight).T for part in (self.qkv, self.out))
        return {name: of_layer(getattr(self, name), read) for name in norms_and_dense} | {
            "attention": {
                "qkv": qkv.unflatten(1, (3, self.heads, self.size)),
                "out": out.unflatten(0, (self.heads, self.size)),
            }
        }


class SimpleViT(nn.Module):
    """Without `norm_after` a layer norm behind the patches' projection is missing."""

    def __init__(self, classes=CLASSES, width=WIDTH, norm_after=True):
        super().__init__()
        tokens, heads, hidden = (round(size * width) for size in (512, 16, 1024))
        self.norm_before, self.dense = nn.LayerNorm(48), nn.Linear(48, tokens)
        self.norm_after, self.with_norm_after = nn.LayerNorm(tokens), norm_after
        self.blocks = nn.ModuleList(Block(tokens, heads, 64, hidden) for _ in range(6))
        self.norm, self.logits = nn.LayerNorm(tokens), nn.Linear(tokens, classes)

    def forward(self, images):
        pixels = images.permute(0, 2, 3, 1).unfold(1, 4, 4).unfold(2, 4, 4)
        pixels = pixels.permute(0, 1, 2, 4, 5, 3).flatten(3)  # batch, row, column, pixel
        values = self.dense(self.norm_before(pixels))
        values = self.norm_after(values) if self.with_norm_after else values
        places = self.places(*values.shape[1:]).to(values.dtype)
        values = (values + places).flatten(1, 2)
        for block in self.blocks:
            values = block(values)
        return self.logits(self.norm(values).mean(1))

    @staticmethod
    @functools.cache
    def places(rows, columns, width):
        result = torch.empty(rows, columns, width, dtype=torch.float64)
        quarter = width // 4
        for row in range(rows):
            for column in range(columns):
                for i in range(quarter):
                    wave = 10_000 ** (i / (quarter - 1))
                    for k, place in enumerate((column, row)):
                        angle = place / wave
                        result[row, column, 2 * k * quarter + i] = math.sin(angle)
                        result[row, column, (2 * k + 1) * quarter + i] = math.cos(angle)
        return result

    def params(self, read):
        first = {n: of_layer(getattr(self, n), read) for n in ("norm_before", "dense")}
        first["norm_after"] = of_layer(self.norm_after, read)
        blocks = {f"block{i + 1}": block.params(read) for i, block in enumerate(self.blocks)}
        last = {"norm": of_layer(self.norm, read), "logits": of_layer(self.logits, read)}
        return {"patches": first} | blocks | last


def conv_norm(inputs, outputs, size, stride):
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def of_layer(module, read):
    """The arrays of a layer of PyTorch as we lay them out."""
    if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
        return {"scale": read(module.weight), "shift": read(module.bias)}
    order = (2, 3, 1, 0) if isinstance(module, nn.Conv2d) else (1, 0)
    weight = {"weight": read(module.weight).permute(order)}
    return weight | ({} if module.bias is None else {"bias": read(module.bias)})
