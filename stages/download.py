"""download: write the raw file of the configured source, one npz in ChestMNIST's layout."""

from pathlib import Path

from cxr import progress
from cxr.data import source, splits
from cxr.lineage.repository import Repository
from cxr.params import Params
from cxr.paths import RAW
from cxr.pipeline import stage


def download(run: stage.Stage) -> None:
    raw = run.output(RAW)
    raw.mkdir()
    title = f"download ({run.origin.source})"
    with progress.bar(title) as advance:
        source.get(
            run.params,
            raw / splits.RAW_FILE,
            run.work,
            run.project,
            Repository(run.project).object,
            advance,
        )
    splits.write_origin(run.origin, raw)
    progress.say(
        f"{title}: {run.origin.name}, {(raw / splits.RAW_FILE).stat().st_size / 1e6:.1f} MB"
    )


def users_files(params: Params, project: Path) -> tuple[Path, ...]:
    return tuple(source.own_files(params.download, project))


if __name__ == "__main__":
    stage.run("download", download, external_files=users_files)
