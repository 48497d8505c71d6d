"""How columns of ids, patients, attributes and labels are usually named: without separators."""

from collections.abc import Sequence

from cxr.labels import bare

# In order of preference.
ID_NAMES = (
    "imageindex", "imageid", "imageids", "image", "imagename", "imagenames", "imagefile",
    "imagefilename", "imagepath", "imagepaths", "img", "imgid", "imgname", "imgpath", "dicomid",
    "dicom", "sopinstanceuid", "filename", "filenames", "filepath", "file", "files", "path",
    "paths", "ids", "id", "name", "names",
)  # fmt: skip
PATIENT_NAMES = (
    "patients", "patient", "patientid", "patientids", "subjectid", "subject", "pid", "mrn", "patid",
)  # fmt: skip
ROW_NUMBER_NAMES = ("", "unnamed:0", "index", "rowid", "row")  # the first two are pandas' index
SPLIT_COLUMN_NAMES = ("split", "set", "subset", "fold", "dataset", "partition")
ATTRIBUTE_NAMES = {
    "sex": ("sex", "gender", "patientsex", "patientgender"),
    "age": ("age", "patientage", "ageatexam", "ageyears"),
    "view": ("view", "viewposition", "projection", "ap/pa"),
    "site": ("site", "hospital", "institution", "institutionname", "center", "centre"),
}
LIST_OF_LABELS = (
    "findinglabels", "labels", "label", "targets", "target", "findings", "classes",
)  # fmt: skip
NO_FINDING = ("nofinding", "nofindings")


def named(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """The column with the first of the known names."""
    by_name = {bare(name): name for name in reversed(columns)}
    return next((by_name[each] for each in known if each in by_name), None)
