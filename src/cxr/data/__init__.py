"""Images and labels: sources, splits, image files, quality, synthetic images."""
