"""DeepLabV3+: atrous spatial pyramid and decoder (Chen et al., ECCV 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dualteacher.models.heads.layers import convolution, initialise_classifier, resize
from dualteacher.system.errors import UserError


class DeepLabV3PlusHead(nn.Module):
    """Atrous spatial pyramid at stride 16, decoder at stride 4 (Chen et al. 2018, arXiv 1802.02611)."""

    RATES = (6, 12, 18)
    LOW_LEVEL = 48  # channels of the reduced fine map, few enough not to outweigh the pyramid

    def __init__(
        self, channels: Sequence[int], width: int, num_classes: int, dropout: float, norm: str = "batch"
    ) -> None:
        super().__init__()
        self.any_batch = norm != "batch"
        fine, coarse = channels
        self.pointwise = convolution(coarse, width, 1, norm)
        self.atrous = nn.ModuleList(convolution(coarse, width, 3, norm, rate) for rate in self.RATES)
        self.pooled = convolution(coarse, width, 1, norm)
        self.project = convolution((2 + len(self.RATES)) * width, width, 1, norm)
        self.low_level = convolution(fine, self.LOW_LEVEL, 1, norm)
        self.decoder = nn.Sequential(
            convolution(width + self.LOW_LEVEL, width, 3, norm), convolution(width, width, 3, norm)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialise_classifier(self.classifier)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """[(B, C_4, h, w), (B, C_16, h', w')] → (B, num_classes, h, w)."""
        fine, coarse = levels
        pyramid = resize(self.pyramid(coarse), fine.shape[-2:])
        decoded = self.decoder(torch.cat([pyramid, self.low_level(fine)], dim=1))
        return self.classifier(self.dropout(decoded))

    def pyramid(self, coarse: Tensor) -> Tensor:
        """(B, C_16, h', w') → (B, width, h', w'): five parallel branches with different fields of view."""
        if self.training and coarse.shape[0] == 1 and not self.any_batch:
            raise UserError(
                "model.architecture = deeplabv3plus: batch normalisation after its image pooling needs at least two"
                " images per training batch; set batch.labelled to at least 2, or model.head_norm to group"
            )
        pooled = self.pooled(coarse.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *coarse.shape[-2:])
        atrous = [branch(coarse) for branch in self.atrous]
        return self.project(torch.cat([self.pointwise(coarse), *atrous, pooled], dim=1))
