"""Checks of what a result was made from against the current state."""

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from cxr.audit.finding import SHOWN, Finding, Where, fails, holds, note, same, some
from cxr.audit.project import Project
from cxr.data import splits
from cxr.data.table import manifest
from cxr.errors import CxrError
from cxr.formatting import count
from cxr.hashing import files_below
from cxr.lineage import facts
from cxr.lineage.archive import Found
from cxr.lineage.facts import CODE, RESULT_AFFECTING_PACKAGES, TO_LF, inside, select, with_crlf
from cxr.paths import PARAMS_FILE, PIPELINE_FILE, RAW

REPRO = "dvc repro"
GRADCAM, MAPS = "gradcam", "maps"


def parameters(found: Found, project: Project) -> list[Finding]:
    """Check that params.yaml still has the values that a current result was made with."""
    made = found.record.facts.params
    declared = project.declared.get(found.record.stage)
    if found.current and declared is not None:
        now = _selected(project.params, declared.params)
        changed = [
            f"{name} is {now.get(name)!r} in {PARAMS_FILE}; this result was made with "
            f"{made.get(name)!r}"
            for name in {**made, **now}
            if not same(now.get(name), made.get(name))
        ]
        if changed:
            return [fails(Where.PARAMETERS, each, REPRO) for each in changed]
    return [holds(Where.PARAMETERS, _grouped(made))]


def code(found: Found, project: Project) -> list[Finding]:
    """Check the result-affecting code, in the working copy and in git."""
    findings = []
    if found.current:
        findings += _declaration(found, project) + _edits(found, project)
    facts = found.record.facts.code
    commit, affecting, edited = facts["commit"], facts["deciding"], set(facts["edited"])
    blobs = project.blobs_at(commit) if commit else None
    if commit is None:
        findings.append(note(Where.CODE, "made outside of git; its code cannot be restored"))
    elif blobs is None:
        says = f"commit {commit[:10]} is not in this clone"
        findings.append(note(Where.CODE, says, project.repository.fetching_commits()))
    else:
        wrong = [
            path
            for path in affecting
            if path not in edited and blobs.get(path) != facts["files"].get(path)
        ]
        if wrong and not blobs:
            says = f"commit {commit[:10]} has no code in this folder of the repository"
            findings.append(note(Where.CODE, says))
        elif wrong:
            says = f"commit {commit[:10]} lacks the recorded version of {some(wrong)}"
            findings.append(fails(Where.CODE, says))
    changed = sorted(edited & {*affecting, PIPELINE_FILE})
    extra = f", with uncommitted edits of {some(changed)} (patch in the record)" if changed else ""
    says = f"{count(len(affecting), 'file')} of commit {(commit or 'none')[:10]}{extra}"
    return findings or [holds(Where.CODE, says)]


def environment(found: Found) -> list[Finding]:
    """Check packages and processor; differences are notes, as results stay valid elsewhere."""
    was = found.record.facts.environment
    now = facts.environment(was["device"], was["threads"])
    changed = [
        f"{name} {was['packages'].get(name)} then, {version} now"
        for name, version in now["packages"].items()
        if was["packages"].get(name) != version
    ]
    changed += [
        f"{key} {was[key]} then, {now[key]} now"
        for key in ("python", "system", "machine", "cpu")
        if was[key] != now[key]
    ]
    if changed:
        return [note(Where.ENVIRONMENT, "made in a different environment: " + "; ".join(changed))]
    packages = ", ".join(f"{n} {was['packages'].get(n)}" for n in RESULT_AFFECTING_PACKAGES)
    threads = count(was["threads"], "thread")
    says = f"Python {was['python']}, {packages}; {was['cpu']}, device {was['device']}, {threads}"
    return [holds(Where.ENVIRONMENT, says)]


