"""Prints what a table of images would be read as, and the parameters that read it."""

import io

from rich.table import Table
from rich.text import Text
from ruamel.yaml import YAML

from cxr.cli.terminal import console
from cxr.data.proposal import Preview, describe
from cxr.data.splits import SPLITS
from cxr.data.table.listing import Listing
from cxr.formatting import count


def show(preview: Preview, path: str, is_proposal: bool) -> None:
    """Print counts by split and label, problems, notes and the block of params.yaml.

    Parameters
    ----------
    is_proposal : whether the parameters are a proposal, not those of params.yaml.
    """
    console.print(Text(f"{path}: {count(preview.rows, 'row')}"))
    if preview.listing is not None:
        console.print(_counts(preview.listing))
    for problem in preview.problems:
        console.print(Text(f"✗ {problem}", style="red"))
    for note in preview.notes:
        console.print(Text(f"! {note}"))
    if is_proposal:
        console.print(
            "\nTo train on these images, replace these keys of download in params.yaml, then run "
            "`cxr table`:\n"
        )
        console.print(Text(block(preview, path)))
    elif not preview.problems:
        console.print("params.yaml fits the table; run `make repro`")


def block(preview: Preview, path: str) -> str:
    """`download` of params.yaml in YAML, without the keys that a table does not determine."""
    table = preview.settings.model_dump(mode="json")
    labels = table["labels"]
    if isinstance(labels, dict) and all(name == column for name, column in labels.items()):
        table["labels"] = [*labels]
    yaml = YAML()
    yaml.width = 4096
    yaml.default_flow_style = None  # inner lists and mappings in one line
    yaml.representer.add_representer(
        type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    text = io.StringIO()
    yaml.dump({"download": {"source": "table", "path": path, "table": table}}, text)
    return text.getvalue().rstrip()


def _counts(read: Listing) -> Table:
    """Images and patients of each split, and positive images of each label."""
    splits = {split: describe(read, split) for split in SPLITS}
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for split in SPLITS:
        table.add_column(split, justify="right")
    table.add_row("images", *(f"{each['images']:,}" for each in splits.values()))
    if read.patients is not None:
        table.add_row("patients", *(f"{each['patients']:,}" for each in splits.values()))
    for name in read.label_names:
        values = [each["labels"][name] for each in splits.values()]
        table.add_row(Text(name), *map(_values, values))
    return table


def _values(values: dict[str, int]) -> str:
    unknown = f" ({values['unknown']:,} unknown)" if values["unknown"] else ""
    return f"{values['positive']:,}{unknown}"
