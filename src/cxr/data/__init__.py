"""Images and labels: sources, splits on disk, image files, quality, the phantom."""
