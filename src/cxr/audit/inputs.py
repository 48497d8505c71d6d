"""What a result was made from, held against what there is now."""

import shlex
from contextlib import suppress
from typing import Any

from cxr.audit.finding import SHOWN, Finding, Where, fails, holds, note, same, some
from cxr.audit.project import Project
from cxr.data import source, splits
from cxr.errors import CxrError
from cxr.hashing import files_below
from cxr.lineage import facts
from cxr.lineage.archive import Found
from cxr.lineage.facts import CODE, RESULT_AFFECTING_PACKAGES, TO_LF, inside, select, with_crlf
from cxr.paths import PARAMS_FILE, PIPELINE_FILE, RAW

REPRO = "dvc repro"


def parameters(found: Found, project: Project) -> list[Finding]:
    """params.yaml now, for a result of the working copy."""
    made = found.record.facts.params
    declared = project.declared.get(found.record.stage)
    if found.current and declared is not None:
        now = _selected(project.params, declared.params)
        changed = [
            f"{name} is {now.get(name)!r} in {PARAMS_FILE}, this was made with {made.get(name)!r}"
            for name in {**made, **now}
            if not same(now.get(name), made.get(name))
        ]
        if changed:
            return [fails(Where.PARAMETERS, each, REPRO) for each in changed]
    return [holds(Where.PARAMETERS, _grouped(made))]


def code(found: Found, project: Project) -> list[Finding]:
    """The deciding code: as it is now, and as git keeps it."""
    findings = []
    if found.current:
        findings += _declaration(found, project) + _edits(found, project)
    facts = found.record.facts.code
    commit, deciding, edited = facts["commit"], facts["deciding"], set(facts["edited"])
    there = project.blobs_at(commit) if commit else None
    if commit is None:
        findings.append(note(Where.CODE, "made outside of git; its code can't be had again"))
    elif there is None:
        says = f"commit {commit[:10]} is not in this clone"
        findings.append(note(Where.CODE, says, project.repository.fetching_commits()))
    else:
        wrong = [
            path
            for path in deciding
            if path not in edited and there.get(path) != facts["files"].get(path)
        ]
        if wrong and not there:
            says = f"commit {commit[:10]} has no code in this folder of the repository"
            findings.append(note(Where.CODE, says))
        elif wrong:
            says = f"commit {commit[:10]} has another {some(wrong)} than the record says"
            findings.append(fails(Where.CODE, says))
    changed = sorted(edited & {*deciding, PIPELINE_FILE})
    extra = f" and {some(changed)} as edited then (the record has the patch)" if changed else ""
    says = f"{len(deciding)} files of commit {(commit or 'none')[:10]}{extra}"
    return findings or [holds(Where.CODE, says)]


def environment(found: Found) -> list[Finding]:
    """Packages and processor here, as notes: a result stays true on another machine."""
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
        return [note(Where.ENVIRONMENT, "made elsewhere: " + "; ".join(changed))]
    packages = ", ".join(f"{name} {was['packages'][name]}" for name in RESULT_AFFECTING_PACKAGES)
    threads = "1 thread" if was["threads"] == 1 else f"{was['threads']} threads"
    says = f"Python {was['python']}, {packages}; {was['cpu']}, device {was['device']}, {threads}"
    return [holds(Where.ENVIRONMENT, says)]


def sources(found: Found, project: Project) -> list[Finding]:
    """Where the data came from, and the user's own files that the parameters name."""
    facts, findings = found.record.facts, []
    for path, md5 in facts.foreign.items():
        place = project.root / path
        if not place.is_file():
            findings.append(note(Where.SOURCE, f"{path} (md5 {md5}) is not on this machine"))
        elif project.memory.md5(place) != md5 and not found.current:
            says = f"{path} has changed since (md5 {md5} then)"
            findings.append(note(Where.SOURCE, says))
        elif project.memory.md5(place) != md5:
            says = f"{path} has changed since: md5 {project.memory.md5(place)}, was {md5}"
            findings.append(fails(Where.SOURCE, says, f"dvc repro --force {found.record.stage}"))
        else:
            findings.append(holds(Where.SOURCE, f"{path}, md5 {md5}"))
    if RAW in found.record.outputs:
        findings += _raw(found, project)
    return findings


def inputs(found: Found, project: Project) -> list[Finding]:
    """What other stages made for this one: still what the working copy has."""
    if not found.current:
        return []
    return _made_anew(found, project) + _strangers(found, project)


