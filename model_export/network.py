"""Strip-MLP in PyTorch, as trained: the reference that every exported file is compared with.

Paper: Cao, Luo, Peng, Zhang, Wang: "Strip-MLP: Efficient Token Interaction for Vision MLP", ICCV 2023,
arXiv:2307.11458. Names of parameters are those of the authors' checkpoints, so that their state dicts
load key for key. Nothing is simplified here; `model_export.simplify` does that. Layout is NCHW.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.artifact import Architecture

STAGES = (1, 2, 3, 4)


def strip_groups(channels: int) -> int:
    """Groups among which the strip layers of a stage share their weights, from the stage's channels."""
    patch = 2 if channels % 80 == 0 else 4
    return int(0.5 * channels / patch)


class RelativePosition(nn.Module):
    """A learnt map (channels, side, side) whose value depends on column minus row alone."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.embeddings_table = nn.Parameter(torch.zeros(2 * side + 1, channels))
        nn.init.xavier_uniform_(self.embeddings_table)

    def forward(self) -> Tensor:
        index = torch.arange(self.side, device=self.embeddings_table.device)
        distance = (index[None, :] - index[:, None]).clamp(-self.side, self.side) + self.side
        return self.embeddings_table[distance].permute(2, 0, 1)


class Reweight(nn.Module):
    """The two 1x1 convolutions that weigh the three branches of the local strip mixing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 2, 1)
        self.fc2 = nn.Conv2d(channels // 2, 3 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class StripMixing(nn.Module):
    """Cascade group strip mixing on one half of the channels, local strip mixing on the other (section 3)."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        half = channels // 2
        self.side = side
        self.groups = strip_groups(channels)
        strips = side * self.groups
        self.BN = nn.BatchNorm2d(half)
        self.proj_h = nn.Conv2d(strips, strips, (1, 3), padding=(0, 1), groups=self.groups)
        self.proj_w = nn.Conv2d(strips, strips, (1, 3), padding=(0, 1), groups=self.groups)
        self.fuse_h = nn.Conv2d(channels, half, 1, bias=False)
        self.fuse_w = nn.Conv2d(channels, half, 1, bias=False)
        self.mlp = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        self.fc_h = nn.Conv2d(half, half, (3, 7), padding=(1, 3), groups=half, bias=False)
        self.fc_w = nn.Conv2d(half, half, (7, 3), padding=(3, 1), groups=half, bias=False)
        self.reweight = Reweight(half)
        self.fuse = nn.Conv2d(channels, channels, 1, bias=False)
        self.relate_pos_h = RelativePosition(half, side)
        self.relate_pos_w = RelativePosition(half, side)

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = functional.gelu(self.mlp(x)).chunk(2, dim=1)
        return self.fuse(torch.cat([self.cascade_group_mixing(x1), self.local_mixing(x2)], dim=1))

    def cascade_group_mixing(self, x: Tensor) -> Tensor:
        rows = self.mix_rows(x + self.relate_pos_h())
        fused = functional.gelu(self.BN(self.fuse_h(torch.cat([rows, x], dim=1))))
        columns = self.mix_columns(fused + self.relate_pos_w())
        return self.fuse_w(torch.cat([x, columns], dim=1))

    def mix_rows(self, x: Tensor) -> Tensor:
        """Within each group a linear map of whole rows to whole rows, with the rows above and below."""
        batch, channels, side, _ = x.shape
        shared = channels // self.groups
        # channel = shared index * groups + group; the convolution wants (group * side + column, shared, row)
        x = x.reshape(batch, shared, self.groups, side, side).permute(0, 2, 4, 1, 3)
        x = self.proj_h(x.reshape(batch, self.groups * side, shared, side))
        x = x.reshape(batch, self.groups, side, shared, side).permute(0, 3, 1, 4, 2)
        return x.reshape(batch, channels, side, side)

    def mix_columns(self, x: Tensor) -> Tensor:
        """The same along columns."""
        batch, channels, side, _ = x.shape
        shared = channels // self.groups
        x = x.reshape(batch, shared, self.groups, side, side).permute(0, 2, 3, 1, 4)
        x = self.proj_w(x.reshape(batch, self.groups * side, shared, side))
        x = x.reshape(batch, self.groups, side, shared, side).permute(0, 3, 1, 2, 4)
        return x.reshape(batch, channels, side, side)

    def local_mixing(self, x: Tensor) -> Tensor:
        wide, tall = self.fc_h(x), self.fc_w(x)
        mean = (tall + wide + x).mean(dim=(2, 3), keepdim=True)
        weights = self.reweight(mean).reshape(len(x), -1, 3).softmax(dim=2)[:, :, :, None, None]
        return tall * weights[:, :, 0] + wide * weights[:, :, 1] + x * weights[:, :, 2]


class ConvMerge(nn.Module):
    """BatchNorm, GELU and a depthwise 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.BN = nn.BatchNorm2d(channels)
        self.Conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.Conv(functional.gelu(self.BN(x)))


class DepthwiseConv(nn.Module):
    """Only a name between the token mixing and its convolution, as in the authors' state dicts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_merge = ConvMerge(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_merge(x)


class TokenMixing(nn.Module):
    """The depthwise convolution, then the strip mixing."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.smlp_block = StripMixing(channels, side)
        self.dwsc = DepthwiseConv(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.smlp_block(self.dwsc(x))


class GlobalResponseNorm(nn.Module):
    """GRN of ConvNeXt V2 (arXiv:2301.00808) on NHWC."""

    epsilon = 1e-6

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        norm = x.norm(p=2, dim=(1, 2), keepdim=True)
        norm = norm / (norm.mean(dim=-1, keepdim=True) + self.epsilon)
        return self.gamma * (x * norm) + self.beta + x


class ChannelMixing(nn.Module):
    """Depthwise 7x7 convolution and an MLP over channels with GRN; NHWC inside."""

    def __init__(self, channels: int, alpha: int) -> None:
        super().__init__()
        self.conv_77 = nn.Conv2d(channels, channels, 7, padding=3, groups=channels, bias=False)
        self.layer_norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, alpha * channels)
        self.fc2 = nn.Linear(alpha * channels, channels)
        self.grn = GlobalResponseNorm(alpha * channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer_norm(self.conv_77(x).permute(0, 2, 3, 1))
        x = self.fc2(self.grn(functional.gelu(self.fc1(x))))
        return x.permute(0, 3, 1, 2)


class Block(nn.Module):
    """Token mixing and channel mixing, each with its residual."""

    def __init__(self, channels: int, side: int, alpha: int) -> None:
        super().__init__()
        self.token_mixing = TokenMixing(channels, side)
        self.channel_mixing = ChannelMixing(channels, alpha)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token_mixing(x)
        return x + self.channel_mixing(x)


class StripMLP(nn.Module):
    """The whole network for inference: normalised pictures (batch, 3, size, size) to logits (batch, classes)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        c1, c2, c3, c4 = (architecture.stage_channels(stage) for stage in STAGES)
        patch = architecture.patch_size
        self.patch_embed = nn.Conv2d(3, c1, patch, stride=patch, bias=False)
        self.blocks1, self.blocks2, self.blocks3, self.blocks4 = (self._stage(stage) for stage in STAGES)
        self.merging1 = nn.Conv2d(c1, c2, 2, stride=2, bias=False)
        self.merging2 = nn.Conv2d(c2, c3, 2, stride=2, bias=False)
        self.merging3 = nn.Conv2d(c3, c4, 2, stride=2, bias=False)
        self.conv_s1_28 = nn.Conv2d(c2, c3, 2, stride=2, groups=c2, bias=False)
        self.conv_s1_14 = nn.Conv2d(c3, c4, 2, stride=2, groups=c3, bias=False)
        self.conv_s2_14 = nn.Conv2d(c3, c4, 2, stride=2, groups=c3, bias=False)
        self.norm = nn.BatchNorm2d(c4)
        self.head = nn.Linear(c4, architecture.num_classes)

    def _stage(self, stage: int) -> nn.Sequential:
        channels, side = self.architecture.stage_channels(stage), self.architecture.stage_side(stage)
        depth = self.architecture.depths[stage - 1]
        return nn.Sequential(*(Block(channels, side, self.architecture.alpha) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        y1 = self.merging1(self.blocks1(self.patch_embed(x)))
        skip1_3 = self.conv_s1_28(y1)
        skip1_4 = self.conv_s1_14(skip1_3)
        y2 = self.merging2(self.blocks2(y1))
        skip2_4 = self.conv_s2_14(y2)
        y3 = self.merging3(self.blocks3(y2 + skip1_3))
        y4 = self.norm(self.blocks4(y3 + skip1_4 + skip2_4))
        return self.head(y4.mean(dim=(2, 3)))
