"""Image ids as users write them: with folders, URLs and file suffixes."""

import re

FILE_TYPE = re.compile(
    r"\.(png|jpe?g|tiff?|bmp|webp|gif|jp2|dcm|dicom|nii|npy|npz)(\.gz)?$", re.IGNORECASE
)


def stem(text: str) -> str:
    """An image's name without folder, URL query and file suffix: `x` for `a\\x.nii.gz`."""
    if "://" in text:
        text = re.split(r"[?#]", text)[0]
    return FILE_TYPE.sub("", re.split(r"[/\\]", text)[-1])