def sources(found: Found, project: Project) -> list[Finding]:
    """Check the origin of the data, and the user's own files that the parameters name."""
    facts, findings = found.record.facts, []
    for path, md5 in facts.foreign.items():
        file = project.root / path
        if not file.is_file():
            findings.append(note(Where.SOURCE, f"{path} (md5 {md5}) is not on this machine"))
        elif project.memory.md5(file) != md5 and not found.current:
            says = f"{path} has changed since this result was made (md5 was {md5})"
            findings.append(note(Where.SOURCE, says))
        elif project.memory.md5(file) != md5:
            says = (
                f"{path} has changed since this result was made: md5 is "
                f"{project.memory.md5(file)}, was {md5}"
            )
            findings.append(fails(Where.SOURCE, says, f"dvc repro --force {found.record.stage}"))
        else:
            findings.append(holds(Where.SOURCE, f"{path}, md5 {md5}"))
    if RAW in found.record.outputs:
        findings += _raw(found, project)
    return findings


def inputs(found: Found, project: Project) -> list[Finding]:
    """Check that the inputs of a current result are still what other stages made."""
    if not found.current:
        return []
    return _changed_inputs(found, project) + _unknown_files(found, project)


def _selected(params: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The values of the keys that exist; a removed key counts as a change."""
    found: dict[str, Any] = {}
    for key in keys:
        with suppress(CxrError):
            found |= select(params, (key,))
    return found


def _grouped(made: dict[str, Any]) -> str:
    """Parameters grouped by block: `train.cnn: lr 0.002, …`."""
    groups: dict[str, list[str]] = {}
    for name in sorted(made):
        *block, rest = name.split(".", 2) if name.startswith("train.") else name.split(".", 1)
        groups.setdefault(".".join(block), []).append(f"{rest} {made[name]}")
    return "; ".join(
        f"{block}: {', '.join(values)}" if block else ", ".join(values)
        for block, values in groups.items()
    )


def _declaration(found: Found, project: Project) -> list[Finding]:
    record = found.record
    declared = project.declared.get(record.stage)
    if declared is None:
        return [fails(Where.CODE, f"{PIPELINE_FILE} no longer has a stage {record.stage}", REPRO)]
    pairs: dict[str, tuple[Any, Any]] = {
        "command": (declared.command, record.facts.command),
        "dependencies": (set(declared.dependencies), set(record.facts.dependencies)),
        "outputs": (set(declared.outputs), set(found.outputs)),
    }
    return [
        fails(Where.CODE, f"the {what} of {record.stage} changed in {PIPELINE_FILE}", REPRO)
        for what, (now, then) in pairs.items()
        if now != then
    ]


def _edits(found: Found, project: Project) -> list[Finding]:
    """Result-affecting files that changed, by blob hash: modification times are not reliable."""
    facts = found.record.facts.code
    folders = tuple(path for path in found.record.facts.dependencies if inside(path, CODE))
    then = {path: facts["files"][path] for path in facts["deciding"]}
    now = {path: blob for path, blob in project.code.items() if inside(path, folders)}
    findings = []
    crlf = with_crlf(project.root, then)
    if crlf:
        says = f"Windows line endings in {some(crlf)}, otherwise unchanged"
        findings.append(fails(Where.CODE, says, TO_LF))
    for path in sorted((then.keys() | now.keys()) - set(crlf)):
        if then.get(path) == now.get(path):
            continue
        if path in facts["edited"] and now.get(path) == project.committed.get(path):
            how = "had uncommitted edits when this result was made and now matches HEAD"
        elif path not in now:
            how = "was deleted after this result was made"
        elif path not in then:
            how = "was added after this result was made"
        elif now[path] == project.committed.get(path):
            how = "was changed by a commit after this result was made"
        else:
            how = "was edited (not committed) after this result was made"
        findings.append(fails(Where.CODE, f"{path} {how}", REPRO))
    for folder in folders:
        digest = found.record.facts.dependencies[folder]
        has_code = any(inside(path, (folder,)) for path in then.keys() | now.keys())
        if findings or not has_code or not (project.root / folder).exists():
            continue
        if project.digest(folder).md5 != digest.md5:
            says = f"files in {folder} other than its code changed after this result was made"
            findings.append(fails(Where.CODE, says, REPRO))
    return findings


def _raw(found: Found, project: Project) -> list[Finding]:
    params = found.record.facts.params
    name = params["download.source"]
    if name == "phantom":
        counts = ", ".join(f"{params[f'download.phantom.{k}']:,} {k}" for k in splits.SPLITS)
        says = f"phantom images generated from seed {params['download.seed']}: {counts}"
        return [holds(Where.SOURCE, says)]
    if name == "table":
        return _images(found, project) if found.current else []
    if name != "medmnist":
        return []
    from cxr.data import source  # reads tables and downloads, whose libraries take a second

    size = params["download.size"]
    content = project.content(found, RAW)
    if content is None:
        return []  # nothing to compare with the published MD5; the check of the cache notes it
    md5 = content.get(f"{RAW}/{splits.RAW_FILE}")
    if md5 != source.MD5S[size]:
        says = f"{RAW} has md5 {md5}; the md5 published by MedMNIST is {source.MD5S[size]}"
        return [fails(Where.SOURCE, says, "dvc repro --force download")]
    return [holds(Where.SOURCE, f"{source.URLS[size]}, published md5 {md5}")]


def _images(found: Found, project: Project) -> list[Finding]:
    """Check the image files that the current raw file was read from."""
    try:
        entries = [each for each in manifest.read(project.root / RAW) if each.md5]
    except CxrError:
        return []  # the check of the outputs reports it
    files = {each.file: project.root / Path(each.file).expanduser() for each in entries}
    n_missing, changed = 0, []
    for entry in entries:
        if not files[entry.file].is_file():
            n_missing += 1
        elif project.memory.md5(files[entry.file], least=0) != entry.md5:
            changed.append(entry.file)
    if changed:
        says = f"{count(len(changed), 'image file')} changed since: {some(changed)}"
        return [fails(Where.SOURCE, says, f"dvc repro --force {found.record.stage}")]
    if n_missing:
        says = f"{n_missing:,} of {count(len(entries), 'image file')} are not on this machine"
        return [note(Where.SOURCE, says)]
    table = found.record.facts.params["download.path"]
    return [holds(Where.SOURCE, f"{count(len(entries), 'image file')} of {table}, unchanged")]


def _changed_inputs(found: Found, project: Project) -> list[Finding]:
    findings = []
    for path, md5 in found.record.facts.inputs.items():
        for other in project.archive.current.values():
            made = other.record.outputs.get(path)
            if other.trusted and made is not None and made.md5 != md5:
                stage = other.record.stage
                says = f"made from {path} with md5 {md5}; {stage} has since replaced it"
                if makes_maps(found.record.stage):
                    # An experiment of a sweep ends without maps; those on disk are of another one.
                    findings.append(note(Where.INPUTS, f"heat maps are out of date: {says}", REPRO))
                else:
                    findings.append(fails(Where.INPUTS, f"{says} (md5 {made.md5})", REPRO))
    return findings


def makes_maps(stage: str) -> bool:
    """Whether a stage only explains results, which are valid without it."""
    return stage == GRADCAM or stage.startswith(f"{MAPS}-")


def _unknown_files(found: Found, project: Project) -> list[Finding]:
    """Files that no stage made, in a folder that this stage reads whole."""
    declared = (path for each in project.declared.values() for path in each.outputs)
    outputs = (*declared, *(path for each in project.lock.values() for path in each.outputs))
    unknown = []
    for folder in found.record.facts.dependencies:
        if inside(folder, (*CODE, *outputs)) or not (project.root / folder).is_dir():
            continue
        names = (f"{folder}/{name}" for name in files_below(project.root / folder))
        unknown += [name for name in names if not inside(name, outputs)]
    if not unknown:
        return []
    fix = f"rm -- {shlex.join(unknown[:SHOWN])}"  # the next audit names the others
    return [
        fails(Where.INPUTS, f"{some(unknown)}: not made by any stage, but read by this stage", fix)
    ]
