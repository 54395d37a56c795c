"""The variants that the authors publish (their paper's table 1)."""

from dataclasses import dataclass

from service.artifact import Architecture


@dataclass(frozen=True)
class Variant:
    """A published name and what fixes it; patch 4 and 224 px are common to all."""

    name: str
    embed_dim: int
    depths: tuple[int, int, int, int]

    def architecture(self, num_classes: int = 1000) -> Architecture:
        return Architecture(
            embed_dim=self.embed_dim, depths=self.depths, patch_size=4, image_size=224, num_classes=num_classes
        )


VARIANTS = (
    Variant("Strip-MLP-T*", 80, (2, 2, 6, 2)),
    Variant("Strip-MLP-T", 80, (2, 2, 12, 2)),
    Variant("Strip-MLP-S", 96, (2, 2, 18, 2)),
    Variant("Strip-MLP-B", 112, (2, 2, 18, 2)),
)


def variant_name(architecture: Architecture) -> str | None:
    """The published variant with this architecture, whatever its number of classes."""
    for variant in VARIANTS:
        if variant.architecture(architecture.num_classes) == architecture:
            return variant.name
    return None
