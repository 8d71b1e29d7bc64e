"""Builds the sdist and the wheel of a release: `python .ci/release.py FOLDER [--tag v1.2.3]`.

The same commit gives the same bytes. The wheel does by itself where SOURCE_DATE_EPOCH is set, which is the time of the
commit unless it is set already; an sdist of setuptools holds times, owners and the order of a file system, so it is
packed anew. With `--tag` the version has to be that of the tag. It needs the package `build`.
"""

import argparse
import gzip
import io
import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def version() -> str:
    """The version that `pyproject.toml` names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def require_tag(tag: str) -> None:
    """Leave with a message where the tag is not that of the version."""
    if tag != f"v{version()}":
        sys.exit(f"the tag {tag} is not v{version()}, which pyproject.toml names")


def packed_anew(sdist: bytes, moment: int) -> bytes:
    """The same files in order of their names, as of `moment`, of nobody, and with plain modes."""
    written = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(sdist), mode="r:gz") as source,
        gzip.GzipFile(fileobj=written, mode="wb", filename="", mtime=moment) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in sorted(source.getmembers(), key=lambda each: each.name):
            content = source.extractfile(member) if member.isfile() else None
            plain = tarfile.TarInfo(member.name)
            plain.type, plain.size, plain.linkname = member.type, member.size, member.linkname
            plain.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            plain.mtime = moment
            target.addfile(plain, content)
    return written.getvalue()


def epoch() -> int:
    """SOURCE_DATE_EPOCH, or the time of the commit."""
    if told := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(told)
    return int(subprocess.check_output(["git", "log", "-1", "--format=%ct"], cwd=ROOT, text=True))  # noqa: S607


def build(folder: Path, *options: str) -> list[Path]:
    """Both files, in `folder`. `options` are those of `python -m build`."""
    moment = epoch()
    command = [sys.executable, "-m", "build", *options, "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, env=os.environ | {"SOURCE_DATE_EPOCH": str(moment)})
    [sdist] = folder.glob(f"bnfold-{version()}.tar.gz")
    sdist.write_bytes(packed_anew(sdist.read_bytes(), moment))
    return sorted(folder.glob(f"bnfold-{version()}*"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tag", help="the tag that the release is made of")
    parser.add_argument("--no-isolation", action="store_true", help="build with what is installed")
    given = parser.parse_args()
    if given.tag is not None:
        require_tag(given.tag)
    for path in build(given.folder, *(["--no-isolation"] if given.no_isolation else [])):
        print(path)