def _selected(params: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The values that are there; a key that was taken out is a change like any other."""
    found: dict[str, Any] = {}
    for key in keys:
        with suppress(CxrError):
            found |= select(params, (key,))
    return found


def _grouped(made: dict[str, Any]) -> str:
    """Parameters in a sentence, those of one block under its name: `train.cnn: lr 0.002, …`."""
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
        return [fails(Where.CODE, f"{PIPELINE_FILE} has no stage {record.stage} any more", REPRO)]
    pairs: dict[str, tuple[Any, Any]] = {
        "command": (declared.command, record.facts.command),
        "dependencies": (set(declared.dependencies), set(record.facts.dependencies)),
        "outputs": (set(declared.outputs), set(found.outputs)),
    }
    return [
        fails(Where.CODE, f"{PIPELINE_FILE} declares other {what} for {record.stage} now", REPRO)
        for what, (now, then) in pairs.items()
        if now != then
    ]


def _edits(found: Found, project: Project) -> list[Finding]:
    """Deciding files that are not what they were; by blob, since times can lie."""
    facts = found.record.facts.code
    places = tuple(path for path in found.record.facts.dependencies if inside(path, CODE))
    then = {path: facts["files"][path] for path in facts["deciding"]}
    now = {path: blob for path, blob in project.code.items() if inside(path, places)}
    findings = []
    crlf = with_crlf(project.root, then)
    if crlf:
        says = f"{some(crlf)} as when this was made, but with Windows line endings"
        findings.append(fails(Where.CODE, says, TO_LF))
    for path in sorted((then.keys() | now.keys()) - set(crlf)):
        if then.get(path) == now.get(path):
            continue
        if path in facts["edited"] and now.get(path) == project.committed.get(path):
            how = "was edited when this was made, and is as committed now"
        elif path not in now:
            how = "is gone since this was made"
        elif path not in then:
            how = "is new since this was made"
        elif now[path] == project.committed.get(path):
            how = "was changed by a commit since this was made"
        else:
            how = "was edited (not committed) since this was made"
        findings.append(fails(Where.CODE, f"{path} {how}", REPRO))
    for place in places:
        digest = found.record.facts.dependencies[place]
        known = any(inside(path, (place,)) for path in then.keys() | now.keys())
        if findings or not known or not (project.root / place).exists():
            continue
        if project.digest(place).md5 != digest.md5:
            says = f"{place} has other files beside its code than when this was made"
            findings.append(fails(Where.CODE, says, REPRO))
    return findings


def _raw(found: Found, project: Project) -> list[Finding]:
    params = found.record.facts.params
    name = params["download.source"]
    if name == "phantom":
        counts = ", ".join(f"{params[f'download.phantom.{k}']:,} {k}" for k in splits.SPLITS)
        says = f"phantom, drawn from seed {params['seed']}: {counts}"
        return [holds(Where.SOURCE, says)]
    if name != "medmnist":
        return []
    size = params["download.size"]
    content = project.content(found, RAW)
    if content is None:
        return []  # nothing left to hold against the published MD5; the cache's note says so
    md5 = content.get(f"{RAW}/{splits.RAW_FILE}")
    if md5 != source.MD5S[size]:
        says = f"{RAW} has md5 {md5}, MedMNIST published {source.MD5S[size]}"
        return [fails(Where.SOURCE, says, "dvc repro --force download")]
    return [holds(Where.SOURCE, f"{source.URLS[size]}, published md5 {md5}")]


def _made_anew(found: Found, project: Project) -> list[Finding]:
    findings = []
    for path, md5 in found.record.facts.inputs.items():
        for other in project.archive.current.values():
            made = other.record.outputs.get(path)
            if other.trusted and made is not None and made.md5 != md5:
                says = f"made from {path} of md5 {md5}, but {other.record.stage} has made another"
                findings.append(fails(Where.INPUTS, f"{says} ({made.md5})", REPRO))
    return findings


def _strangers(found: Found, project: Project) -> list[Finding]:
    """Files beside the outputs of other stages in a folder that this stage reads whole."""
    declared = (path for each in project.declared.values() for path in each.outputs)
    outputs = (*declared, *(path for each in project.lock.values() for path in each.outputs))
    strange = []
    for folder in found.record.facts.dependencies:
        if inside(folder, (*CODE, *outputs)) or not (project.root / folder).is_dir():
            continue
        names = (f"{folder}/{name}" for name in files_below(project.root / folder))
        strange += [name for name in names if not inside(name, outputs)]
    if not strange:
        return []
    mend = f"rm -- {shlex.join(strange[:SHOWN])}"  # and the next audit names the next ones
    return [fails(Where.INPUTS, f"{some(strange)}: no stage made that, yet it is read", mend)]
