"""Ids of images in the clothes that people give them: folders, addresses and file types."""

import re

FILE_TYPE = re.compile(
    r"\.(png|jpe?g|tiff?|bmp|webp|gif|jp2|dcm|dicom|nii|npy|npz)(\.gz)?$", re.IGNORECASE
)


def stem(text: str) -> str:
    """An image's name without folder, query of a URL and file type: `x` of `a\\x.nii.gz`."""
    if "://" in text:
        text = re.split(r"[?#]", text)[0]
    return FILE_TYPE.sub("", re.split(r"[/\\]", text)[-1])
