"""Image sets: where they come from, how they are decoded and split."""

from apq.images.sets import SPLITS, ImageSet, load_images, require_same_images

__all__ = ["SPLITS", "ImageSet", "load_images", "require_same_images"]
